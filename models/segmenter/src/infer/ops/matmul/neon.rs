//! ARM: `sdot` where the CPU has it (Cortex-A55, A76 and later), else products of bytes widened to 16 bits (A53, A72).

use std::arch::aarch64::{
    float32x4_t, int8x8_t, int8x16_t, int32x4_t, vdup_n_s32, vdupq_n_f32, vdupq_n_s32, vfmaq_n_f32,
    vget_high_s8, vget_low_s8, vld1q_f32, vld1q_s8, vmlal_s8, vmull_s8, vpadalq_s16, vpaddq_s32,
    vreinterpret_s8_s32, vreinterpretq_s8_s32, vst1q_f32, vst1q_s32,
};
use std::arch::is_aarch64_feature_detected;

use super::{COLS, COLS_F32, Kernel, Line, QUAD, ROWS, Tile};

const DOT: Kernel = Kernel {
    signed: true,
    tile: dot_tile,
    tile_f32,
};
const WIDEN: Kernel = Kernel {
    signed: true,
    tile: widen_tile,
    tile_f32,
};

pub(super) fn kernel() -> Kernel {
    if is_aarch64_feature_detected!("dotprod") {
        DOT
    } else {
        WIDEN
    }
}

/// All that this CPU can run.
#[cfg(test)]
pub(super) fn kernels() -> Vec<(&'static str, Kernel)> {
    let mut all = vec![("widen", WIDEN)];
    if is_aarch64_feature_detected!("dotprod") {
        all.push(("dot", DOT));
    }
    all
}

/// A quarter of a line: four columns.
const COLS_A_REGISTER: usize = 4;
/// Columns of a line.
const COLS_A_LINE: usize = COLS / 2;

fn dot_tile(rows: &[u8], lines: &[Line], out: &mut Tile) {
    let stride = lines.len() / 2 * QUAD;
    for (rows, out) in rows.chunks(4 * stride).zip(out.0.chunks_mut(4)) {
        for half in 0..2 {
            #[expect(
                unsafe_code,
                reason = "the instructions of this CPU, checked in `kernel`"
            )]
            // SAFETY: this function is given out only where the CPU has `dotprod`.
            unsafe {
                match rows.len() / stride {
                    4 => dot::<4>(rows, lines, half, out),
                    3 => dot::<3>(rows, lines, half, out),
                    2 => dot::<2>(rows, lines, half, out),
                    _ => dot::<1>(rows, lines, half, out),
                }
            }
        }
    }
}

