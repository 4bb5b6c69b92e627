//! Layer normalization over the last dimension and over channels.

use candle_core::{D, Result, Tensor};

/// Normalizes over the last dimension, then scales by `weight` and shifts by `bias`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred
        .broadcast_div(&(variance + eps)?.sqrt()?)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

/// The same over the channels of each pixel: `x` (B, C, H, W), `weight` and `bias` (C).
pub fn layer_norm_2d(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.permute((0, 2, 3, 1))?.contiguous()?;
    layer_norm(&x, weight, bias, eps)?
        .permute((0, 3, 1, 2))?
        .contiguous()
}
