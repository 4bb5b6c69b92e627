//! A linear layer or a 3x3 convolution in one pass: product in integers or f32, then scale, bias, residual and
//! activation while the sums are in the first cache.

use std::fmt;

use super::super::threads::for_chunks;
use super::activation::{Activation, gelu_of, gelu_tanh_of, hard_swish_of, relu_of};
use super::compute::{Compute, Operand};
use super::matmul::{COLS, PackedF32, PackedI8, ROWS, TILE_COLS, TILE_ROWS, Tile, TileF32};
use super::patches::Patches;
use super::vectorized;

/// Rows that are quantized, multiplied and finished at once.
const BLOCK: usize = 64;

/// (rows, K) -> (rows, N), or a map to rows; with a residual (rows, N) as second input where there is one. Each output
/// is `activation(product * scale + bias + residual)`, rounded after every step.
pub(crate) struct Linear {
    pub(crate) weights: Weights,
    /// N values, or none.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
    /// Where rows are patches of a map.
    pub(crate) patches: Option<Patches>,
}

pub(crate) enum Weights {
    F32(PackedF32),
    I8 {
        packed: PackedI8,
        /// One by the step of the activations.
        reciprocal: f32,
        /// Of the sums, N values or one.
        scales: Vec<f32>,
    },
}

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [k, n] = self.weights.shape();
        let kind = match self.weights {
            Weights::F32(_) => "f32",
            Weights::I8 { .. } => "int8",
        };
        write!(
            f,
            "Linear {kind} {k} x {n} {:?} {:?}",
            self.activation, self.patches
        )
    }
}

impl Weights {
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self {
            Self::F32(packed) => [packed.k, packed.n],
            Self::I8 { packed, .. } => [packed.k, packed.n],
        }
    }
}

impl Compute for Linear {
    fn name(&self) -> &'static str {
        match (&self.weights, &self.patches) {
            (Weights::F32(_), None) => "Linear",
            (Weights::I8 { .. }, None) => "LinearI8",
            (Weights::F32(_), Some(_)) => "ConvTokens",
            (Weights::I8 { .. }, Some(_)) => "ConvTokensI8",
        }
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let [k, n] = self.weights.shape();
        let rows = match (&self.patches, inputs[0]) {
            (Some(patches), shape) => patches.rows_of(shape)?,
            (None, &[rows, width]) if width == k => rows,
            (None, shape) => return Err(format!("takes (rows, {k}), not {shape:?}")),
        };
        match inputs.get(1) {
            Some(residual) if **residual != [rows, n] => {
                Err(format!("adds (rows, {n}), not {residual:?}"))
            }
            _ => Ok(vec![rows, n]),
        }
    }

    fn multiplications(&self, inputs: &[&[usize]]) -> u64 {
        let [k, n] = self.weights.shape();
        let shape = self.output_shape(&inputs[..1]).unwrap_or_default();
        shape.first().map_or(0, |rows| (rows * k * n) as u64)
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        let residual = inputs.get(1).map(|(values, _)| *values);
        match &self.weights {
            Weights::F32(packed) => self.run_f32(packed, inputs[0].0, residual, out),
            Weights::I8 {
                packed,
                reciprocal,
                scales,
            } => self.run_i8((packed, *reciprocal, scales), inputs[0].0, residual, out),
        }
    }
}

