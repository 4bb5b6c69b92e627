// https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/prompt_encoder.py
//! Points, boxes and masks to tokens and a dense embedding.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::layers::{Conv2d, ConvShape, LayerNorm};
use crate::ops;
use crate::params::{Init, Params};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptEncoderConfig {
    pub embed_dim: usize,
    /// Height, width of the image embedding.
    pub image_embedding_size: [usize; 2],
    /// Height, width of the frame that prompts are given in, px.
    pub input_image_size: [usize; 2],
    pub mask_in_chans: usize,
}

/// Prompts for a batch of images; coordinates in px of the network frame, x before y.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prompts<'a> {
    /// (B, N, 2) and labels (B, N): 1 foreground, 0 background, -1 not a point.
    pub points: Option<(&'a Tensor, &'a Tensor)>,
    /// (B, 4) or (B, N, 4): x0, y0, x1, y1.
    pub boxes: Option<&'a Tensor>,
    /// (B, 1, 4h, 4w)
    pub masks: Option<&'a Tensor>,
}

pub struct PromptEncoder {
    config: PromptEncoderConfig,
    /// (2, C / 2)
    positional_encoding_gaussian_matrix: Tensor,
    point_embeddings: Vec<Tensor>,
    not_a_point_embed: Tensor,
    no_mask_embed: Tensor,
    mask_downscaling: MaskDownscaling,
}

impl PromptEncoder {
    pub fn new(config: PromptEncoderConfig, params: &Params) -> Result<Self> {
        let dim = config.embed_dim;
        let embedding = |params: Params| params.get((1, dim), "weight", Init::Normal(1.0));
        Ok(Self {
            config,
            positional_encoding_gaussian_matrix: params.pp("pe_layer").get(
                (2, dim / 2),
                "positional_encoding_gaussian_matrix",
                Init::Normal(1.0),
            )?,
            point_embeddings: (0..4)
                .map(|i| embedding(params.pp("point_embeddings").pp(i)))
                .collect::<Result<_>>()?,
            not_a_point_embed: embedding(params.pp("not_a_point_embed"))?,
            no_mask_embed: embedding(params.pp("no_mask_embed"))?,
            mask_downscaling: MaskDownscaling::new(
                config.mask_in_chans,
                dim,
                &params.pp("mask_downscaling"),
            )?,
        })
    }

    /// Sparse tokens (B, n, C) and dense embedding (B, C, h, w); without any prompt B is 1, n 0.
    pub fn forward(&self, prompts: Prompts) -> Result<(Tensor, Tensor)> {
        let Prompts {
            points,
            boxes,
            masks,
        } = prompts;
        let batch = points
            .map(|(coords, _)| coords)
            .or(boxes)
            .or(masks)
            .map_or(Ok(1), |tensor| tensor.dim(0))?;
        let dim = self.config.embed_dim;
        // No values, so never on a GPU: some drivers refuse to give no memory.
        let mut sparse = Tensor::zeros((batch, 0, dim), DType::F32, &Device::Cpu)?;
        if let Some((coords, labels)) = points {
            let tokens = self.embed_points(coords, labels, boxes.is_none())?;
            sparse = tokens;
        }
        if let Some(boxes) = boxes {
            let corners = self.embed_boxes(boxes)?;
            sparse = if points.is_some() {
                Tensor::cat(&[&sparse, &corners], 1)?
            } else {
                corners
            };
        }
        let dense = if let Some(masks) = masks {
            self.mask_downscaling.forward(masks)?
        } else {
            let [h, w] = self.config.image_embedding_size;
            let dense = self.no_mask_embed.reshape((1, dim, 1, 1))?;
            dense.broadcast_as((batch, dim, h, w))?
        };
        Ok((sparse, dense))
    }

    /// Positional encoding of the embedding's grid, (1, C, h, w).
    pub fn dense_pe(&self) -> Result<Tensor> {
        let [h, w] = self.config.image_embedding_size;
        let mut centres = Vec::with_capacity(h * w * 2);
        for y in 0..h {
            for x in 0..w {
                centres.push((x as f32 + 0.5) / w as f32);
                centres.push((y as f32 + 0.5) / h as f32);
            }
        }
        let device = self.no_mask_embed.device();
        let centres = Tensor::from_vec(centres, (h * w, 2), device)?;
        self.encode(&centres)?
            .t()?
            .contiguous()?
            .reshape((1, self.config.embed_dim, h, w))
    }

