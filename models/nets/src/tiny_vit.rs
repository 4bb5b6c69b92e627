// https://github.com/ChaoningZhang/MobileSAM/blob/master/mobile_sam/modeling/tiny_vit_sam.py
//! TinyViT as SAM's image encoder: a convolutional stage, then three stages of window attention.

mod block;
mod config;
mod convolution;
mod windows;

use candle_core::{Result, Tensor, bail};

pub use self::block::{Block, BlockConfig};
pub use self::config::{Stem, TinyVitConfig};
pub use self::convolution::{MbConv, PatchMerging};
pub use self::windows::fit_attention_biases;
use crate::Mode;
use crate::adapter::AdapterConfig;
use crate::layers::{Conv2dBn, ConvShape, Neck, to_map, to_tokens};
use crate::lora::LoraConfig;
use crate::ops::Activation;
use crate::params::Params;

pub struct TinyVit {
    patch_embed: Vec<Conv2dBn>,
    stage0: Vec<MbConv>,
    /// After stages 0, 1 and 2.
    downsamples: Vec<PatchMerging>,
    /// Stages 1, 2 and 3.
    stages: Vec<Vec<Block>>,
    neck: Neck,
    activation: Activation,
}

impl TinyVit {
    pub fn new(
        config: &TinyVitConfig,
        lora: Option<&LoraConfig>,
        adapter: Option<&AdapterConfig>,
        params: &Params,
    ) -> Result<Self> {
        let dims = config.embed_dims;
        let layers = params.pp("layers");
        let stage0 = (0..config.depths[0])
            .map(|i| {
                let params = layers.pp(0).pp("blocks").pp(i);
                let ratio = config.mbconv_expand_ratio;
                MbConv::new(dims[0], dims[0], ratio, config.activation, &params)
            })
            .collect::<Result<_>>()?;
        let downsamples = (0..3)
            .map(|i| {
                let params = layers.pp(i).pp("downsample");
                PatchMerging::new(dims[i], dims[i + 1], config.activation, &params)
            })
            .collect::<Result<_>>()?;
        let stages = (1..4)
            .map(|stage| {
                let block = BlockConfig {
                    dim: dims[stage],
                    num_heads: config.num_heads[stage],
                    window_size: config.window_sizes[stage],
                    mlp_ratio: config.mlp_ratio,
                    activation: config.activation,
                    lora: lora
                        .filter(|it| it.encoder_layers.contains(&(stage - 1)))
                        .cloned(),
                    adapter: adapter.is_some_and(|it| it.encoder_layers.contains(&(stage - 1))),
                };
                (0..config.depths[stage])
                    .map(|i| Block::new(&block, &layers.pp(stage).pp("blocks").pp(i)))
                    .collect::<Result<_>>()
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            patch_embed: patch_embed(config, &params.pp("patch_embed").pp("seq"))?,
            stage0,
            downsamples,
            stages,
            neck: Neck::new(dims[3], config.out_chans, &params.pp("neck"))?,
            activation: config.activation,
        })
    }

    /// (B, 3, S, S) -> (B, 256, g, g)
    pub fn forward(&self, image: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_traced(image, mode, &mut |_, _| ())
    }

    /// The same, showing every stage's and block's output under its upstream name: NCHW up to
    /// `layers.0.blocks`, then (B, h w, C).
    pub fn forward_traced(
        &self,
        image: &Tensor,
        mode: Mode,
        trace: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<Tensor> {
        let mut x = image.clone();
        for (i, conv) in self.patch_embed.iter().enumerate() {
            // The first one sees the image, and stays exact.
            if i == 0 {
                x = conv.forward(&x, mode.exact())?;
            } else {
                x = conv.forward(&self.activation.of(&x)?, mode)?;
            }
        }
        trace("patch_embed", &x);
        for (i, block) in self.stage0.iter().enumerate() {
            x = block.forward(&x, mode)?;
            trace(&format!("layers.0.blocks.{i}"), &x);
        }
        x = self.downsamples[0].forward(&x, mode)?;
        trace("layers.0", &to_tokens(&x)?);
        for (i, blocks) in self.stages.iter().enumerate() {
            let stage = i + 1;
            let (_, _, h, w) = x.dims4()?;
            let mut tokens = to_tokens(&x)?;
            for (j, block) in blocks.iter().enumerate() {
                tokens = block.forward(&tokens, [h, w], mode)?;
                trace(&format!("layers.{stage}.blocks.{j}"), &tokens);
            }
            x = to_map(&tokens, [h, w])?;
            if let Some(downsample) = self.downsamples.get(stage) {
                x = downsample.forward(&x, mode)?;
            }
            trace(&format!("layers.{stage}"), &to_tokens(&x)?);
        }
        let embedding = self.neck.forward(&x, mode)?;
        trace("embedding", &embedding);
        Ok(embedding)
    }
}

fn patch_embed(config: &TinyVitConfig, params: &Params) -> Result<Vec<Conv2dBn>> {
    let (inputs, dim) = (config.in_chans, config.embed_dims[0]);
    if !config.img_size.is_multiple_of(64) {
        bail!(
            "image size {} px: TinyViT needs a multiple of 64",
            config.img_size
        );
    }
    let (kernel, stride, padding) = match config.stem {
        Stem::Pointwise => (1, 1, 0),
        Stem::Stride2 | Stem::Stride4 => (3, 2, 1),
    };
    let conv = |index: usize, inputs, outputs| {
        let shape = ConvShape {
            inputs,
            outputs,
            kernel,
            stride,
            padding,
        };
        Conv2dBn::new(shape, &params.pp(index))
    };
    match config.stem {
        Stem::Stride2 => Ok(vec![conv(0, inputs, dim)?]),
        Stem::Stride4 | Stem::Pointwise => {
            Ok(vec![conv(0, inputs, dim / 2)?, conv(2, dim / 2, dim)?])
        }
    }
}
