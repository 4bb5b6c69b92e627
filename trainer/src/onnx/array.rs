//! Small dense arithmetic for what is constant at export time.

use anyhow::{Result, ensure};

/// A dense row-major f32 tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl Array {
    pub fn new(shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "shape {shape:?} fits its data"
        );
        Self {
            shape: shape.to_vec(),
            data,
        }
    }

    pub fn map(&self, f: impl Fn(f32) -> f32) -> Self {
        Self {
            shape: self.shape.clone(),
            data: self.data.iter().map(|&x| f(x)).collect(),
        }
    }

    /// Element-wise sum of two tensors of one shape.
    pub fn plus(&self, other: &Self) -> Self {
        assert_eq!(self.shape, other.shape, "shapes of a sum agree");
        let data = self
            .data
            .iter()
            .zip(&other.data)
            .map(|(a, b)| a + b)
            .collect();
        Self {
            shape: self.shape.clone(),
            data,
        }
    }

    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    pub fn row(&self, index: usize) -> &[f32] {
        let length = self.data.len() / self.shape[0];
        &self.data[index * length..(index + 1) * length]
    }

    /// Rows of a matrix in another order, or a choice of them.
    pub fn select_rows(&self, order: &[usize]) -> Self {
        let data = order
            .iter()
            .flat_map(|&index| self.row(index).iter().copied())
            .collect();
        let mut shape = self.shape.clone();
        shape[0] = order.len();
        Self { shape, data }
    }

    /// (m, n) -> (n, m).
    pub fn transposed(&self) -> Self {
        let (m, n) = (self.shape[0], self.shape[1]);
        let data = (0..n * m).map(|i| self.data[i % m * n + i / m]).collect();
        Self {
            shape: vec![n, m],
            data,
        }
    }

    /// `self` (t, in) times the transpose of `weight` (out, in), plus `bias` (out).
    pub fn linear(&self, weight: &Self, bias: &Self) -> Result<Self> {
        ensure!(
            self.shape[1] == weight.shape[1],
            "a linear layer of {} inputs meets {} channels",
            weight.shape[1],
            self.shape[1]
        );
        let mut data = Vec::with_capacity(self.rows() * weight.rows());
        for t in 0..self.rows() {
            for o in 0..weight.rows() {
                data.push((dot(self.row(t), weight.row(o)) + f64::from(bias.data[o])) as f32);
            }
        }
        Ok(Self {
            shape: vec![self.rows(), weight.rows()],
            data,
        })
    }

    /// LayerNorm over the last axis of a matrix.
    pub fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for t in 0..self.rows() {
            let row = self.row(t);
            let length = row.len() as f64;
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / length;
            let variance = row
                .iter()
                .map(|&x| (f64::from(x) - mean).powi(2))
                .sum::<f64>()
                / length;
            let scale = (variance + epsilon).sqrt().recip();
            data.extend(row.iter().enumerate().map(|(i, &x)| {
                let normal = (f64::from(x) - mean) * scale;
                (normal * f64::from(weight.data[i]) + f64::from(bias.data[i])) as f32
            }));
        }
        Self {
            shape: self.shape.clone(),
            data,
        }
    }

    /// Multi-head attention of `self` (queries, t x c) to `keys` and `values`, scaled by the root of
    /// the channels of a head.
    pub fn attention(&self, keys: &Self, values: &Self, heads: usize) -> Self {
        let channels = self.shape[1];
        let width = channels / heads;
        let scale = (width as f64).sqrt().recip();
        let mut data = vec![0.0; self.data.len()];
        for head in 0..heads {
            let part = head * width..(head + 1) * width;
            for t in 0..self.rows() {
                let query = &self.row(t)[part.clone()];
                let scores: Vec<f64> = (0..keys.rows())
                    .map(|j| scale * dot(query, &keys.row(j)[part.clone()]))
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for c in part.clone() {
                    let mixed: f64 = (0..values.rows())
                        .map(|j| weights[j] * f64::from(values.row(j)[c]))
                        .sum();
                    data[t * channels + c] = (mixed / sum) as f32;
                }
            }
        }
        Self {
            shape: self.shape.clone(),
            data,
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}
