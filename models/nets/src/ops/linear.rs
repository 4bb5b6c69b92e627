//! The affine map of a linear layer.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// `x weight^T + bias` for `x` (.., in), `weight` (out, in) and `bias` (out). A weight or an input
/// that needs no gradient costs nothing in the backward pass.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    let rows = x.elem_count() / inner;
    let x = x.contiguous()?.reshape((rows, inner))?;
    let y = x.apply_op2(&weight.contiguous()?, Product)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    if let Some(last) = dims.last_mut() {
        *last = out;
    }
    y.reshape(dims)
}

/// `x` (rows, in) times the transpose of `weight` (out, in).
struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inner) = x_layout.shape().dims2()?;
        let (out, _) = weight_layout.shape().dims2()?;
        let transposed = weight_layout.transpose(0, 1)?;
        let y = x.matmul(weight, (1, rows, out, inner), x_layout, &transposed)?;
        Ok((y, Shape::from((rows, out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_x = x.track_op().then(|| gradient.matmul(weight)).transpose()?;
        let to_weight = weight
            .track_op()
            .then(|| gradient.t()?.matmul(x))
            .transpose()?;
        Ok((to_x, to_weight))
    }
}
