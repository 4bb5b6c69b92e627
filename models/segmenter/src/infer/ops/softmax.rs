//! Softmax over the last axis.

use contract::vector::vectorized;

use super::compute::{Compute, Operand};
use super::lanes::{LANES, fold_lanes, join_lanes};

#[derive(Debug)]
pub(crate) struct Softmax;

impl Compute for Softmax {
    fn name(&self) -> &'static str {
        "RowSoftmax"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        match inputs {
            [x] if !x.is_empty() => Ok(x.to_vec()),
            _ => Err(format!("takes (.., n), not {inputs:?}")),
        }
    }

    fn multiplications(&self, _: &[&[usize]]) -> u64 {
        0
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        let (x, shape) = inputs[0];
        out.copy_from_slice(x);
        vectorized(
            #[inline(always)]
            || softmax(out, shape[shape.len() - 1]),
        );
    }
}

/// Over every row of `len` values.
#[inline(always)]
pub(super) fn softmax(values: &mut [f32], len: usize) {
    for row in values.chunks_exact_mut(len) {
        let scale = exponentials(row);
        for x in row {
            *x *= scale;
        }
    }
}

/// The softmax but for its scale, which is returned.
#[inline(always)]
pub(super) fn exponentials(values: &mut [f32]) -> f32 {
    let max = fold_lanes(values, f32::NEG_INFINITY, larger, larger);
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (x, sum) in chunk.iter_mut().zip(&mut lanes) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut lanes) {
        *x = exp(*x - max);
        *sum += *x;
    }
    1.0 / join_lanes(lanes, |a, b| a + b)
}

/// `f32::max` would be two comparisons; a NaN is lost here and comes back in the exponential.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// ln 2 in two parts; the first has few bits, so that its product with an exponent is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 * 2^23: added to a small number it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0;
/// Below this the result would be no normal number.
const EXP_START: f32 = -87.0;

/// e^x for x up to 0, off by at most 3 in 10 millions; 1.6e-38 below -87.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Not `f32::max`, which would make a number of NaN.
    let x = if x < EXP_START { EXP_START } else { x };
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let exponent = rounded - ROUND;
    let rest = exponent.mul_add(-LN_2_LOW, exponent.mul_add(-LN_2_HIGH, x));
    // The series up to rest^6 / 6!; |rest| is at most ln 2 / 2.
    let mut sum: f32 = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum.mul_add(rest, coefficient);
    }
    f32::from_bits(sum.to_bits().wrapping_add(rounded.to_bits() << 23))
}
