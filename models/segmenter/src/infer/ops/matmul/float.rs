//! Products of f32, or of f32 rounded to 16 bits where that was asked for and this CPU multiplies such numbers.

use super::cpu::kernel;
use super::kernel::{COLS_F32, Half, Pair, TILE_COLS, TILE_ROWS};

/// Along K there are whole eights of 16-bit numbers; zeros fill the last.
const EIGHT: usize = 8;

/// A matrix (K, N) in panels (K, 16), zero where columns are missing.
#[derive(Debug)]
pub(crate) struct PackedF32 {
    pub(crate) k: usize,
    pub(crate) n: usize,
    lines: Vec<[f32; COLS_F32]>,
    half: Option<&'static Half>,
    /// The lines as `half` takes them.
    pairs: Vec<Pair>,
}

impl PackedF32 {
    /// `weights` is (K, N), row by row.
    pub(crate) fn new(weights: &[f32], k: usize, n: usize, half: Option<&'static Half>) -> Self {
        assert_eq!(weights.len(), k * n, "weights of {k} x {n}");
        let mut packed = Self::zeros(k, n, half);
        let lines = packed.lines_mut();
        for (row, values) in weights.chunks_exact(n.max(1)).enumerate() {
            for (panel, values) in values.chunks(COLS_F32).enumerate() {
                lines[panel * k + row][..values.len()].copy_from_slice(values);
            }
        }
        packed.round();
        if half.is_some() {
            packed.lines = Vec::new();
        }
        packed
    }

    /// To be filled through [`Self::lines_mut`].
    pub(crate) fn zeros(k: usize, n: usize, half: Option<&'static Half>) -> Self {
        let panels = n.div_ceil(COLS_F32);
        let pairs = half.map_or(0, |_| panels * eights(k) / 2);
        Self {
            k,
            n,
            lines: vec![[0.0; COLS_F32]; panels * k],
            half,
            pairs: vec![Pair([0; 2 * COLS_F32]); pairs],
        }
    }

    /// The panels, (K, 16) each, as they were left; call [`Self::round`] when they are written.
    pub(crate) fn lines_mut(&mut self) -> &mut [[f32; COLS_F32]] {
        &mut self.lines
    }

    pub(crate) fn round(&mut self) {
        if let Some(half) = self.half {
            let pairs = self.pairs.chunks_exact_mut(eights(self.k) / 2);
            for (lines, pairs) in self.lines.chunks_exact(self.k).zip(pairs) {
                (half.pairs)(lines, pairs);
            }
        }
    }

    /// Two panels a tile.
    pub(crate) fn tiles(&self) -> usize {
        self.n.div_ceil(TILE_COLS)
    }

    /// Space for so many rows of K values, where [`Self::rows`] wants it.
    pub(crate) fn space(&self, rows: usize) -> Vec<u16> {
        vec![0; self.half.map_or(0, |_| rows * eights(self.k))]
    }

    /// Rows of K values as this matrix multiplies them.
    pub(crate) fn rows<'a>(&self, values: &'a [f32], space: &'a mut [u16]) -> RowsF32<'a> {
        let Some(half) = self.half else {
            return RowsF32::Whole(values);
        };
        let stride = eights(self.k);
        let space = &mut space[..values.len() / self.k * stride];
        // Rows that need no zeros are one.
        let row = if stride == self.k {
            values.len()
        } else {
            self.k
        };
        let places = space.chunks_mut(row.next_multiple_of(EIGHT));
        for (row, place) in values.chunks(row).zip(places) {
            (half.round)(row, place);
        }
        RowsF32::Half(half, space)
    }

    /// Products of up to [`TILE_ROWS`] rows, those from `first` on, and the columns of a tile into rows of `out` that
    /// are `stride` values apart.
    #[inline]
    pub(crate) fn multiply(
        &self,
        rows: RowsF32,
        first: usize,
        tile: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        let panels = 2 * tile..(2 * tile + 2).min(self.n.div_ceil(COLS_F32));
        match rows {
            RowsF32::Whole(rows) => {
                let lines = &self.lines[panels.start * self.k..panels.end * self.k];
                let rows = of_a_tile(rows, self.k, first);
                (kernel().tile_f32)(rows, self.k, lines, out, stride);
            }
            RowsF32::Half(half, rows) => {
                let k = eights(self.k);
                let pairs = &self.pairs[panels.start * k / 2..panels.end * k / 2];
                (half.tile)(of_a_tile(rows, k, first), k, pairs, out, stride);
            }
        }
    }
}

/// Rows to multiply, see [`PackedF32::rows`].
#[derive(Clone, Copy)]
pub(crate) enum RowsF32<'a> {
    Whole(&'a [f32]),
    Half(&'static Half, &'a [u16]),
}

fn eights(k: usize) -> usize {
    k.next_multiple_of(EIGHT)
}

