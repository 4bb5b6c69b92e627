//! Depthwise convolution: one small kernel per channel. candle splits it into one convolution a
//! channel; here every plane is one pass over memory, planes in parallel.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::contiguous::values;

/// Convolution of each channel of `x` (B, C, H, W) with its kernel in `weight` (C, 1, k, k).
pub fn depthwise_conv2d(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let plane = Plane::new([h, w], weight.dim(2)?, stride, padding);
    x.contiguous()?
        .apply_op2(&weight.contiguous()?, Forward { plane })
}

/// The geometry of one channel of one image.
#[derive(Debug, Clone, Copy)]
struct Plane {
    input: [usize; 2],
    output: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Plane {
    fn new(input: [usize; 2], kernel: usize, stride: usize, padding: usize) -> Self {
        let output = input.map(|side| (side + 2 * padding - kernel) / stride + 1);
        Self {
            input,
            output,
            kernel,
            stride,
            padding,
        }
    }

    fn n_in(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn n_out(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Calls `f(tap, input range start, output range)` for every pair of rows that a kernel tap
    /// connects; the output columns of the range are `stride` input columns apart.
    fn for_each_row_pair(&self, mut f: impl FnMut(usize, usize, std::ops::Range<usize>)) {
        let Self {
            input: [h, w],
            output: [oh, ow],
            kernel,
            stride,
            padding,
        } = *self;
        for oy in 0..oh {
            for ky in 0..kernel {
                let Some(iy) = (oy * stride + ky).checked_sub(padding).filter(|&iy| iy < h) else {
                    continue;
                };
                for kx in 0..kernel {
                    let first = padding.saturating_sub(kx).div_ceil(stride);
                    let end = ((w + padding).saturating_sub(kx)).div_ceil(stride).min(ow);
                    if first < end {
                        let column = first * stride + kx - padding;
                        f(
                            ky * kernel + kx,
                            iy * w + column,
                            oy * ow + first..oy * ow + end,
                        );
                    }
                }
            }
        }
    }
}

/// `target += factor * source`, the source `stride` apart.
fn add_scaled(target: &mut [f32], source: &[f32], stride: usize, factor: f32) {
    if stride == 1 {
        target
            .iter_mut()
            .zip(source)
            .for_each(|(t, s)| *t += factor * s);
    } else {
        target
            .iter_mut()
            .zip(source.iter().step_by(stride))
            .for_each(|(t, s)| *t += factor * s);
    }
}

struct Forward {
    plane: Plane,
}

impl CustomOp2 for Forward {
    fn name(&self) -> &'static str {
        "depthwise_conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, c, _, _) = x_layout.shape().dims4()?;
        let (x, weight) = (values(x, x_layout)?, values(weight, weight_layout)?);
        let plane = self.plane;
        let n_taps = plane.kernel * plane.kernel;
        let mut y = vec![0f32; b * c * plane.n_out()];
        y.par_chunks_mut(plane.n_out())
            .zip(x.par_chunks(plane.n_in()))
            .enumerate()
            .for_each(|(index, (y, x))| {
                let taps = &weight[index % c * n_taps..][..n_taps];
                plane.for_each_row_pair(|tap, start, range| {
                    add_scaled(&mut y[range], &x[start..], plane.stride, taps[tap]);
                });
            });
        let [oh, ow] = plane.output;
        Ok((CpuStorage::F32(y), Shape::from((b, c, oh, ow))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let plane = self.plane;
        let to_x = x
            .track_op()
            .then(|| gradient.apply_op2_no_bwd(weight, &InputGradient { plane }))
            .transpose()?;
        let to_weight = weight
            .track_op()
            .then(|| {
                x.apply_op2_no_bwd(&gradient, &WeightGradient { plane })?
                    .reshape(weight.shape())
            })
            .transpose()?;
        Ok((to_x, to_weight))
    }
}

struct InputGradient {
    plane: Plane,
}

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "depthwise_conv2d_input_gradient"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, c, _, _) = gradient_layout.shape().dims4()?;
        let (gradient, weight) = (
            values(gradient, gradient_layout)?,
            values(weight, weight_layout)?,
        );
        let plane = self.plane;
        let n_taps = plane.kernel * plane.kernel;
        let mut to_x = vec![0f32; b * c * plane.n_in()];
        to_x.par_chunks_mut(plane.n_in())
            .zip(gradient.par_chunks(plane.n_out()))
            .enumerate()
            .for_each(|(index, (to_x, gradient))| {
                let taps = &weight[index % c * n_taps..][..n_taps];
                plane.for_each_row_pair(|tap, start, range| {
                    let n = range.len();
                    let span = &mut to_x[start..][..(n - 1) * plane.stride + 1];
                    if plane.stride == 1 {
                        add_scaled(span, &gradient[range], 1, taps[tap]);
                    } else {
                        let targets = span.iter_mut().step_by(plane.stride);
                        targets
                            .zip(&gradient[range])
                            .for_each(|(t, g)| *t += taps[tap] * g);
                    }
                });
            });
        let [h, w] = plane.input;
        Ok((CpuStorage::F32(to_x), Shape::from((b, c, h, w))))
    }
}

struct WeightGradient {
    plane: Plane,
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "depthwise_conv2d_weight_gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, c, _, _) = x_layout.shape().dims4()?;
        let (x, gradient) = (values(x, x_layout)?, values(gradient, gradient_layout)?);
        let plane = self.plane;
        let n_taps = plane.kernel * plane.kernel;
        let mut to_weight = vec![0f32; c * n_taps];
        // Channels in parallel, images in order: the sum does not depend on the number of threads.
        to_weight
            .par_chunks_mut(n_taps)
            .enumerate()
            .for_each(|(channel, taps)| {
                for image in 0..b {
                    let index = image * c + channel;
                    let x = &x[index * plane.n_in()..][..plane.n_in()];
                    let gradient = &gradient[index * plane.n_out()..][..plane.n_out()];
                    plane.for_each_row_pair(|tap, start, range| {
                        taps[tap] += dot(&gradient[range], &x[start..], plane.stride);
                    });
                }
            });
        Ok((CpuStorage::F32(to_weight), Shape::from((c, n_taps))))
    }
}

/// Sum of products in eight lanes, so that it vectorizes; `b` is `stride` apart.
fn dot(a: &[f32], b: &[f32], stride: usize) -> f32 {
    if stride != 1 {
        return a
            .iter()
            .zip(b.iter().step_by(stride))
            .map(|(a, b)| a * b)
            .sum();
    }
    let mut lanes = [0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b[..a.len()].chunks_exact(8));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    rest + lanes.iter().sum::<f32>()
}
