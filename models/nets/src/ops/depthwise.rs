//! Depthwise convolution: one small kernel per channel. candle splits it into one convolution a
//! channel; here every plane is one pass over memory, planes in parallel.

use candle_core::{CpuStorage, CudaStorage, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::im2col::{Windows, add_strided};
use super::kernel::{axpy, dot, in_f32, kernel, like, values, vectorized};
use super::launch::Launch;
use super::operation::{Custom, Input, Operation};

/// Convolution of each channel of `x` (B, C, H, W) with its kernel in `weight` (C, 1, k, k).
pub fn depthwise_conv2d(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (_, channels, h, w) = x.dims4()?;
    let kernel = weight.dim(2)?;
    if weight.dims() != [channels, 1, kernel, kernel] {
        bail!(
            "depthwise_conv2d: input {:?} does not go with weight {:?}",
            x.dims(),
            weight.dims()
        );
    }
    let windows = Windows::new([h, w], kernel, stride, padding)?;
    in_f32(x, |x| {
        x.apply_op2(&like(x, weight)?, Custom(Depthwise { windows }))
    })
}

struct Depthwise {
    windows: Windows,
}

impl Depthwise {
    /// With the output's shape.
    fn launch(&self, x: &Layout) -> Result<(Launch, Shape)> {
        let (batch, channels, _, _) = x.shape().dims4()?;
        let [height, width] = self.windows.output;
        let shape = Shape::from((batch, channels, height, width));
        let numbers = self.windows.numbers(channels);
        Ok((
            Launch::each("depthwise", shape.elem_count(), &numbers),
            shape,
        ))
    }

    /// Wide vectors make the strided loops slower than narrow ones: they gather.
    #[inline(always)]
    fn run(&self, f: impl FnOnce()) {
        if self.windows.stride == 1 {
            vectorized(f);
        } else {
            f();
        }
    }

    fn taps(&self) -> usize {
        self.windows.kernel * self.windows.kernel
    }

    /// Calls `f(tap, input's start, output's range)` for every pair of rows that a kernel tap
    /// connects; the pixels of the range lie `stride` input pixels apart.
    #[inline(always)]
    fn for_each_row_pair(&self, mut f: impl FnMut(usize, usize, std::ops::Range<usize>)) {
        let Windows {
            input: [_, width],
            output: [out_height, out_width],
            kernel,
            ..
        } = self.windows;
        for y in 0..out_height {
            for ky in 0..kernel {
                let Some(row) = self.windows.row_at(y, ky) else {
                    continue;
                };
                for kx in 0..kernel {
                    let (range, column) = self.windows.columns_at(kx);
                    if !range.is_empty() {
                        let at = y * out_width;
                        let range = at + range.start..at + range.end;
                        f(ky * kernel + kx, row * width + column, range);
                    }
                }
            }
        }
    }

    fn input_gradient(&self, weight: &Tensor, grad: &Tensor, shape: &Shape) -> Result<Tensor> {
        let (taps, channels) = (self.taps(), weight.dim(0)?);
        let Windows { stride, .. } = self.windows;
        let numbers = self.windows.numbers(channels);
        kernel(
            Launch::each("depthwise_input_gradient", shape.elem_count(), &numbers),
            [weight, grad],
            shape,
            |[weight, grad], out| {
                out.par_chunks_mut(self.windows.pixels_in())
                    .zip(grad.par_chunks(self.windows.pixels_out()))
                    .enumerate()
                    .for_each(|(index, (out, grad))| {
                        let weight = &weight[index % channels * taps..][..taps];
                        self.run(
                            #[inline(always)]
                            || {
                                self.for_each_row_pair(
                                    #[inline(always)]
                                    |tap, start, range| {
                                        add_strided(
                                            &mut out[start..],
                                            stride,
                                            weight[tap],
                                            &grad[range],
                                        );
                                    },
                                );
                            },
                        );
                    });
            },
        )
    }

    /// Channels in parallel, images in order: the sum does not depend on the threads.
    fn weight_gradient(&self, x: &Tensor, grad: &Tensor, shape: &Shape) -> Result<Tensor> {
        let (batch, channels) = (x.dim(0)?, x.dim(1)?);
        let (taps, stride) = (self.taps(), self.windows.stride);
        let (pixels_in, pixels_out) = (self.windows.pixels_in(), self.windows.pixels_out());
        let numbers = [&[batch], &self.windows.numbers(channels)[..]].concat();
        kernel(
            Launch::blocks("depthwise_weight_gradient", channels * taps, &numbers),
            [x, grad],
            shape,
            |[x, grad], out| {
                out.par_chunks_mut(taps)
                    .enumerate()
                    .for_each(|(channel, out)| {
                        for index in (0..batch).map(|image| image * channels + channel) {
                            let x = &x[index * pixels_in..][..pixels_in];
                            let grad = &grad[index * pixels_out..][..pixels_out];
                            self.run(
                                #[inline(always)]
                                || {
                                    self.for_each_row_pair(
                                        #[inline(always)]
                                        |tap, start, range| {
                                            out[tap] +=
                                                dot_strided(&grad[range], &x[start..], stride);
                                        },
                                    );
                                },
                            );
                        }
                    });
            },
        )
    }
}

/// Sum of `a` times every `stride`th value of `b`.
#[inline(always)]
fn dot_strided(a: &[f32], b: &[f32], stride: usize) -> f32 {
    if stride == 1 {
        dot(a, &b[..a.len()])
    } else {
        a.iter()
            .zip(b.iter().step_by(stride))
            .map(|(a, b)| a * b)
            .sum()
    }
}

impl Operation<2> for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise-conv2d"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, _, _) = l1.shape().dims4()?;
        let (x, weight) = (values(s1, l1)?, values(s2, l2)?);
        let (taps, stride) = (self.taps(), self.windows.stride);
        let mut out = vec![0f32; batch * channels * self.windows.pixels_out()];
        out.par_chunks_mut(self.windows.pixels_out())
            .zip(x.par_chunks(self.windows.pixels_in()))
            .enumerate()
            .for_each(|(index, (out, x))| {
                let weight = &weight[index % channels * taps..][..taps];
                self.run(
                    #[inline(always)]
                    || {
                        self.for_each_row_pair(
                            #[inline(always)]
                            |tap, start, range| {
                                let out = &mut out[range];
                                if stride == 1 {
                                    axpy(out, weight[tap], &x[start..]);
                                } else {
                                    for (out, &x) in
                                        out.iter_mut().zip(x[start..].iter().step_by(stride))
                                    {
                                        *out += weight[tap] * x;
                                    }
                                }
                            },
                        );
                    },
                );
            });
        #[cfg(test)]
        super::launch::recorder::record(Some(&self.launch(l1)?.0), &[x, weight], &out);
        Ok((CpuStorage::F32(out), self.launch(l1)?.1))
    }

    fn forward_on_gpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CudaStorage>; 2],
    ) -> Result<(CudaStorage, Shape)> {
        let (launch, shape) = self.launch(l1)?;
        launch.run(&[(s1, l1), (s2, l2)], shape)
    }

    fn gradients(
        &self,
        [x, weight]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let grad = grad.contiguous()?;
        let to_x = x
            .track_op()
            .then(|| self.input_gradient(weight, &grad, x.shape()));
        let to_weight = weight
            .track_op()
            .then(|| self.weight_gradient(x, &grad, weight.shape()));
        Ok([to_x.transpose()?, to_weight.transpose()?])
    }
}
