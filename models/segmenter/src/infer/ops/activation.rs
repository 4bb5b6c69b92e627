//! Activations, by themselves; layers finish their sums with the same functions.

use contract::vector::vectorized;

use super::compute::{Compute, Operand};
use super::softmax::exp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    /// x * (1 + erf(x / sqrt 2)) / 2
    Gelu,
    /// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2
    GeluTanh,
    /// x * clamp(x / 6 + 1 / 2, 0, 1)
    HardSwish,
    Relu,
}

impl Compute for Activation {
    fn name(&self) -> &'static str {
        match self {
            Self::None => "Identity",
            Self::Gelu => "Gelu",
            Self::GeluTanh => "GeluTanh",
            Self::HardSwish => "HardSwish",
            Self::Relu => "Relu",
        }
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        Ok(inputs[0].to_vec())
    }

    fn multiplications(&self, _: &[&[usize]]) -> u64 {
        0
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        out.copy_from_slice(inputs[0].0);
        vectorized(
            #[inline(always)]
            || self.on(out),
        );
    }
}

impl Activation {
    #[inline(always)]
    pub(super) fn on(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Gelu => values.iter_mut().for_each(|x| *x = gelu_of(*x)),
            Self::GeluTanh => values.iter_mut().for_each(|x| *x = gelu_tanh_of(*x)),
            Self::HardSwish => values.iter_mut().for_each(|x| *x = hard_swish_of(*x)),
            Self::Relu => values.iter_mut().for_each(|x| *x = relu_of(*x)),
        }
    }
}

#[inline(always)]
pub(super) fn relu_of(x: f32) -> f32 {
    // Not `f32::max`, which would make a number of NaN.
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
pub(super) fn hard_swish_of(x: f32) -> f32 {
    x * x.mul_add(1.0 / 6.0, 0.5).clamp(0.0, 1.0)
}

/// 2 sqrt(2 / pi): tanh(y) is 2 sigmoid(2 y) - 1.
const SLOPE: f32 = 1.595_769;

#[inline(always)]
pub(super) fn gelu_tanh_of(x: f32) -> f32 {
    let inner = SLOPE * x * (x * x).mul_add(0.044_715, 1.0);
    let e = exp(-inner.abs());
    let numerator = if inner < 0.0 { e } else { 1.0 };
    x * (numerator / (1.0 + e))
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
