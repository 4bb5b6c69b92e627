//! One block: attention within windows or over the whole grid, then an MLP.

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::Mode;
use crate::adapter::Adapter;
use crate::layers::{LayerNorm, Linear, join_windows, split_windows};
use crate::lora::{LoraConfig, LoraRows, QkvLinear};
use crate::ops::{self, Lookup};
use crate::params::{Init, Params};

/// What fills a grid up to whole windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowPadding {
    /// Zeros after `norm1`: SAM, MedSAM and their published weights.
    AfterNorm,
    /// Zeros before `norm1`, which makes its bias of them: the reference. On SAM's weights the
    /// embedding is then off by up to 0.15.
    BeforeNorm,
}

#[derive(Debug, Clone)]
pub struct BlockConfig {
    pub dim: usize,
    pub num_heads: usize,
    pub mlp_ratio: f64,
    /// Side of the grid of patches.
    pub grid: usize,
    /// Side of a window; `None`: the whole grid.
    pub window_size: Option<usize>,
    pub padding: WindowPadding,
    pub lora_rank: Option<usize>,
    pub adapter: bool,
}

pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
    adapters: Option<Adapters>,
    window_size: Option<usize>,
    padding: WindowPadding,
    precision: DType,
}

/// The reference's third one, `Depth_Adapter`, is for volumes and has no effect on slices: not built.
struct Adapters {
    space: Adapter,
    mlp: Adapter,
}

impl Block {
    pub fn new(config: &BlockConfig, params: &Params) -> Result<Self> {
        let dim = config.dim;
        let hidden = (dim as f64 * config.mlp_ratio) as usize;
        let mlp = params.pp("mlp");
        let adapters = if config.adapter {
            Some(Adapters {
                space: Adapter::new(dim, &params.pp("Space_Adapter"))?,
                mlp: Adapter::new(dim, &params.pp("MLP_Adapter"))?,
            })
        } else {
            None
        };
        Ok(Self {
            norm1: LayerNorm::new(dim, 1e-6, &params.pp("norm1"))?,
            attn: Attention::new(config, &params.pp("attn"))?,
            norm2: LayerNorm::new(dim, 1e-6, &params.pp("norm2"))?,
            lin1: Linear::new(dim, hidden, &mlp.pp("lin1"))?,
            lin2: Linear::new(hidden, dim, &mlp.pp("lin2"))?,
            adapters,
            window_size: config.window_size,
            padding: config.padding,
            precision: params.compute().precision,
        })
    }

    /// (B, g, g, C) -> the same
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, rows, cols, _) = x.dims4()?;
        let attended = match self.window_size {
            None => self.attend(&self.norm1.forward(x)?)?,
            Some(side) => {
                let windows = match self.padding {
                    WindowPadding::AfterNorm => split_windows(&self.norm1.forward(x)?, side)?,
                    WindowPadding::BeforeNorm => self.norm1.forward(&split_windows(x, side)?)?,
                };
                join_windows(&self.attend(&windows)?, [rows, cols])?
            }
        };
        let x = (x + attended.to_dtype(DType::F32)?)?;
        let normed = self.norm2.forward(&x)?.to_dtype(self.precision)?;
        let y = self
            .lin2
            .forward(&ops::gelu(&self.lin1.forward(&normed)?)?)?;
        let x = (x + y.to_dtype(DType::F32)?)?;
        match &self.adapters {
            Some(adapters) => {
                let y = adapters.mlp.forward(&normed)?.to_dtype(DType::F32)?;
                x + (y * 0.5)?
            }
            None => Ok(x),
        }
    }

    /// (B, h, w, C) -> the same
    fn attend(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.attn.forward(&x.to_dtype(self.precision)?)?;
        match &self.adapters {
            Some(adapters) => adapters.space.forward_skip(&y),
            None => Ok(y),
        }
    }
}

struct Attention {
    qkv: QkvLinear,
    proj: Linear,
    /// (2 side - 1, head_dim): what a distance along each axis adds, given the query.
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    /// Row of the tables for each (query, key) along an axis, (side side).
    distances: Lookup,
    side: usize,
    num_heads: usize,
}

impl Attention {
    fn new(config: &BlockConfig, params: &Params) -> Result<Self> {
        let BlockConfig { dim, num_heads, .. } = *config;
        let side = config.window_size.unwrap_or(config.grid);
        let lora = config.lora_rank.map(|rank| LoraConfig {
            rank,
            encoder_layers: Vec::new(),
            decoder: false,
            // q, k and v lie one after the other here.
            rows: LoraRows::Reference,
        });
        let table = |name| params.get((2 * side - 1, dim / num_heads), name, Init::Const(0.0));
        let distances: Vec<u32> = (0..side * side)
            .map(|pair| (pair / side + side - 1 - pair % side) as u32)
            .collect();
        Ok(Self {
            qkv: QkvLinear::new(dim, num_heads, lora.as_ref(), &params.pp("qkv"))?,
            proj: Linear::new(dim, dim, &params.pp("proj"))?,
            rel_pos_h: table("rel_pos_h")?,
            rel_pos_w: table("rel_pos_w")?,
            distances: Lookup::new(&distances, 2 * side - 1, &params.compute().device)?,
            side,
            num_heads,
        })
    }

    /// (B, side, side, C) -> the same
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, rows, cols, c) = x.dims4()?;
        let (n, heads) = (rows * cols, self.num_heads);
        let head_dim = c / heads;
        let qkv = self
            .qkv
            .forward(&x.reshape((b, n, c))?, Mode::Eval)?
            .reshape((b, n, 3, heads, head_dim))?;
        let part = |i: usize| {
            qkv.narrow(2, i, 1)?
                .squeeze(2)?
                .transpose(1, 2)?
                .contiguous()
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let relative = self.relative(&q)?;
        let y = ops::attention_relative(&q, &k, &v, (&relative, [self.side; 2]), scale)?;
        let y = y
            .transpose(1, 2)?
            .contiguous()?
            .reshape((b, rows, cols, c))?;
        self.proj.forward(&y)
    }

    /// Unscaled queries (B, H, N, D) to what each row and each column of keys adds, (B, H, N, 2 side).
    fn relative(&self, q: &Tensor) -> Result<Tensor> {
        let (b, heads, n, head_dim) = q.dims4()?;
        let side = self.side;
        let table = |rel_pos: &Tensor| {
            self.distances
                .rows(rel_pos)?
                .to_dtype(q.dtype())?
                .reshape((side, side, head_dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let q = q.reshape((b * heads, side, side, head_dim))?;
        // Queries of one row share a table of row distances, those of one column one of columns.
        let by_row = q
            .transpose(0, 1)?
            .contiguous()?
            .reshape((side, b * heads * side, head_dim))?
            .matmul(&table(&self.rel_pos_h)?)?
            .reshape((side, b * heads, side, side))?
            .transpose(0, 1)?;
        let by_col = q
            .permute((2, 0, 1, 3))?
            .contiguous()?
            .reshape((side, b * heads * side, head_dim))?
            .matmul(&table(&self.rel_pos_w)?)?
            .reshape((side, b * heads, side, side))?
            .permute((1, 2, 0, 3))?;
        Tensor::cat(&[&by_row.contiguous()?, &by_col.contiguous()?], 3)?.reshape((
            b,
            heads,
            n,
            2 * side,
        ))
    }
}
