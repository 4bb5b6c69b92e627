//! The bias of attention in a window, which depends on how far a key lies from a query: a table that stays in the first
//! cache, where a value for every pair of tokens would come from memory.

#[derive(Debug)]
pub(crate) struct RelativeBias {
    /// Of the window.
    side: usize,
    /// (heads, 2 side - 1, 2 side - 1), the largest distance down and to the right last.
    table: Vec<f32>,
}

impl RelativeBias {
    /// `pairs` is (heads, N, N), N tokens in a window; `None` where pairs that lie alike differ or one is no number.
    pub(crate) fn new(pairs: &[f32], side: usize) -> Option<Self> {
        let (area, reach) = (side * side, 2 * side - 1);
        let heads = pairs.len() / (area * area);
        let mut bias = Self {
            side,
            table: vec![f32::NAN; heads * reach * reach],
        };
        for (row, values) in pairs.chunks_exact(area).enumerate() {
            let (head, token) = (row / area, row % area);
            for (y, values) in values.chunks_exact(side).enumerate() {
                let start = bias.start(head, token, y);
                for (known, &value) in bias.table[start..].iter_mut().zip(values) {
                    if known.is_nan() {
                        *known = value;
                    }
                    if value.is_nan() || known.to_bits() != value.to_bits() {
                        return None;
                    }
                }
            }
        }
        Some(bias)
    }

    pub(crate) fn heads(&self) -> usize {
        self.table.len() / (2 * self.side - 1).pow(2)
    }

    /// Adds to the scores (N) of a token with every other.
    #[inline(always)]
    pub(super) fn add(&self, scores: &mut [f32], head: usize, token: usize) {
        match self.side {
            8 => self.add_rows::<8>(scores, head, token),
            16 => self.add_rows::<16>(scores, head, token),
            side => {
                for (y, scores) in scores.chunks_exact_mut(side).enumerate() {
                    let bias = &self.table[self.start(head, token, y)..][..side];
                    for (score, bias) in scores.iter_mut().zip(bias) {
                        *score += bias;
                    }
                }
            }
        }
    }

    /// The same for a side that the compiler knows.
    #[inline(always)]
    fn add_rows<const SIDE: usize>(&self, scores: &mut [f32], head: usize, token: usize) {
        // From one row of keys to the next is a row of the table.
        let mut table = &self.table[self.start(head, token, 0)..];
        for scores in scores.as_chunks_mut::<SIDE>().0 {
            // A copy, or for all that the compiler knows the scores lie in the table.
            let bias: [f32; SIDE] = *table.first_chunk().expect("a row of the table");
            for i in 0..SIDE {
                scores[i] += bias[i];
            }
            table = table.get(2 * SIDE - 1..).unwrap_or_default();
        }
    }

    /// Where the biases of a token with those of row `y` begin.
    #[inline(always)]
    fn start(&self, head: usize, token: usize, y: usize) -> usize {
        let (side, reach) = (self.side, 2 * self.side - 1);
        let down = y + side - 1 - token / side;
        (head * reach + down) * reach + side - 1 - token % side
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_gives_back_every_pair() {
        for side in [3, 8, 16] {
            let (area, heads) = (side * side, 2);
            let of = |head: usize, from: usize, to: usize| {
                let down = to as f32 / side as f32;
                let down = down.floor() - (from as f32 / side as f32).floor();
                let right = (to % side) as f32 - (from % side) as f32;
                100.0 * down + right + head as f32 / 2.0
            };
            let mut pairs = Vec::new();
            for head in 0..heads {
                for from in 0..area {
                    pairs.extend((0..area).map(|to| of(head, from, to)));
                }
            }
            let bias = RelativeBias::new(&pairs, side).unwrap();
            assert_eq!(bias.heads(), heads);
            for (row, wanted) in pairs.chunks(area).enumerate() {
                let mut scores = vec![0.0; area];
                bias.add(&mut scores, row / area, row % area);
                assert_eq!(scores, wanted, "side {side}, row {row}");
            }
            for wrong in [pairs[0] + 1.0, f32::NAN] {
                pairs[0] = wrong;
                assert!(RelativeBias::new(&pairs, side).is_none(), "{wrong}");
            }
        }
    }
}