/// The sums of 16 columns of M rows: 4 M registers.
#[target_feature(enable = "neon,dotprod")]
fn dot<const M: usize>(rows: &[u8], lines: &[Line], half: usize, out: &mut [[i32; COLS]]) {
    let rows = quads::<M>(rows, lines);
    let mut sums = [[vdupq_n_s32(0); 4]; M];
    for (k, pair) in lines.as_chunks::<2>().0.iter().enumerate() {
        let weights: [int8x16_t; 4] = std::array::from_fn(|i| load(&pair[half], i));
        for row in 0..M {
            let x = i32::from_le_bytes(four(rows[row], k));
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
            for i in 0..4 {
                sums[row][i] = sdot(sums[row][i], weights[i], x);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (i, &sums) in sums.iter().enumerate() {
            store(sums, out, half * COLS_A_LINE + i * COLS_A_REGISTER);
        }
    }
}

/// `vdotq_s32` is not in stable Rust.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    #[expect(unsafe_code, reason = "one instruction on registers")]
    // SAFETY: it touches neither memory nor flags.
    unsafe {
        std::arch::asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

fn widen_tile(rows: &[u8], lines: &[Line], out: &mut Tile) {
    let stride = lines.len() / 2 * QUAD;
    for (rows, out) in rows.chunks(2 * stride).zip(out.0.chunks_mut(2)) {
        for half in 0..2 {
            #[expect(unsafe_code, reason = "NEON is part of every 64-bit ARM CPU")]
            // SAFETY: as the reason says.
            unsafe {
                if rows.len() == 2 * stride {
                    widen::<2>(rows, lines, half, out);
                } else {
                    widen::<1>(rows, lines, half, out);
                }
            }
        }
    }
}

/// The sums of 16 columns of M rows, two to a column until the end: 8 M registers. Two products of bytes fit into 16
/// bits, as weights have no -128.
#[target_feature(enable = "neon")]
fn widen<const M: usize>(rows: &[u8], lines: &[Line], half: usize, out: &mut [[i32; COLS]]) {
    let rows = quads::<M>(rows, lines);
    let twice = |x: [u8; QUAD]| vreinterpret_s8_s32(vdup_n_s32(i32::from_le_bytes(x)));
    let nothing = twice([0; QUAD]);
    let pairs = lines.as_chunks::<2>().0;
    let mut sums = [[[vdupq_n_s32(0); 2]; 4]; M];
    let (fours, last) = pairs.as_chunks::<2>();
    for (k, lines) in fours.iter().enumerate() {
        let x: [[int8x8_t; 2]; M] =
            std::array::from_fn(|row| [0, 1].map(|i| twice(four(rows[row], 2 * k + i))));
        for i in 0..4 {
            let weights = [load(&lines[0][half], i), load(&lines[1][half], i)];
            for row in 0..M {
                add(&mut sums[row][i], weights, x[row]);
            }
        }
    }
    if let [pair] = last {
        let k = pairs.len() - 1;
        for i in 0..4 {
            let weights = load(&pair[half], i);
            for row in 0..M {
                add(
                    &mut sums[row][i],
                    [weights, weights],
                    [twice(rows[row][k]), nothing],
                );
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (i, &sums) in sums.iter().enumerate() {
            let sums = vpaddq_s32(sums[0], sums[1]);
            store(sums, out, half * COLS_A_LINE + i * COLS_A_REGISTER);
        }
    }
}

/// Four columns, eight values along K.
#[target_feature(enable = "neon")]
#[inline]
fn add(sums: &mut [int32x4_t; 2], weights: [int8x16_t; 2], x: [int8x8_t; 2]) {
    let low = vmull_s8(vget_low_s8(weights[0]), x[0]);
    let low = vmlal_s8(low, vget_low_s8(weights[1]), x[1]);
    let high = vmull_s8(vget_high_s8(weights[0]), x[0]);
    let high = vmlal_s8(high, vget_high_s8(weights[1]), x[1]);
    sums[0] = vpadalq_s16(sums[0], low);
    sums[1] = vpadalq_s16(sums[1], high);
}

fn quads<'a, const M: usize>(rows: &'a [u8], lines: &[Line]) -> [&'a [[u8; QUAD]]; M] {
    const { assert!(M <= ROWS) }
    let stride = lines.len() / 2 * QUAD;
    std::array::from_fn(|row| rows[row * stride..][..stride].as_chunks().0)
}

/// `row[k]`, for `k` below half the number of lines.
#[inline(always)]
fn four(row: &[[u8; QUAD]], k: usize) -> [u8; QUAD] {
    debug_assert!(k < row.len());
    #[expect(unsafe_code, reason = "a comparison beside four multiplications")]
    // SAFETY: `quads` has cut every row to half as many fours as there are lines.
    unsafe {
        *row.get_unchecked(k)
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load(line: &Line, quarter: usize) -> int8x16_t {
    let quarter: &[i8; 16] = &line.0.as_chunks().0[quarter];
    #[expect(unsafe_code, reason = "a load of sixteen bytes")]
    // SAFETY: the array has sixteen.
    unsafe {
        vld1q_s8(quarter.as_ptr())
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn store(sums: int32x4_t, out: &mut [i32; COLS], at: usize) {
    let out = &mut out[at..][..COLS_A_REGISTER];
    #[expect(unsafe_code, reason = "a store of four integers")]
    // SAFETY: `out` has four.
    unsafe {
        vst1q_s32(out.as_mut_ptr(), sums);
    }
}

fn tile_f32(rows: &[f32], k: usize, panels: &[[f32; COLS_F32]], out: &mut [f32], stride: usize) {
    for (part, panel) in panels.chunks_exact(k).enumerate() {
        let start = part * COLS_F32;
        for (rows, out) in rows.chunks(4 * k).zip(out.chunks_mut(4 * stride)) {
            #[expect(unsafe_code, reason = "NEON is part of every 64-bit ARM CPU")]
            // SAFETY: as the reason says.
            unsafe {
                if rows.len() == 4 * k {
                    sums_f32::<4>(rows, panel, &mut out[start..], stride);
                } else {
                    for (row, out) in rows.chunks_exact(k).zip(out.chunks_mut(stride)) {
                        sums_f32::<1>(row, panel, &mut out[start..], stride);
                    }
                }
            }
        }
    }
}

/// M rows times a panel: 4 M sums of four columns.
#[target_feature(enable = "neon")]
fn sums_f32<const M: usize>(
    rows: &[f32],
    panel: &[[f32; COLS_F32]],
    out: &mut [f32],
    stride: usize,
) {
    let k = panel.len();
    assert!(rows.len() == M * k);
    let mut sums = [[vdupq_n_f32(0.0); 4]; M];
    for (i, line) in panel.iter().enumerate() {
        let weights: [float32x4_t; 4] = std::array::from_fn(|part| {
            let part: &[f32; 4] = &line.as_chunks().0[part];
            #[expect(unsafe_code, reason = "a load of four floats")]
            // SAFETY: the array has four.
            unsafe {
                vld1q_f32(part.as_ptr())
            }
        });
        for (row, sums) in sums.iter_mut().enumerate() {
            #[expect(unsafe_code, reason = "a comparison beside sixteen multiplications")]
            // SAFETY: `rows` has M times K values, as was asserted, and `i` is below K.
            let x = unsafe { *rows.get_unchecked(row * k + i) };
            for (sum, &weights) in sums.iter_mut().zip(&weights) {
                *sum = vfmaq_n_f32(*sum, weights, x);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_mut(stride)) {
        for (part, &sums) in sums.iter().enumerate() {
            let out = &mut out[part * COLS_A_REGISTER..][..COLS_A_REGISTER];
            #[expect(unsafe_code, reason = "a store of four floats")]
            // SAFETY: `out` has four.
            unsafe {
                vst1q_f32(out.as_mut_ptr(), sums);
            }
        }
    }
}
