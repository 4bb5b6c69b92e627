//! The affine map of a linear layer.

use candle_core::{Result, Tensor};

/// `x weight^T + bias` for `x` (.., in), `weight` (out, in) and `bias` (out). A weight or an input
/// that needs no gradient costs nothing in the backward pass.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    let rows = x.elem_count() / inner;
    let y = x.reshape((rows, inner))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    if let Some(last) = dims.last_mut() {
        *last = out;
    }
    y.reshape(dims)
}
