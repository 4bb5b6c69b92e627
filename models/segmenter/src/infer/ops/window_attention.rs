//! Self-attention inside the windows of a map, with a bias for every pair of tokens: scores, softmax and values of a
//! window and head while they are in the cache.

use std::ops::Range;

use contract::vector::vectorized;

use super::super::threads::for_chunks;
use super::compute::{Compute, Operand};
use super::matmul::{COLS_F32, Half, PackedF32, TILE_COLS, TILE_ROWS, TileF32};
use super::relative_bias::RelativeBias;
use super::softmax::exponentials;

/// (H * W, 3 C) -> (H * W, C): all q (with the scale of the scores), all k, all v; heads one after the other.
#[derive(Debug)]
pub(crate) struct WindowAttention {
    /// Windows down and across, and their side.
    pub(crate) windows: [usize; 2],
    pub(crate) side: usize,
    pub(crate) heads: usize,
    /// C / heads, a multiple of 16.
    pub(crate) head_dim: usize,
    pub(crate) bias: RelativeBias,
    /// Products of 16 bits instead of 32.
    pub(crate) half: Option<&'static Half>,
}

impl Compute for WindowAttention {
    fn name(&self) -> &'static str {
        "WindowAttention"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let channels = self.heads * self.head_dim;
        let area = self.side * self.side;
        let rows = self.windows.iter().product::<usize>() * area;
        if *inputs[0] != [rows, 3 * channels] || self.bias.heads() != self.heads {
            return Err(format!(
                "of {rows} tokens and {channels} channels takes no {:?}",
                inputs[0]
            ));
        }
        Ok(vec![rows, channels])
    }

    fn multiplications(&self, inputs: &[&[usize]]) -> u64 {
        // Scores and values: every token with every other of its window.
        (2 * inputs[0][0] * self.side * self.side * self.heads * self.head_dim) as u64
    }

    fn run(&self, inputs: &[Operand], out: &mut [f32]) {
        let (area, d) = (self.side * self.side, self.head_dim);
        // A window and head after the other, each by itself.
        let mut mixed = vec![0.0; out.len()];
        let own = || Scratch::new(self);
        for_chunks(&mut mixed, area * d, own, |scratch, index, mixed| {
            let place = (index / self.heads, index % self.heads);
            vectorized(
                #[inline(always)]
                || self.head(inputs[0].0, place, scratch, mixed),
            );
        });
        for (index, mixed) in mixed.chunks_exact(area * d).enumerate() {
            let (window, head) = (index / self.heads, index % self.heads);
            for (token, values) in mixed.chunks_exact(d).enumerate() {
                let row = self.row(window, token) * self.heads * d;
                out[row + head * d..][..d].copy_from_slice(values);
            }
        }
    }
}

struct Scratch {
    /// (N, d)
    q: Vec<f32>,
    /// (d, N)
    k: PackedF32,
    /// (N, d)
    v: PackedF32,
    /// (rows of a tile, N in whole panels)
    scores: Vec<f32>,
    /// Their exponentials: (rows of a tile, N).
    weights: Vec<f32>,
    /// Rows of a tile, rounded.
    rounded: [Vec<u16>; 2],
}

impl Scratch {
    fn new(attention: &WindowAttention) -> Self {
        let (area, d) = (attention.side * attention.side, attention.head_dim);
        let padded = area.next_multiple_of(COLS_F32);
        let k = PackedF32::zeros(d, area, attention.half);
        let v = PackedF32::zeros(area, d, attention.half);
        Self {
            q: vec![0.0; area * d],
            rounded: [k.space(TILE_ROWS), v.space(TILE_ROWS)],
            k,
            v,
            scores: vec![0.0; TILE_ROWS * padded + COLS_F32],
            weights: vec![0.0; TILE_ROWS * area],
        }
    }
}

impl WindowAttention {
    #[inline(always)]
    fn head(
        &self,
        qkv: &[f32],
        (window, head): (usize, usize),
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let (d, area) = (self.head_dim, self.side * self.side);
        let channels = self.heads * d;
        let (panels_of_k, panels_of_v) = (scratch.k.lines_mut(), scratch.v.lines_mut());
        for (token, q) in scratch.q.chunks_exact_mut(d).enumerate() {
            let row = &qkv[self.row(window, token) * 3 * channels + head * d..];
            q.copy_from_slice(&row[..d]);
            let (panel, lane) = (token / COLS_F32, token % COLS_F32);
            let lines = &mut panels_of_k[panel * d..][..d];
            for (line, &value) in lines.iter_mut().zip(&row[channels..]) {
                line[lane] = value;
            }
            let (values, _) = row[2 * channels..][..d].as_chunks::<COLS_F32>();
            for (panel, values) in values.iter().enumerate() {
                panels_of_v[panel * area + token] = *values;
            }
        }
        scratch.k.round();
        scratch.v.round();
        for first in (0..area).step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(area - first);
            self.rows(scratch, head, first..first + count, out);
        }
    }

    /// Some tokens of a window; `out` is (N, d).
    #[inline(always)]
    fn rows(&self, scratch: &mut Scratch, head: usize, tokens: Range<usize>, out: &mut [f32]) {
        let (d, area) = (self.head_dim, self.side * self.side);
        let padded = area.next_multiple_of(COLS_F32);
        let Scratch {
            q,
            k,
            v,
            scores,
            weights,
            rounded: [rounded_q, rounded_weights],
        } = scratch;
        let q = k.rows(&q[tokens.start * d..tokens.end * d], rounded_q);
        for tile in 0..k.tiles() {
            k.multiply(q, 0, tile, &mut scores[tile * TILE_COLS..], padded);
        }
        let mut scales = [0.0; TILE_ROWS];
        for (row, token) in tokens.clone().enumerate() {
            let scores = &mut scores[row * padded..][..area];
            self.bias.add(scores, head, token);
            scales[row] = exponentials(scores);
            if padded > area {
                weights[row * area..][..area].copy_from_slice(scores);
            }
        }
        let weights = if padded > area { weights } else { scores };
        let weights = v.rows(&weights[..tokens.len() * area], rounded_weights);
        for tile in 0..v.tiles() {
            let mut sums = TileF32::default();
            v.multiply(weights, 0, tile, sums.as_flattened_mut(), TILE_COLS);
            let width = TILE_COLS.min(d - tile * TILE_COLS);
            for ((token, sums), scale) in tokens.clone().zip(&sums).zip(scales) {
                let out = &mut out[token * d + tile * TILE_COLS..][..width];
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum * scale;
                }
            }
        }
    }

    /// Row of a window's token in the map.
    #[inline(always)]
    fn row(&self, window: usize, token: usize) -> usize {
        let (down, across) = (window / self.windows[1], window % self.windows[1]);
        let (y, x) = (token / self.side, token % self.side);
        (down * self.side + y) * self.windows[1] * self.side + across * self.side + x
    }
}
