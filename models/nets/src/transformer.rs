// https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/transformer.py
//! The two-way transformer between prompt tokens and image embedding.

use candle_core::{Result, Tensor};

use crate::adapter::Adapter;
use crate::layers::{LayerNorm, Linear};
use crate::lora::LoraLinear;
use crate::ops;
use crate::params::Params;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformerConfig {
    pub depth: usize,
    pub embedding_dim: usize,
    pub num_heads: usize,
    pub mlp_dim: usize,
    /// Rank of the updates of every q_proj and v_proj.
    pub lora_rank: Option<usize>,
    /// Leading layers with adapters.
    pub adapter_depth: usize,
}

/// Cross-attention works in half the width.
const ATTENTION_DOWNSAMPLE_RATE: usize = 2;

pub struct TwoWayTransformer {
    layers: Vec<TwoWayAttentionBlock>,
    final_attn_token_to_image: Attention,
    norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    pub fn new(config: TransformerConfig, params: &Params) -> Result<Self> {
        let layers = (0..config.depth)
            .map(|i| TwoWayAttentionBlock::new(config, i, &params.pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            final_attn_token_to_image: Attention::new(
                config,
                ATTENTION_DOWNSAMPLE_RATE,
                &params.pp("final_attn_token_to_image"),
            )?,
            norm_final_attn: LayerNorm::new(
                config.embedding_dim,
                1e-5,
                &params.pp("norm_final_attn"),
            )?,
        })
    }

    /// Embedding and its positional encoding (B, C, h, w), tokens (B, n, C) -> tokens (B, n, C),
    /// image (B, h w, C).
    pub fn forward(
        &self,
        image_embedding: &Tensor,
        image_pe: &Tensor,
        point_embedding: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let flat = |x: &Tensor| x.flatten_from(2)?.transpose(1, 2)?.contiguous();
        let (mut keys, key_pe) = (flat(image_embedding)?, flat(image_pe)?);
        let mut queries = point_embedding.clone();
        for layer in &self.layers {
            (queries, keys) = layer.forward(&queries, &keys, point_embedding, &key_pe)?;
        }
        let q = (&queries + point_embedding)?;
        let k = (&keys + key_pe)?;
        let attended = self.final_attn_token_to_image.forward(&q, &k, &keys)?;
        Ok((self.norm_final_attn.forward(&(queries + attended)?)?, keys))
    }
}

struct TwoWayAttentionBlock {
    self_attn: Attention,
    norm1: LayerNorm,
    cross_attn_token_to_image: Attention,
    norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
    norm3: LayerNorm,
    norm4: LayerNorm,
    cross_attn_image_to_token: Attention,
    skip_first_layer_pe: bool,
    adapters: Option<BlockAdapters>,
}

struct BlockAdapters {
    /// On the queries and, the same weights again, on the keys.
    adapter: Adapter,
    mlp: Adapter,
}

impl TwoWayAttentionBlock {
    fn new(config: TransformerConfig, index: usize, params: &Params) -> Result<Self> {
        let dim = config.embedding_dim;
        let norm = |name: &str| LayerNorm::new(dim, 1e-5, &params.pp(name));
        let attention = |name: &str, rate| Attention::new(config, rate, &params.pp(name));
        let adapters = if index < config.adapter_depth {
            Some(BlockAdapters {
                adapter: Adapter::new(dim, &params.pp("Adapter"))?,
                mlp: Adapter::new(dim, &params.pp("MLP_Adapter"))?,
            })
        } else {
            None
        };
        Ok(Self {
            self_attn: attention("self_attn", 1)?,
            norm1: norm("norm1")?,
            cross_attn_token_to_image: attention(
                "cross_attn_token_to_image",
                ATTENTION_DOWNSAMPLE_RATE,
            )?,
            norm2: norm("norm2")?,
            lin1: Linear::new(dim, config.mlp_dim, &params.pp("mlp").pp("lin1"))?,
            lin2: Linear::new(config.mlp_dim, dim, &params.pp("mlp").pp("lin2"))?,
            norm3: norm("norm3")?,
            norm4: norm("norm4")?,
            cross_attn_image_to_token: attention(
                "cross_attn_image_to_token",
                ATTENTION_DOWNSAMPLE_RATE,
            )?,
            skip_first_layer_pe: index == 0,
            adapters,
        })
    }

    fn forward(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        query_pe: &Tensor,
        key_pe: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let queries = if self.skip_first_layer_pe {
            self.self_attn.forward(queries, queries, queries)?
        } else {
            let q = (queries + query_pe)?;
            (queries + self.self_attn.forward(&q, &q, queries)?)?
        };
        let queries = self.norm1.forward(&queries)?;

        let (q, k) = ((&queries + query_pe)?, (keys + key_pe)?);
        let mut queries = (queries + self.cross_attn_token_to_image.forward(&q, &k, keys)?)?;
        if let Some(adapters) = &self.adapters {
            queries = adapters.adapter.forward_skip(&queries)?;
        }
        let queries = self.norm2.forward(&queries)?;

        let mlp = self.lin2.forward(&self.lin1.forward(&queries)?.relu()?)?;
        let mut sum = (&queries + mlp)?;
        if let Some(adapters) = &self.adapters {
            sum = (sum + (adapters.mlp.forward(&queries)? * 0.5)?)?;
        }
        let queries = self.norm3.forward(&sum)?;

        let q = (&queries + query_pe)?;
        let mut keys = (keys + self.cross_attn_image_to_token.forward(&k, &q, &queries)?)?;
        if let Some(adapters) = &self.adapters {
            keys = adapters.adapter.forward_skip(&keys)?;
        }
        Ok((queries, self.norm4.forward(&keys)?))
    }
}

struct Attention {
    q_proj: LoraLinear,
    k_proj: Linear,
    v_proj: LoraLinear,
    out_proj: Linear,
    num_heads: usize,
}

impl Attention {
    fn new(config: TransformerConfig, downsample_rate: usize, params: &Params) -> Result<Self> {
        let dim = config.embedding_dim;
        let inner = dim / downsample_rate;
        let rank = config.lora_rank;
        Ok(Self {
            q_proj: LoraLinear::new(dim, inner, rank, &params.pp("q_proj"))?,
            k_proj: Linear::new(dim, inner, &params.pp("k_proj"))?,
            v_proj: LoraLinear::new(dim, inner, rank, &params.pp("v_proj"))?,
            out_proj: Linear::new(inner, dim, &params.pp("out_proj"))?,
            num_heads: config.num_heads,
        })
    }

    /// q (B, n, C), k and v (B, m, C) -> (B, n, C)
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let split = |x: Tensor| -> Result<Tensor> {
            let (b, n, c) = x.dims3()?;
            x.reshape((b, n, self.num_heads, c / self.num_heads))?
                .transpose(1, 2)?
                .contiguous()
        };
        let q = split(self.q_proj.forward(q)?)?;
        let k = split(self.k_proj.forward(k)?)?;
        let v = split(self.v_proj.forward(v)?)?;
        let (b, heads, n, head_dim) = q.dims4()?;
        let scale = 1.0 / (head_dim as f64).sqrt();
        let y = ops::attention(&q, &k, &v, None, scale)?;
        let y = y
            .transpose(1, 2)?
            .contiguous()?
            .reshape((b, n, heads * head_dim))?;
        self.out_proj.forward(&y)
    }
}
