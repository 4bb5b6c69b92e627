//! A depthwise 3x3 convolution with padding 1 on tokens: channels lie side by side, so they fill the vectors.

use contract::vector::vectorized;

use super::super::threads::for_chunks;
use super::activation::Activation;
use super::compute::{Compute, Operand};
use super::patches::Patches;

/// Channels of a register of AVX-512.
const LANES: usize = 16;
/// Registers whose sums are made at once.
const PARTS: usize = 2;

/// (H * W, C) -> (H' * W', C)
#[derive(Debug)]
pub(crate) struct Depthwise {
    pub(crate) patches: Patches,
    /// (9, C)
    pub(crate) taps: Vec<f32>,
    /// C values.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
}

impl Compute for Depthwise {
    fn name(&self) -> &'static str {
        "Depthwise"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let rows = self.patches.rows_of(inputs[0])?;
        Ok(vec![rows, self.patches.channels])
    }

    fn multiplications(&self, _: &[&[usize]]) -> u64 {
        (self.patches.out().iter().product::<usize>() * 9 * self.patches.channels) as u64
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        let [_, width] = self.patches.out();
        for_chunks(
            out,
            width * self.patches.channels,
            || (),
            |(), y, out| self.rows(inputs[0].0, y * width, out),
        );
    }
}

impl Depthwise {
    /// Output pixels from `start` on, as many as `out` holds.
    pub(super) fn rows(&self, x: &[f32], start: usize, out: &mut [f32]) {
        let Patches {
            height,
            width,
            channels,
            stride,
            ..
        } = self.patches;
        let [_, out_width] = self.patches.out();
        vectorized(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                    let place = start + i;
                    let (top, left) = (place / out_width * stride, place % out_width * stride);
                    // Start of the input and of the weights for each tap inside.
                    let mut inside = [(0, 0); 9];
                    let mut n_inside = 0;
                    for tap in 0..9 {
                        let (y, x) = (top + tap / 3, left + tap % 3);
                        if (1..=height).contains(&y) && (1..=width).contains(&x) {
                            let from = ((y - 1) * width + x - 1) * channels;
                            inside[n_inside] = (from, tap * channels);
                            n_inside += 1;
                        }
                    }
                    self.pixel(x, &inside[..n_inside], out);
                }
            },
        );
    }

    #[inline(always)]
    fn pixel(&self, x: &[f32], inside: &[(usize, usize)], out: &mut [f32]) {
        let (wide, rest) = out.as_chunks_mut::<{ LANES * PARTS }>();
        let whole = wide.len() * LANES * PARTS;
        for (i, out) in wide.iter_mut().enumerate() {
            let start = i * LANES * PARTS;
            let part = |values: &[f32], from: usize| -> [[f32; LANES]; PARTS] {
                let (parts, _) = values[from + start..][..LANES * PARTS].as_chunks();
                std::array::from_fn(|part| parts[part])
            };
            let mut sums = part(&self.bias, 0);
            for &(from, tap) in inside {
                let (x, taps) = (part(x, from), part(&self.taps, tap));
                for part in 0..PARTS {
                    for lane in 0..LANES {
                        let sum = &mut sums[part][lane];
                        *sum = x[part][lane].mul_add(taps[part][lane], *sum);
                    }
                }
            }
            out.copy_from_slice(sums.as_flattened());
        }
        for (i, out) in rest.iter_mut().enumerate() {
            let channel = whole + i;
            let mut sum = self.bias[channel];
            for &(from, tap) in inside {
                sum = x[from + channel].mul_add(self.taps[tap + channel], sum);
            }
            *out = sum;
        }
        self.activation.on(out);
    }
}
