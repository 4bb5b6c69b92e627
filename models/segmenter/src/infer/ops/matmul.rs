//! Rows (M, K) times a matrix (K, N) in panels: int8 by int8 to int32, and f32 with one fused multiply-add after the
//! other along K. Both give the same bits on every processor; what [`half`] rounds does not.

mod cpu;
mod float;
#[cfg(any(not(target_arch = "aarch64"), test))]
mod generic;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use self::cpu::half;
use self::cpu::kernel;
pub(crate) use self::float::{PackedF32, RowsF32};
pub(crate) use self::kernel::{COLS, COLS_F32, Half, ROWS, TILE_COLS, TILE_ROWS, Tile, TileF32};
use self::kernel::{Line, QUAD};

/// An int8 matrix as the kernels read it: panels of [`COLS`] columns, in each for every four values along K two
/// [`Line`]s. What is missing to whole panels and fours is zero.
pub(crate) struct PackedI8 {
    pub(crate) k: usize,
    pub(crate) n: usize,
    lines: Vec<Line>,
    /// Which of the 256 steps of an activation is zero.
    zero_point: u8,
    /// What that adds to every column's sum.
    surplus: Vec<i32>,
}

impl PackedI8 {
    /// `weights` is (K, N), row by row; of the activations' 256 steps `zero_point` is zero.
    pub(crate) fn new(weights: &[i8], k: usize, n: usize, zero_point: u8) -> Self {
        assert_eq!(weights.len(), k * n, "weights of {k} x {n}");
        let (quads, panels) = (k.div_ceil(QUAD), n.div_ceil(COLS));
        let mut lines = vec![Line([0; 64]); panels * quads * 2];
        for (row, values) in weights.chunks_exact(n.max(1)).enumerate() {
            for (col, &value) in values.iter().enumerate() {
                let (panel, inside) = (col / COLS, col % COLS);
                let line = (panel * quads + row / QUAD) * 2 + inside / 16;
                lines[line].0[inside % 16 * QUAD + row % QUAD] = value;
            }
        }
        let mut sums = vec![0; panels * COLS];
        for values in weights.chunks_exact(n.max(1)) {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += i32::from(value);
            }
        }
        let zero = i32::from(zero_point) + if kernel().signed { -128 } else { 0 };
        Self {
            k,
            n,
            lines,
            zero_point,
            surplus: sums.iter().map(|sum| sum * zero).collect(),
        }
    }

    /// An activation of zero as the kernels take it.
    pub(super) fn zero(&self) -> u8 {
        let signed = if kernel().signed { 128 } else { 0 };
        self.zero_point.wrapping_sub(signed)
    }

    /// Values to steps of a scale, given by its reciprocal, ties to even and clipped, as the kernels take them: `out`
    /// has `stride` bytes for each row of `width` values.
    #[inline(always)]
    pub(super) fn quantize(
        &self,
        values: &[f32],
        [width, stride]: [usize; 2],
        reciprocal: f32,
        out: &mut [u8],
    ) {
        /// 1.5 * 2^23: added to a small number it leaves the nearest integer in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let (low, high) = (
            -f32::from(self.zero_point),
            255.0 - f32::from(self.zero_point),
        );
        let zero = self.zero();
        for (row, out) in values.chunks_exact(width).zip(out.chunks_exact_mut(stride)) {
            for (out, &value) in out.iter_mut().zip(row) {
                let steps = (value * reciprocal).clamp(low, high) + ROUND;
                *out = (steps.to_bits() as u8).wrapping_add(zero);
            }
        }
    }

    /// Bytes from one row of activations to the next.
    pub(super) fn stride(&self) -> usize {
        self.k.div_ceil(QUAD) * QUAD
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(COLS)
    }

    /// Sums of the columns of `panel` over rows of activations, [`Self::stride`] bytes each, to be lessened by
    /// [`Self::surplus`]. `out` has a tile for every [`ROWS`] rows.
    pub(super) fn multiply(&self, rows: &[u8], panel: usize, out: &mut [Tile]) {
        let size = self.lines.len() / self.panels();
        let lines = &self.lines[panel * size..][..size];
        let stride = self.stride();
        for (rows, tile) in rows.chunks(ROWS * stride).zip(out) {
            (kernel().tile)(rows, lines, tile);
        }
    }

    pub(super) fn surplus(&self, panel: usize) -> &[i32; COLS] {
        let (panels, _) = self.surplus.as_chunks::<COLS>();
        &panels[panel]
    }
}

#[cfg(test)]
mod tests {
    use super::kernel::Kernel;
    use super::*;

    pub(super) fn bytes(n: usize, seed: u32) -> impl Iterator<Item = i8> {
        (0..n as u32).map(move |i| {
            let mixed = (i ^ seed).wrapping_mul(0x85eb_ca6b);
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0xc2b2_ae35);
            (mixed >> 24) as i8
        })
    }

    /// Every kernel of this CPU; all on ARM under qemu.
    pub(super) fn kernels() -> Vec<(&'static str, Kernel)> {
        let mut all = vec![("generic", generic::KERNEL)];
        #[cfg(target_arch = "x86_64")]
        all.extend(x86::kernel().map(|kernel| ("avx512vnni", kernel)));
        #[cfg(target_arch = "aarch64")]
        all.extend(neon::kernels());
        all
    }

    #[test]
    fn kernels_multiply_exactly() {
        for (name, kernel) in kernels() {
            for (m, k, n) in [
                (8, 64, 32),
                (1, 1, 1),
                (3, 7, 33),
                (5, 1280, 70),
                (8, 2304, 32),
            ] {
                let weights: Vec<i8> = bytes(k * n, 1).map(|w| w.max(-127)).collect();
                let mut rows: Vec<u8> = bytes(m * k, 2).map(i8::cast_unsigned).collect();
                // The sums that would overflow first.
                rows[..k].fill(if kernel.signed { 128 } else { 255 });
                let packed = PackedI8::new(&weights, k, n, 0);
                let mut taken = vec![0u8; m * packed.stride()];
                for (row, taken) in rows.chunks(k).zip(taken.chunks_mut(packed.stride())) {
                    taken[..k].copy_from_slice(row);
                }
                let as_taken = |byte: u8| {
                    if kernel.signed {
                        i32::from(byte.cast_signed())
                    } else {
                        i32::from(byte)
                    }
                };
                for panel in 0..packed.panels() {
                    let size = packed.lines.len() / packed.panels();
                    let mut tile = Tile::default();
                    (kernel.tile)(&taken, &packed.lines[panel * size..][..size], &mut tile);
                    for row in 0..m {
                        for col in 0..COLS.min(n - panel * COLS) {
                            let col = panel * COLS + col;
                            let product = |i: usize| {
                                as_taken(rows[row * k + i]) * i32::from(weights[i * n + col])
                            };
                            let wanted: i32 = (0..k).map(product).sum();
                            let found = tile.0[row][col % COLS];
                            assert_eq!(found, wanted, "{name} {m} x {k} x {n}: {row}, {col}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn values_are_rounded_to_even_and_clipped() {
        for (zero_point, wanted) in [(0, [0, 2, 0, 255, 0]), (128, [128, 130, 128, 255, 0])] {
            let packed = PackedI8::new(&[1; 5], 5, 1, zero_point);
            let mut out = [9; 8];
            packed.quantize(&[0.5, 1.5, -0.5, 300.0, -300.0], [5, 8], 1.0, &mut out);
            let back = zero_point.wrapping_sub(packed.zero());
            let found = out.map(|byte| byte.wrapping_add(back));
            assert_eq!(found[..5], wanted);
        }
    }
}
