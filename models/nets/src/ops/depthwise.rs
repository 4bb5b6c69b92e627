//! Depthwise convolution: one small kernel per channel.

use candle_core::{Result, Tensor};

/// Convolution of each channel of `x` (B, C, H, W) with its kernel in `weight` (C, 1, k, k).
pub fn depthwise_conv2d(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let channels = x.dim(1)?;
    x.contiguous()?
        .conv2d(&weight.contiguous()?, padding, stride, 1, channels)
}
