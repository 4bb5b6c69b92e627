//! Bottleneck adapters (finetune-SAM's `Adapter`).

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::layers::Linear;
use crate::ops;
use crate::params::{Init, Params};

/// Which parts carry adapters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// ViT: blocks. TinyViT: i means all blocks of `layers.{i + 1}`.
    pub encoder_layers: Vec<usize>,
    /// Leading decoder layers.
    pub decoder_depth: usize,
}

/// D -> D / 4 -> D with GELU between.
pub struct Adapter {
    fc1: Linear,
    fc2: Linear,
}

impl Adapter {
    pub fn new(dim: usize, params: &Params) -> Result<Self> {
        let hidden = dim / 4;
        Self::build(
            dim,
            [[Init::fan_in(dim); 2], [Init::fan_in(hidden); 2]],
            params,
        )
    }

    /// TinyViT's own start for linear layers.
    pub fn in_tiny_vit(dim: usize, params: &Params) -> Result<Self> {
        Self::build(
            dim,
            [[Init::TruncatedNormal(0.02), Init::Const(0.0)]; 2],
            params,
        )
    }

    fn build(dim: usize, [fc1, fc2]: [[Init; 2]; 2], params: &Params) -> Result<Self> {
        Ok(Self {
            fc1: Linear::with_init(dim, dim / 4, fc1, &params.pp("D_fc1"))?,
            fc2: Linear::with_init(dim / 4, dim, fc2, &params.pp("D_fc2"))?,
        })
    }

    /// The bottleneck alone.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&ops::gelu(&self.fc1.forward(x)?)?)
    }

    /// The bottleneck added to its input.
    pub fn forward_skip(&self, x: &Tensor) -> Result<Tensor> {
        x + self.forward(x)?
    }
}
