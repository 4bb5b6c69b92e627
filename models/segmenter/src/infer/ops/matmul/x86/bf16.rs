//! AVX512-BF16: `vdpbf16ps` adds two products of bf16 to each of sixteen sums.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512bh, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::mem::transmute;

use super::super::kernel::{COLS_F32, Half, Pair, TILE_ROWS};
use super::{load_f32, store_f32};

static BF16: Half = Half {
    name: "bf16",
    round,
    pairs,
    tile,
};

pub(in super::super) fn half() -> Option<&'static Half> {
    let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    has.then_some(&BF16)
}

fn round(row: &[f32], out: &mut [u16]) {
    #[expect(
        unsafe_code,
        reason = "the instructions of this CPU, checked in `half`"
    )]
    // SAFETY: `half` gives this function out only after it has found both features.
    unsafe {
        rounded_row(row, out);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded_row(row: &[f32], out: &mut [u16]) {
    let (lines, rest) = row.as_chunks::<COLS_F32>();
    let (outs, end) = out.as_chunks_mut::<COLS_F32>();
    for (line, out) in lines.iter().zip(&mut *outs) {
        *out = numbers(line);
    }
    // A row may end in the middle of sixteen, its place only after eight or sixteen.
    let mut last = [0.0; COLS_F32];
    last[..rest.len()].copy_from_slice(rest);
    let last = numbers(&last);
    if let Some(out) = outs.get_mut(lines.len()) {
        *out = last;
    } else if let Some(out) = end.first_chunk_mut::<8>() {
        *out = *last.first_chunk().expect("sixteen");
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn numbers(line: &[f32; COLS_F32]) -> [u16; COLS_F32] {
    #[expect(unsafe_code, reason = "a register of sixteen numbers")]
    // SAFETY: both types are 32 bytes, any of which are numbers.
    unsafe {
        transmute::<__m256bh, [u16; COLS_F32]>(rounded(line))
    }
}

fn pairs(lines: &[[f32; COLS_F32]], out: &mut [Pair]) {
    #[expect(
        unsafe_code,
        reason = "the instructions of this CPU, checked in `half`"
    )]
    // SAFETY: `half` gives this function out only after it has found both features.
    unsafe {
        rounded_pairs(lines, out);
    }
}

/// The two numbers of a column side by side.
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded_pairs(lines: &[[f32; COLS_F32]], out: &mut [Pair]) {
    for (lines, out) in lines.chunks(2).zip(out) {
        let first = widened(&lines[0]);
        let both = match lines.get(1) {
            Some(second) => _mm512_or_si512(first, _mm512_slli_epi32(widened(second), 16)),
            None => first,
        };
        #[expect(unsafe_code, reason = "a register of 32 numbers")]
        // SAFETY: both types are 64 bytes, any of which are numbers.
        unsafe {
            out.0 = transmute::<__m512i, [u16; 2 * COLS_F32]>(both);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn rounded(line: &[f32; COLS_F32]) -> __m256bh {
    _mm512_cvtneps_pbh(load_f32(line))
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn widened(line: &[f32; COLS_F32]) -> __m512i {
    #[expect(unsafe_code, reason = "another name for the register")]
    // SAFETY: both types are 32 bytes, any of which are integers.
    _mm512_cvtepu16_epi32(unsafe { transmute::<__m256bh, __m256i>(rounded(line)) })
}

fn tile(rows: &[u16], k: usize, panels: &[Pair], out: &mut [f32], stride: usize) {
    let whole = rows.len() == TILE_ROWS * k;
    #[expect(
        unsafe_code,
        reason = "the instructions of this CPU, checked in `half`"
    )]
    // SAFETY: `half` gives this function out only after it has found both features.
    unsafe {
        match (whole, 2 * panels.len() / k) {
            (true, 2) => sums::<TILE_ROWS, 2>(rows, k, panels, out, stride),
            (true, _) => sums::<TILE_ROWS, 1>(rows, k, panels, out, stride),
            (false, parts) => {
                for (row, out) in rows.chunks_exact(k).zip(out.chunks_mut(stride)) {
                    match parts {
                        2 => sums::<1, 2>(row, k, panels, out, stride),
                        _ => sums::<1, 1>(row, k, panels, out, stride),
                    }
                }
            }
        }
    }
}

/// M rows times P panels: M P sums of sixteen columns.
#[target_feature(enable = "avx512f,avx512bf16")]
fn sums<const M: usize, const P: usize>(
    rows: &[u16],
    k: usize,
    panels: &[Pair],
    out: &mut [f32],
    stride: usize,
) {
    let (rows, count) = (rows.as_chunks::<2>().0, k / 2);
    assert!(rows.len() == M * count && panels.len() == P * count);
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    for i in 0..count {
        let lines: [__m512bh; P] = std::array::from_fn(|panel| {
            #[expect(unsafe_code, reason = "a register of 32 numbers")]
            // SAFETY: both types are 64 bytes, any of which are numbers.
            unsafe {
                transmute::<[u16; 2 * COLS_F32], __m512bh>(panels[panel * count + i].0)
            }
        });
        for (row, sums) in sums.iter_mut().enumerate() {
            #[expect(unsafe_code, reason = "M comparisons beside M P multiplications")]
            // SAFETY: `rows` has M times `count` pairs, as was asserted, and `i` is below `count`.
            let [low, high] = unsafe { *rows.get_unchecked(row * count + i) };
            let x = _mm512_set1_epi32((u32::from(high) << 16 | u32::from(low)).cast_signed());
            #[expect(unsafe_code, reason = "another name for the register")]
            // SAFETY: both types are 64 bytes, any of which are numbers.
            let x = unsafe { transmute::<__m512i, __m512bh>(x) };
            for (sum, &line) in sums.iter_mut().zip(&lines) {
                *sum = _mm512_dpbf16_ps(*sum, x, line);
            }
        }
    }
    store_f32(&sums, out, stride);
}
