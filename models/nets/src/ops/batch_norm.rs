//! Batch normalization in training, and as the affine map it is in evaluation.

use candle_core::{Result, Tensor};

/// Normalizes each channel of `x` (B, C, H, W) by its statistics over the batch, then scales by
/// `weight` (C) and shifts by `bias` (C). Gives the result, the batch's mean (C) and its biased
/// variance (C); no gradient flows through the latter two.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let c = x.dim(1)?;
    let mean = x.mean_keepdim((0, 2, 3))?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let y = centred.broadcast_div(&(&variance + eps)?.sqrt()?)?;
    let y = channel_affine(&y, weight, bias)?;
    Ok((
        y,
        mean.flatten_all()?.reshape(c)?.detach(),
        variance.flatten_all()?.reshape(c)?.detach(),
    ))
}

/// `x * scale + shift` per channel, for `x` (B, C, H, W), `scale` and `shift` (C).
pub fn channel_affine(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let c = x.dim(1)?;
    x.broadcast_mul(&scale.reshape((1, c, 1, 1))?)?
        .broadcast_add(&shift.reshape((1, c, 1, 1))?)
}
