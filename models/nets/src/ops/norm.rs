//! Layer normalization over the last dimension.

use candle_core::{CpuStorage, CudaStorage, Result, Shape, Tensor, bail};

use super::activation::rows_per_block;
use super::kernel::{dot, for_blocks, in_f32, kernel, like, plain, squared_deviation, sum, values};
use super::launch::Launch;
use super::linear::{add_row_sums, sum_rows};
use super::operation::{Custom, Input, Operation};

/// Normalizes over the last dimension, then scales by `weight` and shifts by `bias`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let op = LayerNorm { eps: eps as f32 };
    in_f32(x, |x| {
        x.apply_op3(&like(x, weight)?, &like(x, bias)?, Custom(op))
    })
}

pub(super) struct LayerNorm {
    pub(super) eps: f32,
}

impl LayerNorm {
    /// Mean of a row and the inverse of its standard deviation.
    #[inline(always)]
    fn statistics(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = sum(row) / n;
        (
            mean,
            1.0 / (squared_deviation(row, mean) / n + self.eps).sqrt(),
        )
    }

    fn launch(&self, kernel: &'static str, n_values: usize, width: usize) -> Launch {
        Launch::blocks(kernel, n_values / width.max(1), &[width]).with(self.eps)
    }

    fn input_gradient(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let width = weight.elem_count();
        kernel(
            self.launch("layer_norm_backward", x.elem_count(), width),
            [x, weight, grad],
            x.shape(),
            |[x, weight, grad], out| {
                for_blocks(
                    out,
                    rows_per_block(width) * width,
                    #[inline(always)]
                    |at, out| {
                        let x = x[at..].chunks_exact(width);
                        let grad = grad[at..].chunks_exact(width);
                        for ((out, x), grad) in out.chunks_exact_mut(width).zip(x).zip(grad) {
                            let (mean, inverse) = self.statistics(x);
                            // `out` holds the scaled gradient until its two means are known.
                            for ((out, &grad), &weight) in out.iter_mut().zip(grad).zip(weight) {
                                *out = grad * weight;
                            }
                            let n = width as f32;
                            let average = sum(out) / n;
                            let slope = (dot(out, x) / n - mean * average) * inverse * inverse;
                            for (out, &x) in out.iter_mut().zip(x) {
                                *out = inverse * (*out - average - (x - mean) * slope);
                            }
                        }
                    },
                );
            },
        )
    }

    pub(super) fn weight_gradient(
        &self,
        x: &Tensor,
        grad: &Tensor,
        width: usize,
    ) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.weight_gradient_in_steps(x, grad, width);
        }
        plain("layer-norm-weight", [x, grad], width, |[x, grad], out| {
            add_row_sums(
                x.len() / width,
                out,
                #[inline(always)]
                |row, out| {
                    let range = row * width..(row + 1) * width;
                    let (x, grad) = (&x[range.clone()], &grad[range]);
                    let (mean, inverse) = self.statistics(x);
                    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                        *out += grad * (x - mean) * inverse;
                    }
                },
            );
        })
    }

    /// On a GPU.
    pub(super) fn weight_gradient_in_steps(
        &self,
        x: &Tensor,
        grad: &Tensor,
        width: usize,
    ) -> Result<Tensor> {
        let ones = Tensor::ones(width, x.dtype(), x.device())?;
        let normalized = x.detach().apply_op3_no_bwd(
            &ones,
            &ones.zeros_like()?,
            &Custom(Self { eps: self.eps }),
        )?;
        sum_rows(&(normalized * grad)?, width)
    }
}

impl Operation<3> for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CpuStorage>; 3],
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        let width = weight.len();
        if l1.dims().last() != Some(&width) || bias.len() != width {
            bail!(
                "layer norm: input {:?} does not go with weight {:?}",
                l1.dims(),
                l2.dims()
            );
        }
        let mut out = vec![0f32; x.len()];
        for_blocks(
            &mut out,
            rows_per_block(width) * width,
            #[inline(always)]
            |at, out| {
                for (out, x) in out.chunks_exact_mut(width).zip(x[at..].chunks_exact(width)) {
                    let (mean, inverse) = self.statistics(x);
                    let affine = weight.iter().zip(bias);
                    for ((out, &x), (&weight, &bias)) in out.iter_mut().zip(x).zip(affine) {
                        *out = (x - mean) * inverse * weight + bias;
                    }
                }
            },
        );
        #[cfg(test)]
        super::launch::recorder::record(
            Some(&self.launch("layer_norm", x.len(), width)),
            &[x, weight, bias],
            &out,
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn forward_on_gpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CudaStorage>; 3],
    ) -> Result<(CudaStorage, Shape)> {
        let width = l2.shape().elem_count();
        self.launch("layer_norm", l1.shape().elem_count(), width)
            .run(&[(s1, l1), (s2, l2), (s3, l3)], l1.shape())
    }

    fn gradients(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let width = weight.elem_count();
        let grad_x = x.track_op().then(|| self.input_gradient(x, weight, grad));
        let grad_weight = weight
            .track_op()
            .then(|| self.weight_gradient(x, grad, width));
        let grad_bias = bias.track_op().then(|| sum_rows(grad, width));
        Ok([
            grad_x.transpose()?,
            grad_weight.transpose()?,
            grad_bias.transpose()?,
        ])
    }
}
