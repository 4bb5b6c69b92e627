//! Batch normalization in training, and as the affine map it is in evaluation.

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Tensor, bail};

use super::kernel::{
    channel_sums, for_blocks, in_f32, like, long_dot, long_sum, plain, squared_deviation,
    sum_per_channel, values,
};
use super::operation::{Custom, Input, Operation};

/// Normalizes each channel of `x` (B, C, H, W) by its statistics over the batch, then scales by
/// `weight` (C) and shifts by `bias` (C). Gives the result, the batch's mean (C) and its biased
/// variance (C); no gradient flows through the latter two.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    if x.dtype() != DType::F32 {
        let (y, mean, variance) = batch_norm_train(&x.to_dtype(DType::F32)?, weight, bias, eps)?;
        return Ok((y.to_dtype(x.dtype())?, mean, variance));
    }
    if !x.device().is_cpu() {
        return batch_norm_in_steps(x, weight, bias, eps);
    }
    let x = x.contiguous()?;
    let size = Channels::of(x.dims())?;
    let mean = plain("batch-mean", [&x], size.channels, |[x], out| {
        size.means(
            out,
            #[inline(always)]
            |_, at| [long_sum(&x[at..at + size.plane])],
        );
    })?;
    let variance = plain(
        "batch-variance",
        [&x, &mean],
        size.channels,
        |[x, mean], out| {
            size.means(
                out,
                #[inline(always)]
                |c, at| [deviation(&x[at..at + size.plane], mean[c])],
            );
        },
    )?;
    let inverse = (&variance + eps)?.sqrt()?.recip()?;
    let op = BatchNorm {
        mean: mean.to_vec1()?,
        inverse: inverse.to_vec1()?,
    };
    let y = x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Custom(op))?;
    Ok((y, mean, variance))
}

/// `x * scale + shift` per channel, for `x` (B, C, H, W), `scale` and `shift` (C).
pub fn channel_affine(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    in_f32(x, |x| {
        let (scale, shift) = (like(x, scale)?, like(x, shift)?);
        if x.device().is_cpu() {
            return x.apply_op3(&scale, &shift, Custom(ChannelAffine));
        }
        channel_affine_in_steps(x, &scale, &shift)
    })
}

/// On a GPU.
pub(super) fn channel_affine_in_steps(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
) -> Result<Tensor> {
    x.broadcast_mul(&scale.reshape((1, (), 1, 1))?)?
        .broadcast_add(&shift.reshape((1, (), 1, 1))?)
}

/// On a GPU.
pub(super) fn batch_norm_in_steps(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let mean = x.mean_keepdim((0, 2, 3))?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let normalized = centred.broadcast_div(&(&variance + eps)?.sqrt()?)?;
    let y = channel_affine_in_steps(&normalized, weight, bias)?;
    let [mean, variance] = [mean, variance].map(|it| it.flatten_all());
    Ok((y, mean?.detach(), variance?.detach()))
}

/// Sum of squared distances from `mean`, in f64 from block to block.
#[inline(always)]
fn deviation(x: &[f32], mean: f32) -> f64 {
    x.chunks(1024)
        .map(|x| f64::from(squared_deviation(x, mean)))
        .sum()
}

#[derive(Debug, Clone, Copy)]
struct Channels {
    batch: usize,
    channels: usize,
    plane: usize,
}

impl Channels {
    fn of(dims: &[usize]) -> Result<Self> {
        match *dims {
            [batch, channels, h, w] => Ok(Self {
                batch,
                channels,
                plane: h * w,
            }),
            _ => bail!("input {dims:?} is not (B, C, H, W)"),
        }
    }

    /// Values per channel.
    fn count(self) -> f32 {
        (self.batch * self.plane) as f32
    }

    fn means<const N: usize>(self, out: &mut [f32], f: impl Fn(usize, usize) -> [f64; N] + Sync) {
        channel_sums(out, self.plane, self.batch, f);
        let n = self.count();
        for out in out {
            *out /= n;
        }
    }

    /// Fills a buffer plane by plane: `f` gets the channel, the plane's offset and the plane.
    fn fill(self, out: &mut [f32], f: impl Fn(usize, usize, &mut [f32]) + Sync) {
        for_blocks(
            out,
            self.plane,
            #[inline(always)]
            |at, out| f(at / self.plane % self.channels, at, out),
        );
    }

    /// `x * scale + shift` with both by channel.
    fn affine(self, x: &[f32], scale: &[f32], shift: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; x.len()];
        self.fill(
            &mut out,
            #[inline(always)]
            |c, at, out| {
                let (scale, shift) = (scale[c], shift[c]);
                for (out, &x) in out.iter_mut().zip(&x[at..]) {
                    *out = x * scale + shift;
                }
            },
        );
        out
    }
}

