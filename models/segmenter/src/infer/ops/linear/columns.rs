//! What is done to sums while they are in the first cache: scale, bias, residual, activation.

use super::super::activation::{Activation, gelu_of, gelu_tanh_of, hard_swish_of, relu_of};
use super::layer::Linear;

/// What is done to the sums of some columns.
pub(super) struct Columns<const N: usize> {
    /// Values of a row of the layer.
    row: usize,
    start: usize,
    /// Fewer than N in the last panel.
    width: usize,
    pub(super) scales: [f32; N],
    bias: [f32; N],
    activation: Activation,
}

impl<const N: usize> Columns<N> {
    pub(super) fn of(layer: &Linear, start: usize, scales: &[f32], n: usize) -> Self {
        let width = N.min(n - start);
        let part = |values: &[f32], default: f32| {
            std::array::from_fn(|col| match values {
                [] => default,
                [one] => *one,
                many => many.get(start + col).copied().unwrap_or(default),
            })
        };
        Self {
            row: n,
            start,
            width,
            scales: part(scales, 1.0),
            bias: part(&layer.bias, 0.0),
            activation: layer.activation,
        }
    }

    /// Rows of `out` from those of the sums, `scaled(sum, column)`; `out` and `residual` are whole rows of the layer.
    #[inline(always)]
    pub(super) fn finish<T: Copy>(
        &self,
        sums: &[[T; N]],
        residual: Option<&[f32]>,
        out: &mut [f32],
        scaled: impl Fn(T, usize) -> f32,
    ) {
        let rows = sums.iter().zip(out.chunks_exact_mut(self.row));
        match residual {
            // Loops over arrays of one length: the compiler makes a few vector instructions of each.
            None if self.width == N => {
                for (sums, out) in rows {
                    let out: &mut [f32; N] = self.columns_mut(out);
                    for col in 0..N {
                        out[col] = scaled(sums[col], col) + self.bias[col];
                    }
                }
            }
            Some(residual) if self.width == N => {
                for ((sums, out), residual) in rows.zip(residual.chunks_exact(self.row)) {
                    let residual: &[f32; N] =
                        residual[self.start..].first_chunk().expect("N columns");
                    let out = self.columns_mut(out);
                    for col in 0..N {
                        out[col] = scaled(sums[col], col) + self.bias[col] + residual[col];
                    }
                }
            }
            _ => {
                for (row, (sums, out)) in rows.enumerate() {
                    let residual = residual.map(|it| &it[row * self.row + self.start..]);
                    let out = &mut out[self.start..][..self.width];
                    for (col, out) in out.iter_mut().enumerate() {
                        let sum = scaled(sums[col], col) + self.bias[col];
                        *out = residual.map_or(sum, |it| sum + it[col]);
                    }
                }
            }
        }
        match self.activation {
            Activation::None => {}
            Activation::Gelu => self.activate(out, gelu_of),
            Activation::GeluTanh => self.activate(out, gelu_tanh_of),
            Activation::HardSwish => self.activate(out, hard_swish_of),
            Activation::Relu => self.activate(out, relu_of),
        }
    }

    #[inline(always)]
    fn columns_mut<'a>(&self, row: &'a mut [f32]) -> &'a mut [f32; N] {
        row[self.start..].first_chunk_mut().expect("N columns")
    }

    /// A loop of its own: together with the one above it is too much for the compiler to make vectors of.
    #[inline(always)]
    fn activate(&self, out: &mut [f32], function: impl Fn(f32) -> f32) {
        for out in out.chunks_exact_mut(self.row) {
            let out = &mut out[self.start..][..self.width];
            if let Ok(out) = <&mut [f32; N]>::try_from(&mut *out) {
                for value in out {
                    *value = function(*value);
                }
            } else {
                for value in out {
                    *value = function(*value);
                }
            }
        }
    }
}
