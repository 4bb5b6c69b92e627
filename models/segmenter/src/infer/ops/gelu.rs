//! The exact GELU, x * (1 + erf(x / sqrt 2)) / 2.

use tract_onnx::tract_hir::internal::{DatumType, Tensor, TractResult};
use tract_onnx::tract_hir::tract_core::ops::element_wise::ElementWiseMiniOp;

use super::vectorized;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gelu;

impl ElementWiseMiniOp for Gelu {
    fn name(&self) -> String {
        "Gelu".into()
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        let mut plain = tensor.try_as_plain_ram_mut()?;
        gelu(plain.as_slice_mut::<f32>()?);
        Ok(())
    }
}

pub(super) fn gelu(values: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for x in values {
                let half = *x * 0.5;
                *x = half + half * erf(*x * std::f32::consts::FRAC_1_SQRT_2);
            }
        },
    );
}

/// From here on erf is 1 in f32.
const ERF_END: f32 = 3.92;
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
fn polynomial(coefficients: [f32; 6], x: f32) -> f32 {
    coefficients
        .into_iter()
        .fold(0.0, |sum, coefficient| sum * x + coefficient)
}
