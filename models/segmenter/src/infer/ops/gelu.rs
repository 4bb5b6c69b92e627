//! The exact GELU, x * (1 + erf(x / sqrt 2)) / 2.

use super::compute::{Compute, Operand};
use super::vectorized;

#[derive(Debug)]
pub(crate) struct GeluOf;

impl Compute for GeluOf {
    fn name(&self) -> &'static str {
        "Gelu"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        Ok(inputs[0].to_vec())
    }

    fn multiplications(&self, _: &[&[usize]]) -> u64 {
        0
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        out.copy_from_slice(inputs[0].0);
        gelu(out);
    }
}

pub(super) fn gelu(values: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for x in values {
                *x = gelu_of(*x);
            }
        },
    );
}

#[inline(always)]
pub(super) fn gelu_of(x: f32) -> f32 {
    let half = x * 0.5;
    half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// From here on erf is 1 in f32.
const ERF_END: f32 = 4.0;
/// erf(x) = x P(x^2) / Q(x^2) up to `ERF_END`: a minimax fit of ours, off by 2e-8 before rounding.
const P: [f32; 6] = [
    2.034_669_7e-6,
    2.874_604_8e-4,
    3.867_935_4e-3,
    5.305_927_6e-2,
    1.927_563_3e-1,
    std::f32::consts::FRAC_2_SQRT_PI,
];
const Q: [f32; 6] = [
    3.806_896_8e-5,
    1.188_000_4e-3,
    1.517_153_25e-2,
    1.150_812_5e-1,
    5.041_575_4e-1,
    1.0,
];

/// Off by at most 5e-7.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-ERF_END, ERF_END);
    let square = x * x;
    (x * polynomial(P, square) / polynomial(Q, square)).clamp(-1.0, 1.0)
}

/// Highest power first.
#[inline(always)]
fn polynomial([first, rest @ ..]: [f32; 6], x: f32) -> f32 {
    rest.into_iter()
        .fold(first, |sum, coefficient| sum.mul_add(x, coefficient))
}
