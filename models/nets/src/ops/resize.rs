//! Bilinear resizing.

use candle_core::{Device, Result, Tensor};

use super::linear;

/// Resizes `x` (B, C, H, W) with half-pixel centres and clamped edges, no antialiasing, as
/// PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
pub fn resize_bilinear(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if (h, w) == (height, width) {
        return Ok(x.clone());
    }
    let rows = interpolation(h, height, x.device())?;
    let columns = interpolation(w, width, x.device())?;
    let x = linear(x, &columns, None)?.transpose(2, 3)?;
    linear(&x.contiguous()?, &rows, None)?
        .transpose(2, 3)?
        .contiguous()
}

/// The (`to`, `from`) matrix that resizes one axis.
fn interpolation(from: usize, to: usize, device: &Device) -> Result<Tensor> {
    let mut matrix = vec![0f32; to * from];
    let ratio = from as f64 / to as f64;
    for (row, weights) in matrix.chunks_exact_mut(from).enumerate() {
        let position = ((row as f64 + 0.5) * ratio - 0.5).max(0.0);
        let low = (position as usize).min(from - 1);
        let fraction = (position - low as f64) as f32;
        weights[low] += 1.0 - fraction;
        weights[(low + 1).min(from - 1)] += fraction;
    }
    Tensor::from_vec(matrix, (to, from), device)
}