fn of_a_tile<T>(rows: &[T], k: usize, first: usize) -> &[T] {
    let rows = &rows[first * k..];
    &rows[..rows.len().min(TILE_ROWS * k)]
}

#[cfg(test)]
mod tests {
    use super::super::cpu::half;
    use super::super::kernel::TileF32;
    use super::super::tests::{bytes, kernels};
    use super::*;

    #[test]
    fn kernels_add_one_fused_product_after_the_other() {
        for (name, kernel) in kernels() {
            for (m, k, panels) in [(8, 32, 2), (5, 7, 1), (1, 1, 2), (8, 33, 1), (7, 3, 2)] {
                let small = |byte: i8| f32::from(byte) / 37.0;
                let rows: Vec<f32> = bytes(m * k, 3).map(small).collect();
                let lines: Vec<f32> = bytes(panels * k * COLS_F32, 4).map(small).collect();
                let (stride, (lines, _)) = (40, lines.as_chunks());
                let mut out = vec![0.0; m * stride];
                (kernel.tile_f32)(&rows, k, lines, &mut out, stride);
                for row in 0..m {
                    for col in 0..panels * COLS_F32 {
                        let (panel, lane) = (col / COLS_F32, col % COLS_F32);
                        let wanted = (0..k).fold(0f32, |sum, i| {
                            rows[row * k + i].mul_add(lines[panel * k + i][lane], sum)
                        });
                        let found = out[row * stride + col];
                        assert_eq!(found.to_bits(), wanted.to_bits(), "{name} {m} {k} {panels}");
                    }
                }
            }
        }
    }

    /// bf16 without instructions for it: what packs and hands out rows and panels is tested on every CPU.
    static PLAIN: Half = Half {
        name: "plain bf16",
        round: |row, out| {
            out.fill(0);
            for (&x, out) in row.iter().zip(out) {
                *out = upper(x);
            }
        },
        pairs: |lines, out| {
            for (lines, out) in lines.chunks(2).zip(out) {
                for (line, half) in lines.iter().zip(out.0.as_chunks_mut::<COLS_F32>().0) {
                    *half = line.map(upper);
                }
            }
        },
        tile: |rows, k, panels, out, stride| {
            for (row, out) in rows.chunks_exact(k).zip(out.chunks_mut(stride)) {
                for (panel, out) in panels.chunks_exact(k / 2).zip(out.chunks_mut(COLS_F32)) {
                    let lines = panel
                        .iter()
                        .flat_map(|pair| pair.0.as_chunks::<COLS_F32>().0);
                    out.fill(0.0);
                    for (&x, line) in row.iter().zip(lines) {
                        for (sum, &weight) in out.iter_mut().zip(line) {
                            *sum += whole(x) * whole(weight);
                        }
                    }
                }
            }
        },
    };

    fn upper(x: f32) -> u16 {
        ((x.to_bits() + 0x8000) >> 16) as u16
    }

    fn whole(upper: u16) -> f32 {
        f32::from_bits(u32::from(upper) << 16)
    }

    /// Against f64: factors are rounded to 8 bits, or to 11 as are the sums of 32 products.
    #[test]
    fn sixteen_bits_are_as_good_as_they_say() {
        let shapes = [
            (8, 32, 32),
            (5, 7, 16),
            (1, 1, 3),
            (8, 33, 70),
            (9, 256, 33),
        ];
        let halves = [Some(&PLAIN), half()].into_iter().flatten();
        let small = |byte: i8| f32::from(byte) / 37.0;
        for (half, (m, k, n)) in halves.flat_map(|half| shapes.map(|shape| (half, shape))) {
            let rows: Vec<f32> = bytes(m * k, 3).map(small).collect();
            let weights: Vec<f32> = bytes(k * n, 4).map(small).collect();
            let packed = PackedF32::new(&weights, k, n, Some(half));
            let mut space = packed.space(m);
            space.fill(0x7e00); // not a number
            let taken = packed.rows(&rows, &mut space);
            for first in (0..m).step_by(TILE_ROWS) {
                for tile in 0..packed.tiles() {
                    let mut out = TileF32::default();
                    packed.multiply(taken, first, tile, out.as_flattened_mut(), TILE_COLS);
                    for row in first..m.min(first + TILE_ROWS) {
                        for col in tile * TILE_COLS..n.min((tile + 1) * TILE_COLS) {
                            let products = (0..k).map(|i| {
                                f64::from(rows[row * k + i]) * f64::from(weights[i * n + col])
                            });
                            let (wanted, most) = products
                                .fold((0.0, 0.0), |(sum, most), it| (sum + it, most + it.abs()));
                            let found = f64::from(out[row - first][col % TILE_COLS]);
                            let error = (found - wanted).abs();
                            let place = format!("{} {m} x {k} x {n}: {row}, {col}", half.name);
                            assert!(error <= most / 256.0, "{place}: {found} for {wanted}");
                        }
                    }
                }
            }
        }
    }
}
