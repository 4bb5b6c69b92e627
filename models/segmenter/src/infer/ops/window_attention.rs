//! Self-attention inside the windows of a map, with a bias for every pair of tokens: scores, softmax and values of a
//! window and head while they are in the cache.

use std::ops::Range;

use super::super::threads::for_chunks;
use super::compute::{Compute, Operand};
use super::matmul::{COLS_F32, TILE_COLS, TILE_ROWS, TileF32, multiply};
use super::softmax::exponentials;
use super::vectorized;

/// (H * W, 3 C) -> (H * W, C): all q (with the scale of the scores), all k, all v; heads one after the other.
#[derive(Debug)]
pub(crate) struct WindowAttention {
    /// Windows down and across, and their side.
    pub(crate) windows: [usize; 2],
    pub(crate) side: usize,
    pub(crate) heads: usize,
    /// C / heads, a multiple of 16.
    pub(crate) head_dim: usize,
    /// (heads, N, N), N tokens in a window.
    pub(crate) bias: Vec<f32>,
}

impl Compute for WindowAttention {
    fn name(&self) -> &'static str {
        "WindowAttention"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String> {
        let channels = self.heads * self.head_dim;
        let area = self.side * self.side;
        let rows = self.windows.iter().product::<usize>() * area;
        if *inputs[0] != [rows, 3 * channels] || self.bias.len() != self.heads * area * area {
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
        let own = || Scratch::new(area, d);
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
    /// K transposed, in panels: (N / 16, d, 16).
    k: Vec<[f32; COLS_F32]>,
    /// In panels: (d / 16, N, 16).
    v: Vec<[f32; COLS_F32]>,
    /// (rows of a tile, N in whole panels)
    scores: Vec<f32>,
    /// Their exponentials: (rows of a tile, N).
    weights: Vec<f32>,
}

impl Scratch {
    fn new(area: usize, head_dim: usize) -> Self {
        let padded = area.div_ceil(COLS_F32) * COLS_F32;
        Self {
            q: vec![0.0; area * head_dim],
            k: vec![[0.0; COLS_F32]; padded / COLS_F32 * head_dim],
            v: vec![[0.0; COLS_F32]; area * head_dim / COLS_F32],
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
        for token in 0..area {
            let row = &qkv[self.row(window, token) * 3 * channels + head * d..];
            scratch.q[token * d..][..d].copy_from_slice(&row[..d]);
            let (panel, lane) = (token / COLS_F32, token % COLS_F32);
            for (c, &value) in row[channels..][..d].iter().enumerate() {
                scratch.k[panel * d + c][lane] = value;
            }
            let (values, _) = row[2 * channels..][..d].as_chunks::<COLS_F32>();
            for (panel, values) in values.iter().enumerate() {
                scratch.v[panel * area + token] = *values;
            }
        }
        let bias = &self.bias[head * area * area..][..area * area];
        for first in (0..area).step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(area - first);
            self.rows(scratch, bias, first..first + count, out);
        }
    }

    /// Some tokens of a window; `out` is (N, d).
    #[inline(always)]
    fn rows(&self, scratch: &mut Scratch, bias: &[f32], tokens: Range<usize>, out: &mut [f32]) {
        let (d, area) = (self.head_dim, self.side * self.side);
        let padded = scratch.k.len() / d * COLS_F32;
        let q = &scratch.q[tokens.start * d..tokens.end * d];
        for (tile, k) in scratch.k.chunks(2 * d).enumerate() {
            let scores = &mut scratch.scores[tile * TILE_COLS..];
            multiply(q, d, k, scores, padded);
        }
        let mut scales = [0.0; TILE_ROWS];
        for (row, token) in tokens.clone().enumerate() {
            let bias = &bias[token * area..][..area];
            let scores = &mut scratch.scores[row * padded..][..area];
            scales[row] = exponentials(scores, bias);
            if padded > area {
                scratch.weights[row * area..][..area].copy_from_slice(scores);
            }
        }
        let weights = if padded > area {
            &scratch.weights
        } else {
            &scratch.scores
        };
        let weights = &weights[..tokens.len() * area];
        for (tile, v) in scratch.v.chunks(2 * area).enumerate() {
            let mut sums = TileF32::default();
            multiply(weights, area, v, sums.as_flattened_mut(), TILE_COLS);
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
