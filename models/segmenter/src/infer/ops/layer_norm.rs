//! LayerNorm over the last axis, in one pass over each row.

use tract_onnx::tract_hir::internal::{
    EvalContext, EvalOp, IntoTValue, IntoTensor, Op, StaticName, TValue, TVec, TractErrorContext,
    TractResult, TypedFact, TypedOp, args_3, as_op, ensure, op_as_typed_op, op_out_of_plan, tvec,
};

use super::{fold_lanes, vectorized};

/// Inputs: x (..., n), weight (n), bias (n).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerNorm {
    pub(crate) epsilon: f32,
}

impl Eq for LayerNorm {}

impl Op for LayerNorm {
    fn name(&self) -> StaticName {
        "LayerNorm".into()
    }

    op_as_typed_op!();
}

impl EvalOp for LayerNorm {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, weight, bias) = args_3!(inputs);
        let mut x = x.into_tensor();
        let (weight, bias) = (weight.try_as_plain_ram()?, bias.try_as_plain_ram()?);
        let (weight, bias) = (weight.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        let mut plain = x.try_as_plain_ram_mut()?;
        layer_norm(plain.as_slice_mut::<f32>()?, weight, bias, self.epsilon);
        Ok(tvec!(x.into_tvalue()))
    }
}

impl TypedOp for LayerNorm {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let n = inputs[0].shape.last().context("LayerNorm of a scalar")?;
        for input in &inputs[1..] {
            ensure!(
                input.shape.len() == 1 && input.shape[0] == *n,
                "LayerNorm over {n} values has a weight or bias of shape {:?}",
                input.shape
            );
        }
        Ok(tvec!(inputs[0].clone().without_value()))
    }

    as_op!();
}

/// Rows are as long as `weight` and `bias`.
pub(super) fn layer_norm(values: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let add = |a: f32, b: f32| a + b;
    vectorized(
        #[inline(always)]
        || {
            let n = weight.len() as f32;
            for row in values.chunks_exact_mut(weight.len()) {
                let mean = fold_lanes(row, 0.0, add, add) / n;
                let squares = |sum: f32, x: f32| sum + (x - mean) * (x - mean);
                let variance = fold_lanes(row, 0.0, squares, add) / n;
                let scale = 1.0 / (variance + epsilon).sqrt();
                for ((x, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
                    *x = (*x - mean) * scale * weight + bias;
                }
            }
        },
    );
}
