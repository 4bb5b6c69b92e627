//! Transposed convolution with kernel 2 and stride 2. Its windows do not overlap: it is a matrix
//! product whose rows are then spread over the finer grid.

use candle_core::{CpuStorage, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::conv::{add_per_channel, conv2d};
use super::kernel::{in_f32, like, plain, sum_per_channel, values};
use super::operation::{Custom, Input, Operation};

/// `x` (B, I, H, W), `weight` (I, O, 2, 2), `bias` (O), giving (B, O, 2H, 2W).
pub fn conv_transpose2x2(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (inputs, outputs, height, width) = weight.dims4()?;
    if (height, width) != (2, 2) {
        bail!(
            "conv_transpose2x2: weight {:?} is not (I, O, 2, 2)",
            weight.dims()
        );
    }
    let kernel = weight
        .permute((1, 2, 3, 0))?
        .reshape((4 * outputs, inputs, 1, 1))?;
    let y = conv2d(x, &kernel, None, 1, 0)?;
    in_f32(&y, |y| match bias {
        bias if !y.device().is_cpu() => spread_in_steps(y, bias),
        Some(bias) => y.apply_op2(&like(y, bias)?, Custom(Spread)),
        None => y.apply_op1(Custom(Spread)),
    })
}

/// On a GPU.
pub(super) fn spread_in_steps(y: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (b, c, h, w) = y.dims4()?;
    let spread = y
        .reshape(&[b, c / 4, 2, 2, h, w][..])?
        .permute(&[0, 1, 4, 2, 5, 3][..])?
        .contiguous()?
        .reshape((b, c / 4, 2 * h, 2 * w))?;
    match bias {
        Some(bias) => spread.broadcast_add(&like(&spread, bias)?.reshape((1, c / 4, 1, 1))?),
        None => Ok(spread),
    }
}

/// (B, 4 O, H, W) to (B, O, 2H, 2W): channel 4 o + 2 i + j goes to the pixels (2y + i, 2x + j).
struct Spread;

impl Spread {
    fn run(storage: &CpuStorage, layout: &Layout) -> Result<(Vec<f32>, Shape)> {
        let x = values(storage, layout)?;
        let (b, c, h, w) = layout.shape().dims4()?;
        let mut out = vec![0f32; x.len()];
        out.par_chunks_mut(4 * h * w)
            .zip(x.par_chunks(4 * h * w))
            .for_each(|(out, x)| {
                for (y, out) in out.chunks_exact_mut(2 * w).enumerate() {
                    let [even, odd] = [0, 1].map(|j| &x[((y % 2 * 2 + j) * h + y / 2) * w..][..w]);
                    for ((pair, &even), &odd) in
                        out.as_chunks_mut::<2>().0.iter_mut().zip(even).zip(odd)
                    {
                        *pair = [even, odd];
                    }
                }
            });
        Ok((out, (b, c / 4, 2 * h, 2 * w).into()))
    }

    fn backward(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        plain("spread-backward", [grad], x.shape(), |[grad], out| {
            out.par_chunks_mut(4 * h * w)
                .zip(grad.par_chunks(4 * h * w))
                .for_each(|(out, grad)| {
                    for (row, out) in out.chunks_exact_mut(w).enumerate() {
                        let (channel, y) = (row / h, row % h);
                        let grad = &grad[(2 * y + channel / 2) * 2 * w..][..2 * w];
                        for (out, pair) in out.iter_mut().zip(grad.as_chunks::<2>().0) {
                            *out = pair[channel % 2];
                        }
                    }
                });
        })
    }
}

impl Operation<1> for Spread {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn forward_on_cpu(
        &self,
        [(storage, layout)]: [Input<'_, CpuStorage>; 1],
    ) -> Result<(CpuStorage, Shape)> {
        let (out, shape) = Self::run(storage, layout)?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn gradients(
        &self,
        [x]: [&Tensor; 1],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        Self::backward(x, grad).map(|gradient| [Some(gradient)])
    }
}

impl Operation<2> for Spread {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        let (mut out, shape) = Self::run(s1, l1)?;
        let bias = values(s2, l2)?;
        let (_, channels, h, w) = shape.dims4()?;
        if bias.len() != channels {
            bail!(
                "conv_transpose2x2: bias {:?} for {channels} channels",
                l2.dims()
            );
        }
        add_per_channel(&mut out, bias, h * w);
        Ok((CpuStorage::F32(out), shape))
    }

    fn gradients(
        &self,
        [x, bias]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let to_x = x.track_op().then(|| Self::backward(x, grad)).transpose()?;
        let to_bias = bias.track_op().then(|| sum_per_channel(grad)).transpose()?;
        Ok([to_x, to_bias])
    }
}
