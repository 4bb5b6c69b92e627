//! Dense convolutions.

use candle_core::{Result, Tensor};

/// Convolution of `x` (B, I, H, W) with `weight` (O, I, k, k) and `bias` (O), zero padded.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let y = x
        .contiguous()?
        .conv2d(&weight.contiguous()?, padding, stride, 1, 1)?;
    add_bias(y, bias)
}

/// Transposed convolution with kernel 2 and stride 2: `x` (B, I, H, W), `weight` (I, O, 2, 2),
/// `bias` (O), giving (B, O, 2H, 2W). The windows do not overlap, so it is one matrix product.
pub fn conv_transpose2x2(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (b, _, h, w) = x.dims4()?;
    let (i, o, _, _) = weight.dims4()?;
    let kernel = weight.permute((1, 2, 3, 0))?.reshape((4 * o, i, 1, 1))?;
    let y = conv2d(x, &kernel, None, 1, 0)?
        .reshape(&[b, o, 2, 2, h, w][..])?
        .permute([0, 1, 4, 2, 5, 3])?
        .reshape((b, o, 2 * h, 2 * w))?;
    add_bias(y, bias)
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?),
        None => Ok(y),
    }
}
