//! LayerNorm over the last axis, in one pass over each row.

use contract::vector::vectorized;

use super::super::threads::for_chunks;
use super::compute::{Compute, Operand};
use super::lanes::fold_lanes;

/// Rows that a thread takes at once.
const BLOCK: usize = 64;

/// Inputs: x (..., n), weight (n), bias (n).
#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub(crate) epsilon: f32,
}

impl Compute for LayerNorm {
    fn name(&self) -> &'static str {
        "LayerNorm"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        match inputs {
            [x, weight, bias] if x.last().is_some_and(|n| *weight == [*n] && weight == bias) => {
                Ok(x.to_vec())
            }
            _ => Err(format!("takes (.., n), (n) and (n), not {inputs:?}")),
        }
    }

    fn multiplications(&self, _: &[&[usize]]) -> u64 {
        0
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        let [x, weight, bias] = [0, 1, 2].map(|i| inputs[i].0);
        let block = BLOCK * weight.len();
        for_chunks(
            out,
            block,
            || (),
            |(), index, out| {
                out.copy_from_slice(&x[index * block..][..out.len()]);
                layer_norm(out, weight, bias, self.epsilon);
            },
        );
    }
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
