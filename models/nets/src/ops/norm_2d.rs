//! Layer normalization over the channels of each pixel.

use candle_core::{CpuStorage, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::kernel::{
    BLOCK, axpy, channel_sums, for_blocks, in_f32, like, plain, sum_per_channel, values, vectorized,
};
use super::norm::layer_norm;
use super::operation::{Custom, Input, Operation};

/// `layer_norm` over the channels of each pixel: `x` (B, C, H, W), `weight` and `bias` (C).
pub fn layer_norm_2d(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let op = LayerNorm2d { eps: eps as f32 };
    in_f32(x, |x| {
        if x.device().is_cpu() {
            return x.apply_op3(&like(x, weight)?, &like(x, bias)?, Custom(op));
        }
        layer_norm_2d_in_steps(x, weight, bias, eps)
    })
}

/// On a GPU.
pub(super) fn layer_norm_2d_in_steps(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let pixels = x.permute((0, 2, 3, 1))?.contiguous()?;
    layer_norm(&pixels, weight, bias, eps)?
        .permute((0, 3, 1, 2))?
        .contiguous()
}

struct LayerNorm2d {
    eps: f32,
}

/// Pixels that are summed over channels together.
const PIXELS: usize = 128;

impl LayerNorm2d {
    /// Two values per pixel, `pair(x, &mut first, &mut second)`, from the channels of up to
    /// `PIXELS` pixels. Gives (image, pixel) blocks one after the other: firsts, then seconds.
    fn per_pixel(
        size: [usize; 3],
        pair: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) -> [Vec<f32>; 2] {
        let [batch, _, plane] = size;
        let mut first = vec![0f32; batch * plane];
        let mut second = vec![0f32; batch * plane];
        first
            .par_chunks_mut(plane)
            .zip(second.par_chunks_mut(plane))
            .enumerate()
            .for_each(|(image, (first, second))| {
                let blocks = first
                    .par_chunks_mut(PIXELS)
                    .zip(second.par_chunks_mut(PIXELS));
                blocks.enumerate().for_each(|(index, (first, second))| {
                    let at = image * size[1] * plane + index * PIXELS;
                    vectorized(
                        #[inline(always)]
                        || pair(at, first, second),
                    );
                });
            });
        [first, second]
    }

    /// Mean and inverse standard deviation of each pixel.
    fn statistics(&self, x: &[f32], size: [usize; 3]) -> [Vec<f32>; 2] {
        let [_, channels, plane] = size;
        let scale = 1.0 / channels as f32;
        Self::per_pixel(
            size,
            #[inline(always)]
            |at, mean, inverse| {
                let n = mean.len();
                for c in 0..channels {
                    axpy(mean, scale, &x[at + c * plane..][..n]);
                }
                for c in 0..channels {
                    let x = &x[at + c * plane..][..n];
                    for ((inverse, &x), &mean) in inverse.iter_mut().zip(x).zip(&*mean) {
                        *inverse += (x - mean) * (x - mean);
                    }
                }
                for inverse in inverse {
                    *inverse = 1.0 / (*inverse * scale + self.eps).sqrt();
                }
            },
        )
    }

    fn input_gradient(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let size = size(x.dims())?;
        let [_, channels, plane] = size;
        plain(
            "layer-norm-2d-backward",
            [x, weight, grad],
            x.shape(),
            |[x, weight, grad], out| {
                let [mean, inverse] = self.statistics(x, size);
                let scale = 1.0 / channels as f32;
                let [average, slope] = Self::per_pixel(
                    size,
                    #[inline(always)]
                    |at, average, slope| {
                        let n = average.len();
                        let pixel = at / (channels * plane) * plane + at % (channels * plane);
                        let (mean, inverse) = (&mean[pixel..][..n], &inverse[pixel..][..n]);
                        for (c, &weight) in weight.iter().enumerate() {
                            let (x, grad) =
                                (&x[at + c * plane..][..n], &grad[at + c * plane..][..n]);
                            for i in 0..n {
                                let grad = grad[i] * weight * scale;
                                average[i] += grad;
                                slope[i] += grad * (x[i] - mean[i]) * inverse[i] * inverse[i];
                            }
                        }
                    },
                );
                for_planes(
                    out,
                    plane,
                    #[inline(always)]
                    |c, at, pixel, out| {
                        let n = out.len();
                        let (weight, x, grad) =
                            (weight[c % channels], &x[at..][..n], &grad[at..][..n]);
                        let (mean, inverse) = (&mean[pixel..][..n], &inverse[pixel..][..n]);
                        let (average, slope) = (&average[pixel..][..n], &slope[pixel..][..n]);
                        for i in 0..n {
                            let centred =
                                grad[i] * weight - average[i] - (x[i] - mean[i]) * slope[i];
                            out[i] = inverse[i] * centred;
                        }
                    },
                    channels,
                );
            },
        )
    }

    fn weight_gradient(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let size = size(x.dims())?;
        let [batch, channels, plane] = size;
        plain(
            "layer-norm-2d-weight",
            [x, grad],
            channels,
            |[x, grad], out| {
                let [mean, inverse] = self.statistics(x, size);
                channel_sums(
                    out,
                    plane,
                    batch,
                    #[inline(always)]
                    |_, at| {
                        let pixel = at / (channels * plane) * plane;
                        let mut total = 0f64;
                        let mut products = [0f32; PIXELS];
                        for from in (0..plane).step_by(PIXELS) {
                            let n = PIXELS.min(plane - from);
                            let (x, grad) = (&x[at + from..][..n], &grad[at + from..][..n]);
                            let mean = &mean[pixel + from..][..n];
                            let inverse = &inverse[pixel + from..][..n];
                            for i in 0..n {
                                products[i] = grad[i] * (x[i] - mean[i]) * inverse[i];
                            }
                            total += super::kernel::long_sum(&products[..n]);
                        }
                        [total]
                    },
                );
            },
        )
    }
}

/// Batch, channels and pixels of NCHW.
fn size(dims: &[usize]) -> Result<[usize; 3]> {
    match *dims {
        [b, c, h, w] => Ok([b, c, h * w]),
        _ => bail!("layer norm over channels: input {dims:?} is not (B, C, H, W)"),
    }
}

/// Fills a (B, C, plane) buffer: `f` gets the plane's number, the offset in the buffer, the
/// offset among the batch's pixels and the part to fill.
fn for_planes(
    out: &mut [f32],
    plane: usize,
    f: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
    channels: usize,
) {
    out.par_chunks_mut(plane)
        .enumerate()
        .for_each(|(index, out)| {
            for_blocks(
                out,
                BLOCK,
                #[inline(always)]
                |at, out| {
                    f(
                        index,
                        index * plane + at,
                        index / channels * plane + at,
                        out,
                    );
                },
            );
        });
}

impl Operation<3> for LayerNorm2d {
    fn name(&self) -> &'static str {
        "layer-norm-2d"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CpuStorage>; 3],
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        let size = size(l1.dims())?;
        let [_, channels, plane] = size;
        if weight.len() != channels || bias.len() != channels {
            bail!(
                "layer norm: input {:?} does not go with weight {:?}",
                l1.dims(),
                l2.dims()
            );
        }
        let [mean, inverse] = self.statistics(x, size);
        let mut out = vec![0f32; x.len()];
        for_planes(
            &mut out,
            plane,
            #[inline(always)]
            |c, at, pixel, out| {
                let n = out.len();
                let (weight, bias) = (weight[c % channels], bias[c % channels]);
                let (x, mean) = (&x[at..][..n], &mean[pixel..][..n]);
                let inverse = &inverse[pixel..][..n];
                for i in 0..n {
                    out[i] = (x[i] - mean[i]) * inverse[i] * weight + bias;
                }
            },
            channels,
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn gradients(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let grad_x = x.track_op().then(|| self.input_gradient(x, weight, grad));
        let grad_weight = weight.track_op().then(|| self.weight_gradient(x, grad));
        let grad_bias = bias.track_op().then(|| sum_per_channel(grad));
        Ok([
            grad_x.transpose()?,
            grad_weight.transpose()?,
            grad_bias.transpose()?,
        ])
    }
}
