//! For CPUs without a kernel of their own; the compiler vectorizes it as well as it can.

use contract::vector::vectorized;

use super::kernel::{COLS, COLS_F32, Kernel, Line, QUAD, Tile};

pub(super) const KERNEL: Kernel = Kernel {
    signed: true,
    tile,
    tile_f32,
};

fn tile(rows: &[u8], lines: &[Line], out: &mut Tile) {
    let stride = lines.len() / 2 * QUAD;
    vectorized(
        #[inline(always)]
        || {
            for (row, out) in rows.chunks_exact(stride).zip(&mut out.0) {
                let mut sums = [0i32; COLS];
                let (pairs, _) = lines.as_chunks::<2>();
                for (quad, pair) in row.chunks_exact(QUAD).zip(pairs) {
                    let x = [0, 1, 2, 3].map(|i| i16::from(quad[i] as i8));
                    for (half, line) in pair.iter().enumerate() {
                        for col in 0..16 {
                            let product =
                                |i: usize| i32::from(x[i] * i16::from(line.0[col * QUAD + i]));
                            sums[half * 16 + col] +=
                                (product(0) + product(1)) + (product(2) + product(3));
                        }
                    }
                }
                *out = sums;
            }
        },
    );
}

fn tile_f32(rows: &[f32], k: usize, panels: &[[f32; COLS_F32]], out: &mut [f32], stride: usize) {
    vectorized(
        #[inline(always)]
        || {
            for (part, panel) in panels.chunks_exact(k).enumerate() {
                let mut outs = out.chunks_mut(stride);
                let (fours, rest) = (
                    rows.chunks_exact(4 * k),
                    rows.chunks_exact(4 * k).remainder(),
                );
                for rows in fours {
                    for sums in sums::<4>(rows, panel) {
                        put(&mut outs, part, sums);
                    }
                }
                for row in rest.chunks_exact(k) {
                    let [sums] = sums::<1>(row, panel);
                    put(&mut outs, part, sums);
                }
            }
        },
    );
}

#[inline(always)]
fn put<'a>(outs: &mut impl Iterator<Item = &'a mut [f32]>, part: usize, sums: [f32; COLS_F32]) {
    if let Some(out) = outs.next() {
        out[part * COLS_F32..][..COLS_F32].copy_from_slice(&sums);
    }
}

/// M rows of K values times a panel (K, 16), one product after the other.
#[inline(always)]
fn sums<const M: usize>(rows: &[f32], panel: &[[f32; COLS_F32]]) -> [[f32; COLS_F32]; M] {
    let k = panel.len();
    let mut sums = [[0.0f32; COLS_F32]; M];
    for (i, line) in panel.iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = rows[row * k + i];
            for (sum, &weight) in sums.iter_mut().zip(line) {
                *sum = x.mul_add(weight, *sum);
            }
        }
    }
    sums
}
