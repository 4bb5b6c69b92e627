// https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/mask_decoder.py
//! Image embedding and prompt tokens to masks: one head a class, and token 0 for a single mask.

use candle_core::{Result, Tensor, bail};

use crate::layers::{ConvTranspose2x2, LayerNorm, Mlp};
use crate::ops;
use crate::params::{Init, Params};
use crate::transformer::{TransformerConfig, TwoWayTransformer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskDecoderConfig {
    pub transformer: TransformerConfig,
    /// Upstream's `num_multimask_outputs`; the reference's `num_cls`, background included.
    pub num_cls: usize,
    pub iou_head_depth: usize,
    pub iou_head_hidden_dim: usize,
}

/// What the decoder makes of one batch.
pub struct Decoded {
    /// (B, masks, 4h, 4w) logits
    pub masks: Tensor,
    /// (B, masks)
    pub iou: Tensor,
}

/// Which mask tokens are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// Token 0: SAM's answer to an unambiguous prompt.
    Single,
    /// Tokens 1.. : one a class.
    Classes,
}

pub struct MaskDecoder {
    pub transformer: TwoWayTransformer,
    iou_token: Tensor,
    mask_tokens: Tensor,
    upscale0: ConvTranspose2x2,
    upscale_norm1: LayerNorm,
    upscale3: ConvTranspose2x2,
    output_hypernetworks_mlps: Vec<Mlp>,
    iou_prediction_head: Mlp,
    num_cls: usize,
}

impl MaskDecoder {
    pub fn new(config: MaskDecoderConfig, params: &Params) -> Result<Self> {
        let dim = config.transformer.embedding_dim;
        let n_tokens = config.num_cls + 1;
        let mut iou_widths = vec![config.iou_head_hidden_dim; config.iou_head_depth + 1];
        iou_widths[0] = dim;
        iou_widths[config.iou_head_depth] = n_tokens;
        let upscaling = params.pp("output_upscaling");
        let hyper = params.pp("output_hypernetworks_mlps");
        let normal = Init::Normal(1.0);
        Ok(Self {
            transformer: TwoWayTransformer::new(config.transformer, &params.pp("transformer"))?,
            iou_token: params.pp("iou_token").get((1, dim), "weight", normal)?,
            mask_tokens: params
                .pp("mask_tokens")
                .get((n_tokens, dim), "weight", normal)?,
            upscale0: ConvTranspose2x2::new(dim, dim / 4, &upscaling.pp(0))?,
            upscale_norm1: LayerNorm::new(dim / 4, 1e-6, &upscaling.pp(1))?,
            upscale3: ConvTranspose2x2::new(dim / 4, dim / 8, &upscaling.pp(3))?,
            output_hypernetworks_mlps: (0..n_tokens)
                .map(|i| Mlp::new(&[dim, dim, dim, dim / 8], &hyper.pp(i)))
                .collect::<Result<_>>()?,
            iou_prediction_head: Mlp::new(&iou_widths, &params.pp("iou_prediction_head"))?,
            num_cls: config.num_cls,
        })
    }

    /// Image embeddings (B, C, h, w), their positional encoding (1, C, h, w), sparse (P, n, C) and
    /// dense (P, C, h, w) prompts; B and P are equal, or one of them is 1 and broadcasts.
    pub fn forward(
        &self,
        image_embeddings: &Tensor,
        image_pe: &Tensor,
        (sparse, dense): (&Tensor, &Tensor),
        tokens: Tokens,
    ) -> Result<Decoded> {
        let (images, c, h, w) = image_embeddings.dims4()?;
        let prompts = sparse.dim(0)?;
        let batch = images.max(prompts);
        if (images != batch && images != 1) || (prompts != batch && prompts != 1) {
            bail!("{images} images and {prompts} prompt sets: give one set for each image");
        }
        let output = Tensor::cat(&[&self.iou_token, &self.mask_tokens], 0)?.unsqueeze(0)?;
        let (_, n_output, _) = output.dims3()?;
        let output = output.broadcast_as((batch, n_output, c))?;
        let point_embedding = if sparse.dim(1)? == 0 {
            output.contiguous()?
        } else {
            Tensor::cat(
                &[&output, &sparse.broadcast_as((batch, sparse.dim(1)?, c))?],
                1,
            )?
        };
        let source = image_embeddings
            .broadcast_add(dense)?
            .broadcast_as((batch, c, h, w))?;
        let pe = image_pe.broadcast_as((batch, c, h, w))?;
        let (queries, keys) =
            self.transformer
                .forward(&source.contiguous()?, &pe.contiguous()?, &point_embedding)?;

        let map = keys
            .transpose(1, 2)?
            .contiguous()?
            .reshape((batch, c, h, w))?;
        let map = self
            .upscale_norm1
            .forward_2d(&self.upscale0.forward(&map)?)?;
        let map = ops::gelu(&self.upscale3.forward(&ops::gelu(&map)?)?)?;
        let range = match tokens {
            Tokens::Single => 0..1,
            Tokens::Classes => 1..self.num_cls + 1,
        };
        let hyper: Vec<Tensor> = range
            .clone()
            .map(|i| {
                let token = queries.narrow(1, 1 + i, 1)?.contiguous()?;
                self.output_hypernetworks_mlps[i].forward(&token)
            })
            .collect::<Result<_>>()?;
        let masks = Tensor::cat(&hyper, 1)?.matmul(&map.flatten_from(2)?)?;
        let iou_token = queries.narrow(1, 0, 1)?.contiguous()?.squeeze(1)?;
        let iou = self.iou_prediction_head.forward(&iou_token)?;
        Ok(Decoded {
            masks: masks.reshape((batch, range.len(), 4 * h, 4 * w))?,
            iou: iou.narrow(1, range.start, range.len())?,
        })
    }
}
