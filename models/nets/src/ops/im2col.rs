//! Convolution windows as the columns of a matrix, a few rows of the output at a time: the whole
//! matrix is k * k times the input and would leave the cache.

use std::ops::Range;

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::kernel::{axpy, vectorized};

/// How a k x k kernel lies on an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

/// Values of a block of columns: 4 MiB.
const BLOCK_VALUES: usize = 1 << 20;

impl Windows {
    pub(super) fn new(
        input: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        if stride == 0 || input.iter().any(|side| side + 2 * padding < kernel) {
            bail!("kernel {kernel}, stride {stride}, padding {padding} do not fit {input:?}");
        }
        let output = input.map(|side| (side + 2 * padding - kernel) / stride + 1);
        Ok(Self {
            input,
            output,
            kernel,
            stride,
            padding,
        })
    }

    /// How the kernels know them: `Windows` in `kernels.cu`.
    pub(super) fn numbers(&self, channels: usize) -> [usize; 8] {
        let ([height, width], [out_height, out_width]) = (self.input, self.output);
        let (k, stride, padding) = (self.kernel, self.stride, self.padding);
        [
            channels, height, width, out_height, out_width, k, stride, padding,
        ]
    }

    /// Whether the columns are the image itself.
    pub(super) fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (1, 1, 0)
    }

    pub(super) fn pixels_in(&self) -> usize {
        self.input[0] * self.input[1]
    }

    pub(super) fn pixels_out(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The output's rows in blocks whose columns, `channels * k * k` high, stay small.
    pub(super) fn row_blocks(&self, channels: usize) -> impl Iterator<Item = Range<usize>> {
        let [height, width] = self.output;
        let row = channels * self.kernel * self.kernel * width;
        let rows = (BLOCK_VALUES / row.max(1)).max(1);
        (0..height)
            .step_by(rows)
            .map(move |first| first..height.min(first + rows))
    }

    /// The output's columns that see the image at kernel column `kx`, and the first's pixel.
    #[inline(always)]
    pub(super) fn columns_at(&self, kx: usize) -> (Range<usize>, usize) {
        let [_, width] = self.output;
        let first = self
            .padding
            .saturating_sub(kx)
            .div_ceil(self.stride)
            .min(width);
        let seen = (self.input[1] + self.padding).saturating_sub(kx);
        let end = seen.div_ceil(self.stride).min(width).max(first);
        (
            first..end,
            (first * self.stride + kx).saturating_sub(self.padding),
        )
    }

    /// The image's row that output row `y` sees at kernel row `ky`.
    #[inline(always)]
    pub(super) fn row_at(&self, y: usize, ky: usize) -> Option<usize> {
        (y * self.stride + ky)
            .checked_sub(self.padding)
            .filter(|&row| row < self.input[0])
    }

    /// Fills `columns` (channels, k, k, rows, width) from `image` (channels, H, W).
    pub(super) fn gather(&self, image: &[f32], rows: Range<usize>, columns: &mut [f32]) {
        let (k, width) = (self.kernel, self.output[1]);
        let n = rows.len() * width;
        columns
            .par_chunks_mut(k * k * n)
            .zip(image.par_chunks(self.pixels_in()))
            .for_each(|(columns, image)| {
                for (tap, columns) in columns.chunks_exact_mut(n).enumerate() {
                    let (range, from) = self.columns_at(tap % k);
                    for (y, out) in rows.clone().zip(columns.chunks_exact_mut(width)) {
                        let Some(row) = self.row_at(y, tap / k) else {
                            out.fill(0.0);
                            continue;
                        };
                        out[..range.start].fill(0.0);
                        out[range.end..].fill(0.0);
                        let out = &mut out[range.clone()];
                        let image = &image[row * self.input[1] + from..];
                        if self.stride == 1 {
                            out.copy_from_slice(&image[..out.len()]);
                        } else {
                            for (out, &x) in out.iter_mut().zip(image.iter().step_by(self.stride)) {
                                *out = x;
                            }
                        }
                    }
                }
            });
    }

    /// The adjoint of `gather`: adds every column entry to the pixel it came from.
    pub(super) fn scatter(&self, columns: &[f32], rows: Range<usize>, image: &mut [f32]) {
        let (k, width) = (self.kernel, self.output[1]);
        let n = rows.len() * width;
        image
            .par_chunks_mut(self.pixels_in())
            .zip(columns.par_chunks(k * k * n))
            .for_each(|(image, columns)| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (tap, columns) in columns.chunks_exact(n).enumerate() {
                            let (range, from) = self.columns_at(tap % k);
                            for (y, column) in rows.clone().zip(columns.chunks_exact(width)) {
                                let Some(row) = self.row_at(y, tap / k) else {
                                    continue;
                                };
                                let column = &column[range.clone()];
                                let image = &mut image[row * self.input[1] + from..];
                                add_strided(image, self.stride, 1.0, column);
                            }
                        }
                    },
                );
            });
    }
}

/// Adds `scale * a` to every `stride`th value of `out`.
#[inline(always)]
pub(super) fn add_strided(out: &mut [f32], stride: usize, scale: f32, a: &[f32]) {
    if stride == 1 {
        axpy(out, scale, a);
    } else {
        for (out, &a) in out.iter_mut().step_by(stride).zip(a) {
            *out += scale * a;
        }
    }
}
