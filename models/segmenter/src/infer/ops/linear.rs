//! A linear layer or a 3x3 convolution in one pass: product in integers or f32, then scale, bias, residual and
//! activation while the sums are in the first cache. Where what it multiplies is made by another layer alone, that one is
//! computed block by block with it.

mod columns;
mod layer;

use std::fmt;

use contract::vector::vectorized;

use self::columns::Columns;
pub(crate) use self::layer::{Linear, Rows, Weights};
use super::super::threads::for_chunks;
use super::compute::{Compute, Operand};
use super::matmul::{
    COLS, PackedF32, PackedI8, ROWS, RowsF32, TILE_COLS, TILE_ROWS, Tile, TileF32,
};

/// Rows that are quantized, multiplied and finished at once.
const BLOCK: usize = 64;

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [k, n] = self.weights.shape();
        write!(
            f,
            "{} {k} x {n} {:?} of {:?}",
            self.name(),
            self.activation,
            self.rows
        )
    }
}

impl Compute for Linear {
    fn name(&self) -> &'static str {
        match (&self.weights, &self.rows) {
            (Weights::F32(_), Rows::Given) => "Linear",
            (Weights::I8 { .. }, Rows::Given) => "LinearI8",
            (Weights::F32(_), Rows::Patches(_)) => "ConvTokens",
            (Weights::I8 { .. }, Rows::Patches(_)) => "ConvTokensI8",
            (Weights::F32(_), Rows::Depthwise(_)) => "DepthwiseLinear",
            (Weights::I8 { .. }, Rows::Depthwise(_)) => "DepthwiseLinearI8",
            (Weights::F32(_), Rows::Linear(_)) => "Mlp",
            (Weights::I8 { .. }, Rows::Linear(_)) => "MlpI8",
        }
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let [k, n] = self.weights.shape();
        let made = match &self.rows {
            Rows::Given => inputs[0].to_vec(),
            Rows::Patches(patches) => vec![patches.rows_of(inputs[0])?, k],
            Rows::Depthwise(depthwise) => depthwise.output_shape(&inputs[..1])?,
            Rows::Linear(first) => first.output_shape(&inputs[..1])?,
        };
        let &[rows, width] = &made[..] else {
            return Err(format!("takes (rows, {k}), not {made:?}"));
        };
        if width != k {
            return Err(format!("takes (rows, {k}), not {made:?}"));
        }
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
        let own = shape.first().map_or(0, |rows| (rows * k * n) as u64);
        own + match &self.rows {
            Rows::Given | Rows::Patches(_) => 0,
            Rows::Depthwise(depthwise) => depthwise.multiplications(inputs),
            Rows::Linear(first) => first.multiplications(inputs),
        }
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        let [_, n] = self.weights.shape();
        let residual = inputs.get(1).map(|(values, _)| *values);
        let input = Input::of(self, inputs[0].0);
        for_chunks(
            out,
            BLOCK * n,
            || Scratch::of(self),
            |scratch, block, out| {
                let start = block * BLOCK;
                let residual = residual.map(|it| &it[start * n..][..out.len()]);
                self.block(&input, start, residual, scratch, out);
            },
        );
    }
}

/// The input of a layer.
struct Input<'a> {
    values: &'a [f32],
    /// The same in steps, where patches are gathered from it.
    map: Vec<u8>,
}

impl<'a> Input<'a> {
    fn of(layer: &Linear, values: &'a [f32]) -> Self {
        let mut map = Vec::new();
        if let (Weights::I8 { packed, .. }, Rows::Patches(patches)) = (&layer.weights, &layer.rows)
        {
            map = vec![packed.zero(); values.len()];
            layer.quantize(values, [patches.channels; 2], &mut map);
        }
        Self { values, map }
    }
}

/// What a thread needs for a block.
struct Scratch {
    /// (BLOCK, K), where rows are made here.
    rows: Vec<f32>,
    /// The same in steps, for int8.
    bytes: Vec<u8>,
    sums: [Tile; BLOCK / ROWS],
    /// The rows as numbers of 16 bits, where f32 is multiplied so.
    rounded: Vec<u16>,
    /// Of the layer that makes the rows.
    first: Option<Box<Scratch>>,
}

