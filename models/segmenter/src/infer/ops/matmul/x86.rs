//! AVX-512 VNNI: `vpdpbusd` adds four products of an unsigned and a signed byte to each of sixteen sums.

pub(super) mod bf16;

use std::arch::x86_64::{
    __m512, __m512i, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
    _mm512_storeu_si512,
};

use super::kernel::{COLS_F32, Kernel, Line, QUAD, ROWS, TILE_ROWS, Tile};

pub(super) fn kernel() -> Option<Kernel> {
    let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
    // The activation is the unsigned one.
    has.then_some(Kernel {
        signed: false,
        tile,
        tile_f32,
    })
}

fn tile(rows: &[u8], lines: &[Line], out: &mut Tile) {
    let stride = lines.len() / 2 * QUAD;
    #[expect(
        unsafe_code,
        reason = "the instructions of this CPU, checked in `kernel`"
    )]
    // SAFETY: `kernel` gives this function out only after it has found both features.
    unsafe {
        match rows.len() / stride {
            8 => sums::<8>(rows, lines, out),
            7 => sums::<7>(rows, lines, out),
            6 => sums::<6>(rows, lines, out),
            5 => sums::<5>(rows, lines, out),
            4 => sums::<4>(rows, lines, out),
            3 => sums::<3>(rows, lines, out),
            2 => sums::<2>(rows, lines, out),
            _ => sums::<1>(rows, lines, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn sums<const M: usize>(rows: &[u8], lines: &[Line], out: &mut Tile) {
    const { assert!(M <= ROWS) }
    let stride = lines.len() / 2 * QUAD;
    let rows: [&[[u8; QUAD]]; M] =
        std::array::from_fn(|row| rows[row * stride..][..stride].as_chunks().0);
    let mut sums = [[_mm512_setzero_si512(); 2]; M];
    for (k, pair) in lines.as_chunks::<2>().0.iter().enumerate() {
        let weights = [load(&pair[0]), load(&pair[1])];
        for row in 0..M {
            #[expect(unsafe_code, reason = "M comparisons beside 2 M multiplications")]
            // SAFETY: every row was cut to half as many fours as there are lines, and `k` counts pairs of lines.
            let x = unsafe { *rows[row].get_unchecked(k) };
            let x = _mm512_set1_epi32(i32::from_ne_bytes(x));
            for half in 0..2 {
                sums[row][half] = _mm512_dpbusd_epi32(sums[row][half], x, weights[half]);
            }
        }
    }
    for (sums, out) in sums.iter().zip(&mut out.0) {
        for (half, &sums) in sums.iter().enumerate() {
            let out = &mut out[half * 16..][..16];
            #[expect(unsafe_code, reason = "a store of sixteen integers")]
            // SAFETY: `out` has sixteen i32, 64 bytes.
            unsafe {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), sums);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(line: &Line) -> __m512i {
    #[expect(unsafe_code, reason = "a load of 64 bytes")]
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe {
        _mm512_load_si512(line.0.as_ptr().cast())
    }
}

fn tile_f32(rows: &[f32], k: usize, panels: &[[f32; COLS_F32]], out: &mut [f32], stride: usize) {
    let whole = rows.len() == TILE_ROWS * k;
    #[expect(
        unsafe_code,
        reason = "the instructions of this CPU, checked in `kernel`"
    )]
    // SAFETY: `kernel` gives this function out only after it has found AVX-512.
    unsafe {
        match (whole, panels.len() / k) {
            (true, 2) => sums_f32::<TILE_ROWS, 2>(rows, k, panels, out, stride),
            (true, _) => sums_f32::<TILE_ROWS, 1>(rows, k, panels, out, stride),
            (false, parts) => {
                for (row, out) in rows.chunks_exact(k).zip(out.chunks_mut(stride)) {
                    match parts {
                        2 => sums_f32::<1, 2>(row, k, panels, out, stride),
                        _ => sums_f32::<1, 1>(row, k, panels, out, stride),
                    }
                }
            }
        }
    }
}

/// M rows times P panels: M P sums of sixteen columns.
#[target_feature(enable = "avx512f")]
fn sums_f32<const M: usize, const P: usize>(
    rows: &[f32],
    k: usize,
    panels: &[[f32; COLS_F32]],
    out: &mut [f32],
    stride: usize,
) {
    assert!(rows.len() == M * k && panels.len() == P * k);
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    for i in 0..k {
        let lines: [__m512; P] = std::array::from_fn(|panel| load_f32(&panels[panel * k + i]));
        for (row, sums) in sums.iter_mut().enumerate() {
            #[expect(unsafe_code, reason = "M comparisons beside M P multiplications")]
            // SAFETY: `rows` has M times K values, as was asserted, and `i` is below K.
            let x = _mm512_set1_ps(unsafe { *rows.get_unchecked(row * k + i) });
            for (sum, &line) in sums.iter_mut().zip(&lines) {
                *sum = _mm512_fmadd_ps(x, line, *sum);
            }
        }
    }
    store_f32(&sums, out, stride);
}

/// Sums of rows and panels into rows that are `stride` values apart.
#[target_feature(enable = "avx512f")]
#[inline]
fn store_f32<const M: usize, const P: usize>(
    sums: &[[__m512; P]; M],
    out: &mut [f32],
    stride: usize,
) {
    for (sums, out) in sums.iter().zip(out.chunks_mut(stride)) {
        for (panel, &sums) in sums.iter().enumerate() {
            let out = &mut out[panel * COLS_F32..][..COLS_F32];
            #[expect(unsafe_code, reason = "a store of sixteen floats")]
            // SAFETY: `out` has sixteen.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), sums);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_f32(line: &[f32; COLS_F32]) -> __m512 {
    #[expect(unsafe_code, reason = "a load of sixteen floats")]
    // SAFETY: the line has sixteen.
    unsafe {
        _mm512_loadu_ps(line.as_ptr())
    }
}
