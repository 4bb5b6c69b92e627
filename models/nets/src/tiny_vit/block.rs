//! Window attention, a depthwise convolution over the whole grid, and an MLP.

use candle_core::{DType, Result, Tensor};

use crate::adapter::Adapter;
use crate::layers::{Conv2dBn, LayerNorm, Linear, join_windows, split_windows, to_map, to_tokens};
use crate::lora::{LoraConfig, QkvLinear};
use crate::ops::{Activation, Lookup};
use crate::params::{Init, Params};
use crate::{Mode, ops};

#[derive(Debug, Clone)]
pub struct BlockConfig {
    pub dim: usize,
    pub num_heads: usize,
    pub window_size: usize,
    pub mlp_ratio: f64,
    pub activation: Activation,
    pub lora: Option<LoraConfig>,
    pub adapter: bool,
}

pub struct Block {
    window_size: usize,
    attn: Attention,
    local_conv: Conv2dBn,
    mlp: BlockMlp,
    adapters: Option<Adapters>,
    precision: DType,
}

struct Adapters {
    space: Adapter,
    mlp: Adapter,
}

impl Block {
    pub fn new(config: &BlockConfig, params: &Params) -> Result<Self> {
        let adapters = if config.adapter {
            Some(Adapters {
                space: Adapter::in_tiny_vit(config.dim, &params.pp("Space_Adapter"))?,
                mlp: Adapter::in_tiny_vit(config.dim, &params.pp("MLP_Adapter"))?,
            })
        } else {
            None
        };
        Ok(Self {
            window_size: config.window_size,
            attn: Attention::new(config, &params.pp("attn"))?,
            local_conv: Conv2dBn::depthwise(config.dim, 1, &params.pp("local_conv"))?,
            mlp: BlockMlp::new(config, &params.pp("mlp"))?,
            adapters,
            precision: params.compute().precision,
        })
    }

    /// Tokens (B, h w, C) of a grid [h, w] -> the same.
    pub fn forward(&self, x: &Tensor, grid: [usize; 2], mode: Mode) -> Result<Tensor> {
        let mut attended = self.attend(x, grid, mode)?;
        if let Some(adapters) = &self.adapters {
            attended = adapters.space.forward_skip(&attended)?;
        }
        let x = (x + attended)?;
        let map = self.local_conv.forward(&to_map(&x, grid)?, mode)?;
        let x = to_tokens(&map)?;
        let y = (&x + self.mlp.forward(&x, self.precision, mode)?)?;
        match &self.adapters {
            // The adapter sees x before the MLP's own norm.
            Some(adapters) => y + (adapters.mlp.forward(&x)? * 0.5)?,
            None => Ok(y),
        }
    }

    /// Attention within windows; the grid is padded with zeros at the bottom and right, before
    /// the attention's norm, so padded tokens take part as the norm's bias.
    fn attend(&self, x: &Tensor, [h, w]: [usize; 2], mode: Mode) -> Result<Tensor> {
        let (b, _, c) = x.dims3()?;
        let side = self.window_size;
        if (h, w) == (side, side) {
            return self.attn.forward(x, self.precision, mode);
        }
        let windows = split_windows(&x.reshape((b, h, w, c))?, side)?;
        let n_windows = windows.dim(0)?;
        let windows = windows.reshape((n_windows, side * side, c))?;
        let attended = self
            .attn
            .forward(&windows, self.precision, mode)?
            .reshape((n_windows, side, side, c))?;
        join_windows(&attended, [h, w])?.reshape((b, h * w, c))
    }
}

#[expect(clippy::struct_field_names, reason = "upstream's names")]
struct Attention {
    norm: LayerNorm,
    qkv: QkvLinear,
    proj: Linear,
    /// (heads, distinct offsets)
    attention_biases: Tensor,
    /// Column of `attention_biases` for each pair of tokens, (N N).
    bias_columns: Lookup,
    num_heads: usize,
}

impl Attention {
    fn new(config: &BlockConfig, params: &Params) -> Result<Self> {
        let BlockConfig {
            dim,
            num_heads,
            window_size: side,
            ..
        } = *config;
        let n = side * side;
        let columns: Vec<u32> = (0..n * n)
            .map(|pair| {
                let (a, b) = (pair / n, pair % n);
                let (dy, dx) = ((a / side).abs_diff(b / side), (a % side).abs_diff(b % side));
                (dy * side + dx) as u32
            })
            .collect();
        let init = [Init::TruncatedNormal(0.02), Init::Const(0.0)];
        Ok(Self {
            norm: LayerNorm::new(dim, 1e-5, &params.pp("norm"))?,
            qkv: QkvLinear::new(dim, num_heads, config.lora.as_ref(), &params.pp("qkv"))?,
            proj: Linear::with_init(dim, dim, init, &params.pp("proj"))?,
            attention_biases: params.get((num_heads, n), "attention_biases", Init::Const(0.0))?,
            bias_columns: Lookup::new(&columns, n, &params.compute().device)?,
            num_heads,
        })
    }

    /// (B, N, C) -> (B, N, C), in f32 outside
    fn forward(&self, x: &Tensor, precision: DType, mode: Mode) -> Result<Tensor> {
        let (b, n, c) = x.dims3()?;
        let head_dim = c / self.num_heads;
        // Heads outside, then q | k | v within each head.
        let qkv = self
            .qkv
            .forward(&self.norm.forward(x)?.to_dtype(precision)?, mode)?
            .reshape((b, n, self.num_heads, 3 * head_dim))?
            .transpose(1, 2)?;
        let part = |i: usize| qkv.narrow(3, i * head_dim, head_dim)?.contiguous();
        let bias = self
            .bias_columns
            .columns(&self.attention_biases)?
            .reshape((self.num_heads, n, n))?;
        let scale = 1.0 / (head_dim as f64).sqrt();
        let y = ops::attention(&part(0)?, &part(1)?, &part(2)?, Some(&bias), scale)?;
        let y = y.transpose(1, 2)?.contiguous()?.reshape((b, n, c))?;
        self.proj.forward_in(&y, mode)?.to_dtype(DType::F32)
    }
}

struct BlockMlp {
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl BlockMlp {
    fn new(config: &BlockConfig, params: &Params) -> Result<Self> {
        let dim = config.dim;
        let hidden = (dim as f64 * config.mlp_ratio) as usize;
        let init = [Init::TruncatedNormal(0.02), Init::Const(0.0)];
        Ok(Self {
            norm: LayerNorm::new(dim, 1e-5, &params.pp("norm"))?,
            fc1: Linear::with_init(dim, hidden, init, &params.pp("fc1"))?,
            fc2: Linear::with_init(hidden, dim, init, &params.pp("fc2"))?,
            activation: config.activation,
        })
    }

    fn forward(&self, x: &Tensor, precision: DType, mode: Mode) -> Result<Tensor> {
        let x = self.norm.forward(x)?.to_dtype(precision)?;
        let x = self.fc1.forward_in(&x, mode)?;
        let x = self.fc2.forward_in(&self.activation.of(&x)?, mode)?;
        x.to_dtype(DType::F32)
    }
}