impl Linear {
    fn run_i8(
        &self,
        (packed, reciprocal, scales): (&PackedI8, f32, &[f32]),
        x: &[f32],
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (k, n, stride) = (packed.k, packed.n, packed.stride());
        let quantized = |values: &[f32], shape: [usize; 2], bytes: &mut [u8]| {
            vectorized(
                #[inline(always)]
                || packed.quantize(values, shape, reciprocal, bytes),
            );
        };
        let mut map = Vec::new();
        if let Some(patches) = &self.patches {
            map = vec![packed.zero(); x.len()];
            quantized(x, [patches.channels; 2], &mut map);
        }
        let own = || {
            (
                vec![packed.zero(); BLOCK * stride],
                [Tile::default(); BLOCK / ROWS],
            )
        };
        for_chunks(out, BLOCK * n, own, |(bytes, sums), block, out| {
            let start = block * BLOCK;
            let count = out.len() / n;
            let bytes = &mut bytes[..count * stride];
            match &self.patches {
                Some(patches) => patches.gather(&map, packed.zero(), start, stride, bytes),
                None => quantized(&x[start * k..][..count * k], [k, stride], bytes),
            }
            let residual = residual.map(|residual| &residual[start * n..][..count * n]);
            for panel in 0..packed.panels() {
                packed.multiply(bytes, panel, sums);
                let columns = Columns::<COLS>::of(self, panel * COLS, scales, n);
                let surplus = packed.surplus(panel);
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = sums.iter().flat_map(|tile| &tile.0);
                        columns.finish(rows.take(count), residual, out, |sum, col| {
                            (sum - surplus[col]) as f32 * columns.scales[col]
                        });
                    },
                );
            }
        });
    }

    fn run_f32(&self, packed: &PackedF32, x: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
        let (k, n) = (packed.k, packed.n);
        let own = || vec![0.0; if self.patches.is_some() { BLOCK * k } else { 0 }];
        for_chunks(out, BLOCK * n, own, |gathered, block, out| {
            let start = block * BLOCK;
            let count = out.len() / n;
            let rows = match &self.patches {
                Some(patches) => {
                    let rows = &mut gathered[..count * k];
                    patches.gather(x, 0.0, start, k, rows);
                    &*rows
                }
                None => &x[start * k..][..count * k],
            };
            let residual = residual.map(|residual| &residual[start * n..][..count * n]);
            for tile in 0..packed.tiles() {
                let columns = Columns::<TILE_COLS>::of(self, tile * TILE_COLS, &[1.0], n);
                vectorized(
                    #[inline(always)]
                    || {
                        for (i, rows) in rows.chunks(TILE_ROWS * k).enumerate() {
                            let count = rows.len() / k;
                            let place = i * TILE_ROWS * n..(i * TILE_ROWS + count) * n;
                            let residual = residual.map(|residual| &residual[place.clone()]);
                            let mut sums = TileF32::default();
                            packed.multiply(rows, tile, &mut sums);
                            let rows = sums.iter().take(count);
                            columns.finish(rows, residual, &mut out[place], |sum, _| sum);
                        }
                    },
                );
            }
        });
    }
}

/// What is done to the sums of some columns.
struct Columns<const N: usize> {
    /// Values of a row of the layer.
    row: usize,
    start: usize,
    /// Fewer than N in the last panel.
    width: usize,
    scales: [f32; N],
    bias: [f32; N],
    activation: Activation,
}

impl<const N: usize> Columns<N> {
    fn of(layer: &Linear, start: usize, scales: &[f32], n: usize) -> Self {
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
    fn finish<'a, T: Copy + 'a>(
        &self,
        sums: impl Iterator<Item = &'a [T; N]>,
        residual: Option<&[f32]>,
        out: &mut [f32],
        scaled: impl Fn(T, usize) -> f32,
    ) {
        for (row, (sums, out)) in sums.zip(out.chunks_exact_mut(self.row)).enumerate() {
            let residual = residual.map(|it| &it[row * self.row + self.start..][..self.width]);
            let out = &mut out[self.start..][..self.width];
            let whole = residual.map(<&[f32; N]>::try_from);
            match (<&mut [f32; N]>::try_from(&mut *out), whole) {
                // Loops over arrays of one length: the compiler makes a few vector instructions of each.
                (Ok(out), None) => {
                    for col in 0..N {
                        out[col] = scaled(sums[col], col) + self.bias[col];
                    }
                }
                (Ok(out), Some(Ok(residual))) => {
                    for col in 0..N {
                        out[col] = scaled(sums[col], col) + self.bias[col] + residual[col];
                    }
                }
                _ => {
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
