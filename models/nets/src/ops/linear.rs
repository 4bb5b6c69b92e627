//! The affine map of a linear layer.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::kernel::{axpy, for_blocks, in_f32, into_values, like, plain, values, vectorized};
use super::launch::Launch;
use super::operation::{Custom, Input, Operation};

/// `x weight^T + bias` for `x` (.., in), `weight` (out, in) and `bias` (out). A weight or an input
/// that needs no gradient costs nothing in the backward pass.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    in_f32(x, |x| {
        let weight = like(x, weight)?;
        match bias {
            Some(bias) if x.device().is_cpu() => {
                x.apply_op3(&weight, &like(x, bias)?, Custom(Linear))
            }
            Some(bias) => linear_in_steps(x, &weight, &like(x, bias)?),
            None => x.apply_op2(&weight, Custom(Linear)),
        }
    })
}

/// With a bias, on a GPU.
pub(super) fn linear_in_steps(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.apply_op2(weight, Custom(Linear))?
        .apply_op2(bias, Custom(AddRow))
}

struct Linear;

impl Linear {
    fn forward<S: BackendStorage>(
        (s1, l1): (&S, &Layout),
        (s2, l2): (&S, &Layout),
    ) -> Result<(S, Shape)> {
        let (out, inner) = l2.shape().dims2()?;
        let mut dims = l1.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == inner => *last = out,
            _ => bail!(
                "linear: input {:?} does not go with weight {:?}",
                l1.dims(),
                l2.dims()
            ),
        }
        let rows = l1.shape().elem_count() / inner;
        let x = Layout::contiguous_with_offset((rows, inner), l1.start_offset());
        let y = s1.matmul(s2, (1, rows, out, inner), &x, &l2.transpose(0, 1)?)?;
        Ok((y, dims.into()))
    }

    fn backward(
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (out, inner) = weight.dims2()?;
        let grad = grad.contiguous()?.reshape(((), out))?;
        let grad_x = x
            .track_op()
            .then(|| grad.matmul(&weight.detach())?.reshape(x.shape()));
        let grad_weight = weight
            .track_op()
            .then(|| grad.t()?.matmul(&x.detach().reshape(((), inner))?));
        Ok((grad_x.transpose()?, grad_weight.transpose()?))
    }
}

impl Operation<2> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward((s1, l1), (s2, l2))
    }

    fn forward_on_gpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CudaStorage>; 2],
    ) -> Result<(CudaStorage, Shape)> {
        Self::forward((s1, l1), (s2, l2))
    }

    fn gradients(
        &self,
        [x, weight]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        Self::backward(x, weight, grad).map(Into::into)
    }
}

impl Operation<3> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CpuStorage>; 3],
    ) -> Result<(CpuStorage, Shape)> {
        let (y, shape) = Self::forward((s1, l1), (s2, l2))?;
        let (mut y, bias) = (into_values(y)?, values(s3, l3)?);
        if bias.len() != l2.dims()[0] {
            bail!(
                "linear: bias {:?} does not go with weight {:?}",
                l3.dims(),
                l2.dims()
            );
        }
        add_row(&mut y, bias);
        Ok((CpuStorage::F32(y), shape))
    }

    fn gradients(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (grad_x, grad_weight) = Self::backward(x, weight, grad)?;
        let grad_bias = bias.track_op().then(|| sum_rows(grad, bias.elem_count()));
        Ok([grad_x, grad_weight, grad_bias.transpose()?])
    }
}

/// Adds `bias` to every row.
fn add_row(y: &mut [f32], bias: &[f32]) {
    let block = super::activation::rows_per_block(bias.len()) * bias.len();
    for_blocks(
        y,
        block,
        #[inline(always)]
        |_, rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                axpy(row, 1.0, bias);
            }
        },
    );
}

/// (.., width) + (width)
struct AddRow;

impl AddRow {
    fn launch(x: &Layout, bias: &Layout) -> Launch {
        let width = bias.shape().elem_count();
        Launch::each("add_row", x.shape().elem_count(), &[width])
    }
}

impl Operation<2> for AddRow {
    fn name(&self) -> &'static str {
        "add-row"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (values(s1, l1)?, values(s2, l2)?);
        let mut out = x.to_vec();
        add_row(&mut out, bias);
        #[cfg(test)]
        super::launch::recorder::record(Some(&Self::launch(l1, l2)), &[x, bias], &out);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn forward_on_gpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CudaStorage>; 2],
    ) -> Result<(CudaStorage, Shape)> {
        Self::launch(l1, l2).run(&[(s1, l1), (s2, l2)], l1.shape())
    }

    fn gradients(
        &self,
        [x, bias]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let to_bias = bias.track_op().then(|| sum_rows(grad, bias.elem_count()));
        Ok([x.track_op().then(|| grad.clone()), to_bias.transpose()?])
    }
}

/// Sum of `x` (.., width) over all but the last dimension.
pub(super) fn sum_rows(x: &Tensor, width: usize) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return sum_rows_as_product(x, width);
    }
    plain("sum-rows", [x], width, |[x], out| {
        add_row_sums(x.len() / width, out, |row, out| {
            axpy(out, 1.0, &x[row * width..]);
        });
    })
}

/// On a GPU.
pub(super) fn sum_rows_as_product(x: &Tensor, width: usize) -> Result<Tensor> {
    let x = x.contiguous()?.reshape(((), width))?;
    let ones = Tensor::ones((1, x.dim(0)?), x.dtype(), x.device())?;
    ones.matmul(&x)?.squeeze(0)
}

/// Adds to `out` what `add` adds for each row; blocks of rows run in parallel and are added up
/// in order, so the sum does not depend on the threads.
pub(super) fn add_row_sums(rows: usize, out: &mut [f32], add: impl Fn(usize, &mut [f32]) + Sync) {
    let block = super::activation::rows_per_block(out.len()).max(rows.div_ceil(64));
    let partial: Vec<Vec<f32>> = (0..rows.div_ceil(block))
        .into_par_iter()
        .map(|index| {
            let mut partial = vec![0f32; out.len()];
            vectorized(
                #[inline(always)]
                || {
                    for row in index * block..rows.min((index + 1) * block) {
                        add(row, &mut partial);
                    }
                },
            );
            partial
        })
        .collect();
    for partial in partial {
        axpy(out, 1.0, &partial);
    }
}