impl Scratch {
    fn of(layer: &Linear) -> Self {
        let [k, _] = layer.weights.shape();
        let (bytes, made) = match (&layer.weights, &layer.rows) {
            (Weights::I8 { packed, .. }, rows) => (
                vec![packed.zero(); BLOCK * packed.stride()],
                !matches!(rows, Rows::Given | Rows::Patches(_)),
            ),
            (Weights::F32(_), rows) => (Vec::new(), !matches!(rows, Rows::Given)),
        };
        Self {
            rows: vec![0.0; if made { BLOCK * k } else { 0 }],
            bytes,
            sums: [Tile::default(); BLOCK / ROWS],
            rounded: match &layer.weights {
                Weights::F32(packed) => packed.space(BLOCK),
                Weights::I8 { .. } => Vec::new(),
            },
            first: match &layer.rows {
                Rows::Linear(first) => Some(Box::new(Self::of(first))),
                _ => None,
            },
        }
    }
}

impl Linear {
    /// Rows from `start` on, as many as `out` has, at most [`BLOCK`].
    fn block(
        &self,
        input: &Input,
        start: usize,
        residual: Option<&[f32]>,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let [k, n] = self.weights.shape();
        let count = out.len() / n;
        let Scratch {
            rows,
            bytes,
            sums,
            rounded,
            first,
        } = scratch;
        let rows = &mut rows[..];
        let rows: &[f32] = match &self.rows {
            Rows::Given => &input.values[start * k..][..count * k],
            Rows::Patches(_) if !input.map.is_empty() => &[],
            Rows::Patches(patches) => {
                let rows = &mut rows[..count * k];
                patches.gather(input.values, 0.0, start, k, rows);
                rows
            }
            Rows::Depthwise(depthwise) => {
                let rows = &mut rows[..count * k];
                depthwise.rows(input.values, start, rows);
                rows
            }
            Rows::Linear(layer) => {
                let rows = &mut rows[..count * k];
                if let Some(scratch) = first {
                    layer.block(input, start, None, scratch, rows);
                }
                rows
            }
        };
        match &self.weights {
            Weights::F32(packed) => {
                self.finish_f32(packed, packed.rows(rows, rounded), residual, out);
            }
            Weights::I8 { packed, scales, .. } => {
                let stride = packed.stride();
                let bytes = &mut bytes[..count * stride];
                match &self.rows {
                    Rows::Patches(patches) => {
                        patches.gather(&input.map, packed.zero(), start, stride, bytes);
                    }
                    _ => self.quantize(rows, [k, stride], bytes),
                }
                self.finish_i8((packed, scales), bytes, sums, residual, out);
            }
        }
    }

    fn quantize(&self, values: &[f32], shape: [usize; 2], bytes: &mut [u8]) {
        if let Weights::I8 {
            packed, reciprocal, ..
        } = &self.weights
        {
            vectorized(
                #[inline(always)]
                || packed.quantize(values, shape, *reciprocal, bytes),
            );
        }
    }

    fn finish_i8(
        &self,
        (packed, scales): (&PackedI8, &[f32]),
        bytes: &[u8],
        sums: &mut [Tile],
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let n = packed.n;
        for panel in 0..packed.panels() {
            packed.multiply(bytes, panel, sums);
            let columns = Columns::<COLS>::of(self, panel * COLS, scales, n);
            let surplus = packed.surplus(panel);
            vectorized(
                #[inline(always)]
                || {
                    for (i, (tile, out)) in sums.iter().zip(out.chunks_mut(ROWS * n)).enumerate() {
                        let residual = residual.map(|it| &it[i * ROWS * n..][..out.len()]);
                        columns.finish(&tile.0, residual, out, |sum, col| {
                            (sum - surplus[col]) as f32 * columns.scales[col]
                        });
                    }
                },
            );
        }
    }

    fn finish_f32(
        &self,
        packed: &PackedF32,
        rows: RowsF32,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let n = packed.n;
        for tile in 0..packed.tiles() {
            let columns = Columns::<TILE_COLS>::of(self, tile * TILE_COLS, &[1.0], n);
            vectorized(
                #[inline(always)]
                || {
                    for (i, out) in out.chunks_mut(TILE_ROWS * n).enumerate() {
                        let first = i * TILE_ROWS;
                        let residual = residual.map(|it| &it[first * n..][..out.len()]);
                        let mut sums = TileF32::default();
                        packed.multiply(rows, first, tile, sums.as_flattened_mut(), TILE_COLS);
                        columns.finish(&sums, residual, out, |sum, _| sum);
                    }
                },
            );
        }
    }
}