fn check_channels(size: Channels, affine: [&Layout; 2]) -> Result<()> {
    for layout in affine {
        if layout.dims() != [size.channels] {
            bail!(
                "{} channels do not go with {:?}",
                size.channels,
                layout.dims()
            );
        }
    }
    Ok(())
}

struct BatchNorm {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

impl BatchNorm {
    /// Per channel, the means of the gradient and of its product with the normalized input.
    fn gradient_means(&self, x: &Tensor, grad: &Tensor, size: Channels) -> Result<Tensor> {
        plain(
            "batch-norm-means",
            [x, grad],
            (2, size.channels),
            |[x, grad], out| {
                size.means(
                    out,
                    #[inline(always)]
                    |c, at| {
                        let (x, grad) = (&x[at..at + size.plane], &grad[at..at + size.plane]);
                        let sum = long_sum(grad);
                        let mean = f64::from(self.mean[c]);
                        let slope = (long_dot(grad, x) - mean * sum) * f64::from(self.inverse[c]);
                        [sum, slope]
                    },
                );
            },
        )
    }
}

impl Operation<3> for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CpuStorage>; 3],
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        let size = Channels::of(l1.dims())?;
        check_channels(size, [l2, l3])?;
        let scale: Vec<f32> = weight
            .iter()
            .zip(&self.inverse)
            .map(|(w, i)| w * i)
            .collect();
        let shift: Vec<f32> = (0..size.channels)
            .map(|c| bias[c] - self.mean[c] * scale[c])
            .collect();
        Ok((
            CpuStorage::F32(size.affine(x, &scale, &shift)),
            l1.shape().clone(),
        ))
    }

    fn gradients(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let size = Channels::of(x.dims())?;
        let grad = grad.contiguous()?;
        let means = self.gradient_means(x, &grad, size)?;
        let [average, slope] = [means.get(0)?, means.get(1)?];
        let grad_x = x.track_op().then(|| {
            let (average, slope) = (average.to_vec1::<f32>()?, slope.to_vec1::<f32>()?);
            plain(
                "batch-norm-backward",
                [x, weight, &grad],
                x.shape(),
                |[x, w, grad], out| {
                    size.fill(
                        out,
                        #[inline(always)]
                        |c, at, out| {
                            let (mean, inverse) = (self.mean[c], self.inverse[c]);
                            let (average, slope) = (average[c], slope[c] * inverse);
                            let scale = w[c] * inverse;
                            let (x, grad) = (&x[at..][..out.len()], &grad[at..][..out.len()]);
                            for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                                *out = scale * (grad - average - (x - mean) * slope);
                            }
                        },
                    );
                },
            )
        });
        let count = f64::from(size.count());
        let grad_weight = weight.track_op().then(|| &slope * count);
        let grad_bias = bias.track_op().then(|| &average * count);
        Ok([
            grad_x.transpose()?,
            grad_weight.transpose()?,
            grad_bias.transpose()?,
        ])
    }
}

struct ChannelAffine;

impl Operation<3> for ChannelAffine {
    fn name(&self) -> &'static str {
        "channel-affine"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CpuStorage>; 3],
    ) -> Result<(CpuStorage, Shape)> {
        let size = Channels::of(l1.dims())?;
        check_channels(size, [l2, l3])?;
        let out = size.affine(values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn gradients(
        &self,
        [x, scale, shift]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let size = Channels::of(x.dims())?;
        let grad = grad.contiguous()?;
        let grad_x = x.track_op().then(|| {
            plain(
                "channel-affine-backward",
                [&grad, scale],
                x.shape(),
                |[grad, scale], out| {
                    size.fill(
                        out,
                        #[inline(always)]
                        |c, at, out| {
                            let scale = scale[c];
                            for (out, &grad) in out.iter_mut().zip(&grad[at..]) {
                                *out = grad * scale;
                            }
                        },
                    );
                },
            )
        });
        let grad_scale = scale.track_op().then(|| {
            plain(
                "channel-affine-scale",
                [x, &grad],
                size.channels,
                |[x, grad], out| {
                    channel_sums(
                        out,
                        size.plane,
                        size.batch,
                        #[inline(always)]
                        |_, at| {
                            [long_dot(
                                &x[at..at + size.plane],
                                &grad[at..at + size.plane],
                            )]
                        },
                    );
                },
            )
        });
        let grad_shift = shift.track_op().then(|| sum_per_channel(&grad));
        Ok([
            grad_x.transpose()?,
            grad_scale.transpose()?,
            grad_shift.transpose()?,
        ])
    }
}