    /// (.., 2) in 0..=1 -> (.., C)
    fn encode(&self, coords: &Tensor) -> Result<Tensor> {
        let coords = ((coords * 2.0)? - 1.0)?;
        let matrix = self.positional_encoding_gaussian_matrix.t()?.contiguous()?;
        let angles = (ops::linear(&coords, &matrix, None)? * std::f64::consts::TAU)?;
        Tensor::cat(&[angles.sin()?, angles.cos()?], D::Minus1)
    }

    /// Pixel centres to 0..=1.
    fn normalized(&self, coords: &Tensor) -> Result<Tensor> {
        let [h, w] = self.config.input_image_size;
        let size = Tensor::new(&[w as f32, h as f32], coords.device())?;
        (coords + 0.5)?.broadcast_div(&size)
    }

    fn embed_points(&self, coords: &Tensor, labels: &Tensor, pad: bool) -> Result<Tensor> {
        let coords = self.normalized(coords)?;
        let (coords, labels) = if pad {
            // The padding point lies at the origin, without the half pixel.
            (coords.pad_with_zeros(1, 0, 1)?, {
                let padding = (labels.narrow(1, 0, 1)?.zeros_like()? - 1.0)?;
                Tensor::cat(&[labels, &padding], 1)?
            })
        } else {
            (coords, labels.clone())
        };
        let is = |value: f64| -> Result<Tensor> {
            labels.eq(value)?.to_dtype(coords.dtype())?.unsqueeze(2)
        };
        let nothing = is(-1.0)?;
        let mut tokens = self.encode(&coords)?.broadcast_mul(&(1.0 - &nothing)?)?;
        for (mask, embedding) in [
            (nothing, &self.not_a_point_embed),
            (is(0.0)?, &self.point_embeddings[0]),
            (is(1.0)?, &self.point_embeddings[1]),
        ] {
            tokens = (tokens + mask.broadcast_mul(&embedding.unsqueeze(0)?)?)?;
        }
        Ok(tokens)
    }

    /// Two corner tokens a box.
    fn embed_boxes(&self, boxes: &Tensor) -> Result<Tensor> {
        let batch = boxes.dim(0)?;
        let n_boxes = boxes.elem_count() / batch / 4;
        let corners = self.normalized(&boxes.reshape((batch * n_boxes, 2, 2))?)?;
        let kinds = Tensor::cat(&[&self.point_embeddings[2], &self.point_embeddings[3]], 0)?;
        self.encode(&corners)?
            .broadcast_add(&kinds.unsqueeze(0)?)?
            .reshape((batch, 2 * n_boxes, self.config.embed_dim))
    }
}

/// A mask four times the embedding's size to the embedding's size.
struct MaskDownscaling {
    conv0: Conv2d,
    norm1: LayerNorm,
    conv3: Conv2d,
    norm4: LayerNorm,
    conv6: Conv2d,
}

impl MaskDownscaling {
    fn new(mask_in_chans: usize, dim: usize, params: &Params) -> Result<Self> {
        let halve = |inputs, outputs, params: &Params| {
            Conv2d::new(
                ConvShape {
                    inputs,
                    outputs,
                    kernel: 2,
                    stride: 2,
                    padding: 0,
                },
                params,
            )
        };
        let (quarter, full) = (mask_in_chans / 4, mask_in_chans);
        let last = ConvShape {
            inputs: full,
            outputs: dim,
            kernel: 1,
            stride: 1,
            padding: 0,
        };
        Ok(Self {
            conv0: halve(1, quarter, &params.pp(0))?,
            norm1: LayerNorm::new(quarter, 1e-6, &params.pp(1))?,
            conv3: halve(quarter, full, &params.pp(3))?,
            norm4: LayerNorm::new(full, 1e-6, &params.pp(4))?,
            conv6: Conv2d::new(last, &params.pp(6))?,
        })
    }

    fn forward(&self, masks: &Tensor) -> Result<Tensor> {
        let x = ops::gelu(&self.norm1.forward_2d(&self.conv0.forward(masks)?)?)?;
        let x = ops::gelu(&self.norm4.forward_2d(&self.conv3.forward(&x)?)?)?;
        self.conv6.forward(&x)
    }
}
