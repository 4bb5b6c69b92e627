//! ARM: `sdot` where the CPU has it (Cortex-A55, A76 and later), else products of bytes widened to 16 bits (A53, A72).

pub(super) mod f16;

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vfmaq_n_f32,
    vld1q_f32, vld1q_s8, vpaddq_s32, vreinterpretq_s8_s32, vst1q_f32, vst1q_s32,
};
use std::arch::is_aarch64_feature_detected;

use super::kernel::{COLS, COLS_F32, Kernel, Line, QUAD, ROWS, Tile};

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

/// The sums of 16 columns of M rows: 4 M registers. A row's bytes are loaded for four steps along K at once.
#[target_feature(enable = "neon,dotprod")]
fn dot<const M: usize>(rows: &[u8], lines: &[Line], half: usize, out: &mut [[i32; COLS]]) {
    let rows = quads::<M>(rows, lines);
    let mut sums = [[vdupq_n_s32(0); 4]; M];
    let (fours, rest) = lines.as_chunks::<8>();
    for (k, lines) in fours.iter().enumerate() {
        let x: [int8x16_t; M] = std::array::from_fn(|row| sixteen(rows[row], k));
        step::<M, 0>(&mut sums, &lines[half], &x);
        step::<M, 1>(&mut sums, &lines[2 + half], &x);
        step::<M, 2>(&mut sums, &lines[4 + half], &x);
        step::<M, 3>(&mut sums, &lines[6 + half], &x);
    }
    for (k, pair) in rest.as_chunks::<2>().0.iter().enumerate() {
        let x = std::array::from_fn(|row| repeated(four(rows[row], 4 * fours.len() + k)));
        step::<M, 0>(&mut sums, &pair[half], &x);
    }
    for (sums, out) in sums.iter().zip(out) {
        for (i, &sums) in sums.iter().enumerate() {
            store(sums, out, half * COLS_A_LINE + i * COLS_A_REGISTER);
        }
    }
}

/// One line times the four bytes at `LANE` of every row.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn step<const M: usize, const LANE: i32>(
    sums: &mut [[int32x4_t; 4]; M],
    line: &Line,
    x: &[int8x16_t; M],
) {
    for i in 0..4 {
        let weights = load(line, i);
        for row in 0..M {
            sums[row][i] = sdot::<LANE>(sums[row][i], weights, x[row]);
        }
    }
}

/// `vdotq_laneq_s32` is not in stable Rust.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot<const LANE: i32>(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    #[expect(unsafe_code, reason = "one instruction on registers")]
    // SAFETY: it touches neither memory nor flags.
    unsafe {
        std::arch::asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
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
    let nothing = vdupq_n_s8(0);
    let pairs = lines.as_chunks::<2>().0;
    let mut sums = [[[vdupq_n_s32(0); 2]; 4]; M];
    let (fours, last) = pairs.as_chunks::<2>();
    for (k, lines) in fours.iter().enumerate() {
        let x: [[int8x16_t; 2]; M] =
            std::array::from_fn(|row| [0, 1].map(|i| repeated(four(rows[row], 2 * k + i))));
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
                    [repeated(rows[row][k]), nothing],
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

/// Four columns, eight values along K. Written out, because the compiler runs out of registers and moves sums about.
#[target_feature(enable = "neon")]
#[inline]
fn add(sums: &mut [int32x4_t; 2], weights: [int8x16_t; 2], x: [int8x16_t; 2]) {
    #[expect(unsafe_code, reason = "six instructions on registers")]
    // SAFETY: they touch neither memory nor flags.
    unsafe {
        std::arch::asm!(
            "smull {low:v}.8h, {w0:v}.8b, {x0:v}.8b",
            "smull2 {high:v}.8h, {w0:v}.16b, {x0:v}.16b",
            "smlal {low:v}.8h, {w1:v}.8b, {x1:v}.8b",
            "smlal2 {high:v}.8h, {w1:v}.16b, {x1:v}.16b",
            "sadalp {s0:v}.4s, {low:v}.8h",
            "sadalp {s1:v}.4s, {high:v}.8h",
            low = out(vreg) _,
            high = out(vreg) _,
            w0 = in(vreg) weights[0],
            w1 = in(vreg) weights[1],
            x0 = in(vreg) x[0],
            x1 = in(vreg) x[1],
            s0 = inout(vreg) sums[0],
            s1 = inout(vreg) sums[1],
            options(pure, nomem, nostack, preserves_flags),
        );
    }
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

/// `row[4 * k..4 * k + 4]`, for `k` below an eighth of the number of lines.
#[target_feature(enable = "neon")]
#[inline]
fn sixteen(row: &[[u8; QUAD]], k: usize) -> int8x16_t {
    debug_assert!(4 * k + 4 <= row.len());
    #[expect(unsafe_code, reason = "a comparison beside sixteen multiplications")]
    // SAFETY: `quads` has cut every row to half as many fours as there are lines.
    unsafe {
        vld1q_s8(row.as_ptr().add(4 * k).cast())
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn repeated(x: [u8; QUAD]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x)))
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
