//! Half precision (Cortex-A55, A76 and later): eight products an instruction. Sums are f16 for [`BLOCK`] products, then
//! they are added up as f32.

use std::arch::aarch64::{
    float16x8_t, float32x4_t, uint16x8_t, vaddq_f32, vcombine_f16, vcvt_f16_f32, vcvt_f32_f16,
    vcvt_high_f32_f16, vdupq_n_u16, vfmaq_laneq_f16, vget_low_f16, vld1q_f32, vld1q_u16,
    vreinterpretq_f16_u16, vreinterpretq_u16_f16, vst1q_f32, vst1q_u16,
};
use std::arch::is_aarch64_feature_detected;

use super::super::kernel::{COLS_F32, Half, Pair, TILE_ROWS};

static F16: Half = Half {
    name: "f16",
    round,
    pairs,
    tile,
};

pub(in super::super) fn half() -> Option<&'static Half> {
    is_aarch64_feature_detected!("fp16").then_some(&F16)
}

/// Values of a register.
const EIGHT: usize = 8;
/// Products along K that are added up as f16.
const BLOCK: usize = 32;

fn round(row: &[f32], out: &mut [u16]) {
    let (eights, rest) = row.as_chunks::<EIGHT>();
    let (outs, _) = out.as_chunks_mut::<EIGHT>();
    for (values, out) in eights.iter().zip(&mut *outs) {
        *out = rounded(values);
    }
    if let Some(out) = outs.get_mut(eights.len()) {
        let mut values = [0.0; EIGHT];
        values[..rest.len()].copy_from_slice(rest);
        *out = rounded(&values);
    }
}

/// The second line behind the first.
fn pairs(lines: &[[f32; COLS_F32]], out: &mut [Pair]) {
    let outs = out
        .iter_mut()
        .flat_map(|pair| pair.0.as_chunks_mut::<EIGHT>().0);
    let lines = lines.iter().flat_map(|line| line.as_chunks::<EIGHT>().0);
    for (values, out) in lines.zip(outs) {
        *out = rounded(values);
    }
}

fn rounded(values: &[f32; EIGHT]) -> [u16; EIGHT] {
    let mut out = [0; EIGHT];
    #[expect(unsafe_code, reason = "loads and a store of eight numbers")]
    // SAFETY: both arrays have eight, and NEON, which has the conversion, is part of every 64-bit ARM CPU.
    unsafe {
        let low = vcvt_f16_f32(vld1q_f32(values.as_ptr()));
        let high = vcvt_f16_f32(vld1q_f32(values.as_ptr().add(4)));
        vst1q_u16(
            out.as_mut_ptr(),
            vreinterpretq_u16_f16(vcombine_f16(low, high)),
        );
    }
    out
}

fn tile(rows: &[u16], k: usize, panels: &[Pair], out: &mut [f32], stride: usize) {
    for (part, panel) in panels.chunks_exact(k / 2).enumerate() {
        let start = part * COLS_F32;
        #[expect(
            unsafe_code,
            reason = "the instructions of this CPU, checked in `half`"
        )]
        // SAFETY: `half` gives this function out only where the CPU has `fp16`.
        unsafe {
            if rows.len() == TILE_ROWS * k {
                sums::<TILE_ROWS>(rows, panel, &mut out[start..], stride);
            } else {
                for (row, out) in rows.chunks_exact(k).zip(out.chunks_mut(stride)) {
                    sums::<1>(row, panel, &mut out[start..], stride);
                }
            }
        }
    }
}

/// M rows times a panel: 2 M sums of eight columns.
#[target_feature(enable = "neon,fp16")]
fn sums<const M: usize>(rows: &[u16], panel: &[Pair], out: &mut [f32], stride: usize) {
    let (rows, _) = rows.as_chunks::<EIGHT>();
    let eights = 2 * panel.len() / EIGHT;
    assert!(rows.len() == M * eights);
    let panel = panel.as_chunks::<{ EIGHT / 2 }>().0;
    for (block, panel) in panel.chunks(BLOCK / EIGHT).enumerate() {
        let first = block * BLOCK / EIGHT;
        let mut sums = [[vreinterpretq_f16_u16(vdupq_n_u16(0)); 2]; M];
        for (i, lines) in panel.iter().enumerate() {
            let x: [float16x8_t; M] = std::array::from_fn(|row| {
                debug_assert!(row * eights + first + i < rows.len());
                #[expect(unsafe_code, reason = "a comparison beside sixteen multiplications")]
                // SAFETY: `rows` has M times `eights`, as was asserted, and there are that many `lines` in all.
                load(unsafe { rows.get_unchecked(row * eights + first + i) })
            });
            step::<M, 0, 1>(&mut sums, &lines[0], &x);
            step::<M, 2, 3>(&mut sums, &lines[1], &x);
            step::<M, 4, 5>(&mut sums, &lines[2], &x);
            step::<M, 6, 7>(&mut sums, &lines[3], &x);
        }
        for (sums, out) in sums.iter().zip(out.chunks_mut(stride)) {
            let (outs, _) = out[..COLS_F32].as_chunks_mut::<EIGHT>();
            for (&sum, out) in sums.iter().zip(outs) {
                add(sum, out, block == 0);
            }
        }
    }
}

/// Two values along K: those at `EVEN` and `ODD` of every row.
#[target_feature(enable = "neon,fp16")]
#[inline]
fn step<const M: usize, const EVEN: i32, const ODD: i32>(
    sums: &mut [[float16x8_t; 2]; M],
    pair: &Pair,
    x: &[float16x8_t; M],
) {
    let lines: [float16x8_t; 4] = std::array::from_fn(|i| load(&pair.0.as_chunks().0[i]));
    for row in 0..M {
        for half in 0..2 {
            sums[row][half] = vfmaq_laneq_f16::<EVEN>(sums[row][half], lines[half], x[row]);
        }
    }
    for row in 0..M {
        for half in 0..2 {
            sums[row][half] = vfmaq_laneq_f16::<ODD>(sums[row][half], lines[2 + half], x[row]);
        }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load(numbers: &[u16; EIGHT]) -> float16x8_t {
    #[expect(unsafe_code, reason = "a load of eight numbers")]
    // SAFETY: the array has eight.
    let bits: uint16x8_t = unsafe { vld1q_u16(numbers.as_ptr()) };
    vreinterpretq_f16_u16(bits)
}

/// Adds eight sums to those in `out`, or puts them there.
#[target_feature(enable = "neon")]
#[inline]
fn add(sum: float16x8_t, out: &mut [f32; EIGHT], put: bool) {
    let parts = [vcvt_f32_f16(vget_low_f16(sum)), vcvt_high_f32_f16(sum)];
    for (part, out) in parts.into_iter().zip(out.as_chunks_mut::<4>().0) {
        #[expect(unsafe_code, reason = "a load and a store of four numbers")]
        // SAFETY: the array has four.
        unsafe {
            let before: float32x4_t = vld1q_f32(out.as_ptr());
            vst1q_f32(
                out.as_mut_ptr(),
                if put { part } else { vaddq_f32(before, part) },
            );
        }
    }
}
