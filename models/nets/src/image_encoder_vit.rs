// https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/image_encoder.py
//! SAM's plain ViT: attention in windows, in some blocks over the whole grid, with relative positions.

mod block;
pub mod checkpointing;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

pub use self::block::{Block, BlockConfig, WindowPadding};
use crate::Mode;
use crate::adapter::AdapterConfig;
use crate::layers::{Conv2d, ConvShape, Neck};
use crate::lora::LoraConfig;
use crate::params::{Init, Params};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEncoderVitConfig {
    /// Side of the square input, px.
    pub img_size: usize,
    pub patch_size: usize,
    pub in_chans: usize,
    pub embed_dim: usize,
    pub depth: usize,
    pub num_heads: usize,
    pub mlp_ratio: f64,
    /// Channels of the embedding.
    pub out_chans: usize,
    pub window_size: usize,
    /// Blocks that attend over the whole grid.
    pub global_attn_indexes: Vec<usize>,
    pub padding: WindowPadding,
}

impl ImageEncoderVitConfig {
    /// 1024 px, patches of 16: 86 M parameters, 12 blocks.
    pub fn vit_b(padding: WindowPadding) -> Self {
        Self::sam([768, 12, 12], [2, 5, 8, 11], padding)
    }

    /// 304 M parameters, 24 blocks.
    pub fn vit_l(padding: WindowPadding) -> Self {
        Self::sam([1024, 24, 16], [5, 11, 17, 23], padding)
    }

    /// 632 M parameters, 32 blocks.
    pub fn vit_h(padding: WindowPadding) -> Self {
        Self::sam([1280, 32, 16], [7, 15, 23, 31], padding)
    }

    fn sam(
        [embed_dim, depth, num_heads]: [usize; 3],
        global: [usize; 4],
        padding: WindowPadding,
    ) -> Self {
        Self {
            img_size: 1024,
            patch_size: 16,
            in_chans: 3,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio: 4.0,
            out_chans: 256,
            window_size: 14,
            global_attn_indexes: global.into(),
            padding,
        }
    }

    /// Side of the embedding.
    pub fn embedding_size(&self) -> usize {
        self.img_size / self.patch_size
    }
}

pub struct ImageEncoderVit {
    patch_embed: Conv2d,
    /// (1, g, g, C)
    pos_embed: Tensor,
    blocks: Vec<Block>,
    neck: Neck,
    img_size: usize,
}

impl ImageEncoderVit {
    pub fn new(
        config: &ImageEncoderVitConfig,
        lora: Option<&LoraConfig>,
        adapter: Option<&AdapterConfig>,
        params: &Params,
    ) -> Result<Self> {
        let (dim, grid) = (config.embed_dim, config.embedding_size());
        let patches = ConvShape {
            inputs: config.in_chans,
            outputs: dim,
            kernel: config.patch_size,
            stride: config.patch_size,
            padding: 0,
        };
        let blocks = (0..config.depth)
            .map(|i| {
                let whole = config.global_attn_indexes.contains(&i);
                let block = BlockConfig {
                    dim,
                    num_heads: config.num_heads,
                    mlp_ratio: config.mlp_ratio,
                    grid,
                    window_size: (!whole).then_some(config.window_size),
                    padding: config.padding,
                    lora_rank: lora
                        .filter(|it| it.encoder_layers.contains(&i))
                        .map(|it| it.rank),
                    adapter: adapter.is_some_and(|it| it.encoder_layers.contains(&i)),
                };
                Block::new(&block, &params.pp("blocks").pp(i))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            patch_embed: Conv2d::new(patches, &params.pp("patch_embed").pp("proj"))?,
            pos_embed: params.get((1, grid, grid, dim), "pos_embed", Init::Const(0.0))?,
            blocks,
            neck: Neck::new(dim, config.out_chans, &params.pp("neck"))?,
            img_size: config.img_size,
        })
    }

    /// (B, 3, S, S) -> (B, 256, g, g)
    pub fn forward(&self, image: &Tensor) -> Result<Tensor> {
        self.forward_traced(image, &mut |_, _| ())
    }

    /// The same, showing the output of the patch embedding and of every block, (B, g, g, C), under its
    /// upstream name.
    pub fn forward_traced(
        &self,
        image: &Tensor,
        trace: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<Tensor> {
        let patches = self.patches(image)?;
        trace("patch_embed", &patches);
        let mut x = patches.broadcast_add(&self.pos_embed)?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x)?;
            trace(&format!("blocks.{i}"), &x);
        }
        let embedding = self.part(self.n_parts() - 1, &x)?;
        trace("embedding", &embedding);
        Ok(embedding)
    }

    /// (B, 3, S, S) -> (B, g, g, C)
    fn patches(&self, image: &Tensor) -> Result<Tensor> {
        let (_, _, rows, cols) = image.dims4()?;
        if [rows, cols] != [self.img_size; 2] {
            bail!(
                "image of {rows} x {cols} px: this ViT takes {} x {0}, its position embedding is fixed",
                self.img_size
            );
        }
        self.patch_embed
            .forward(image)?
            .permute((0, 2, 3, 1))?
            .contiguous()
    }

    /// Patch embedding, blocks, neck: the forward pass is one after the other.
    fn n_parts(&self) -> usize {
        self.blocks.len() + 2
    }

    fn part(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        match index.checked_sub(1) {
            None => self.patches(x)?.broadcast_add(&self.pos_embed),
            Some(block) if block < self.blocks.len() => self.blocks[block].forward(x),
            Some(_) => self
                .neck
                .forward(&x.permute((0, 3, 1, 2))?.contiguous()?, Mode::Eval),
        }
    }

    /// Whether a tensor of that name, without `image_encoder.`, belongs to a part.
    fn owns(&self, index: usize, name: &str) -> bool {
        match index.checked_sub(1) {
            None => name.starts_with("patch_embed.") || name == "pos_embed",
            Some(block) if block < self.blocks.len() => {
                name.starts_with(&format!("blocks.{block}."))
            }
            Some(_) => name.starts_with("neck."),
        }
    }
}
