// https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/modeling/sam.py
//! Sam = image encoder + prompt encoder + mask decoder, and what trains in each way of fine-tuning.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::Mode;
use crate::adapter::AdapterConfig;
use crate::image_encoder_vit::checkpointing::Tape;
use crate::image_encoder_vit::{ImageEncoderVit, ImageEncoderVitConfig};
use crate::lora::LoraConfig;
use crate::mask_decoder::{Decoded, MaskDecoder, MaskDecoderConfig, Tokens};
use crate::params::Params;
use crate::prompt_encoder::{PromptEncoder, PromptEncoderConfig, Prompts};
use crate::tiny_vit::{TinyVit, TinyVitConfig};
use crate::transformer::TransformerConfig;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamConfig {
    pub encoder: EncoderConfig,
    /// Classes, background included.
    pub num_cls: usize,
    pub lora: Option<LoraConfig>,
    pub adapter: Option<AdapterConfig>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderConfig {
    TinyVit(TinyVitConfig),
    Vit(ImageEncoderVitConfig),
}

impl EncoderConfig {
    /// Side of the square input, px.
    pub fn img_size(&self) -> usize {
        match self {
            Self::TinyVit(config) => config.img_size,
            Self::Vit(config) => config.img_size,
        }
    }

    /// Side of the embedding.
    pub fn embedding_size(&self) -> usize {
        match self {
            Self::TinyVit(config) => config.embedding_size(),
            Self::Vit(config) => config.embedding_size(),
        }
    }

    /// How many layers can carry LoRA or adapters: blocks of a ViT, attention stages of TinyViT.
    pub fn tunable_layers(&self) -> usize {
        match self {
            Self::TinyVit(_) => 3,
            Self::Vit(config) => config.depth,
        }
    }

    /// Channels of the embedding.
    pub fn out_chans(&self) -> usize {
        match self {
            Self::TinyVit(config) => config.out_chans,
            Self::Vit(config) => config.out_chans,
        }
    }
}

/// Which half of the network fine-tuning touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Decoder,
    EncoderDecoder,
}

/// How it is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Vanilla,
    Adapter,
    Lora,
}

/// Whose rule says what trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezing {
    /// With adapters the mask tokens and their MLPs train too, as they may have started random.
    Own,
    /// The reference: adapters alone; LoRA also trains the convolutional stage of TinyViT.
    Reference,
}

/// Whether the tensor `name` of a SAM trains.
pub fn trainable(name: &str, scope: Scope, method: Method, freezing: Freezing) -> bool {
    if name == "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" {
        return false;
    }
    if let Some(encoder) = name.strip_prefix("image_encoder.") {
        return scope == Scope::EncoderDecoder
            && match method {
                Method::Vanilla => true,
                Method::Adapter => encoder.contains("_Adapter."),
                Method::Lora => {
                    encoder.contains(".linear_a_")
                        || encoder.contains(".linear_b_")
                        || (freezing == Freezing::Reference && encoder.starts_with("layers.0."))
                }
            };
    }
    match method {
        Method::Adapter => {
            name.contains("Adapter.")
                || (freezing == Freezing::Own
                    && (name.starts_with("mask_decoder.mask_tokens.")
                        || name.starts_with("mask_decoder.output_hypernetworks_mlps.")))
        }
        Method::Lora if name.starts_with("mask_decoder.transformer.") => {
            name.contains(".w_a.") || name.contains(".w_b.")
        }
        Method::Lora | Method::Vanilla => true,
    }
}

/// The MLP of mask token 0. The reference computes its mask and throws it away, so its gradient is zero
/// and AdamW still decays it; here it has none.
pub fn decayed_without_gradient(name: &str) -> bool {
    name.starts_with("mask_decoder.output_hypernetworks_mlps.0.")
}

pub enum ImageEncoder {
    TinyVit(TinyVit),
    Vit(ImageEncoderVit),
}

impl ImageEncoder {
    fn new(config: &SamConfig, params: &Params) -> Result<Self> {
        let (lora, adapter) = (config.lora.as_ref(), config.adapter.as_ref());
        Ok(match &config.encoder {
            EncoderConfig::TinyVit(encoder) => {
                Self::TinyVit(TinyVit::new(encoder, lora, adapter, params)?)
            }
            EncoderConfig::Vit(encoder) => {
                Self::Vit(ImageEncoderVit::new(encoder, lora, adapter, params)?)
            }
        })
    }
}

pub struct Sam {
    pub image_encoder: ImageEncoder,
    pub prompt_encoder: PromptEncoder,
    pub mask_decoder: MaskDecoder,
}

impl Sam {
    pub fn new(config: &SamConfig, params: &Params) -> Result<Self> {
        let encoder = &config.encoder;
        let (side, out_chans) = (encoder.embedding_size(), encoder.out_chans());
        Ok(Self {
            image_encoder: ImageEncoder::new(config, &params.pp("image_encoder"))?,
            prompt_encoder: PromptEncoder::new(
                PromptEncoderConfig {
                    embed_dim: out_chans,
                    image_embedding_size: [side; 2],
                    input_image_size: [encoder.img_size(); 2],
                    mask_in_chans: 16,
                },
                &params.pp("prompt_encoder"),
            )?,
            mask_decoder: MaskDecoder::new(
                MaskDecoderConfig {
                    transformer: TransformerConfig {
                        depth: 2,
                        embedding_dim: out_chans,
                        num_heads: 8,
                        mlp_dim: 2048,
                        lora_rank: config
                            .lora
                            .as_ref()
                            .filter(|it| it.decoder)
                            .map(|it| it.rank),
                        adapter_depth: config.adapter.as_ref().map_or(0, |it| it.decoder_depth),
                    },
                    num_cls: config.num_cls,
                    iou_head_depth: 3,
                    iou_head_hidden_dim: 256,
                },
                &params.pp("mask_decoder"),
            )?,
        })
    }

    /// Prepared images (B, 3, S, S) -> embedding (B, 256, g, g)
    pub fn embed(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        match &self.image_encoder {
            ImageEncoder::TinyVit(encoder) => encoder.forward(images, mode),
            ImageEncoder::Vit(encoder) => encoder.forward(images),
        }
    }

    /// The same with gradient checkpointing; `None` for an encoder that has none.
    pub fn embed_checkpointed(&self, images: &Tensor) -> Result<Option<Tape<'_>>> {
        match &self.image_encoder {
            ImageEncoder::TinyVit(_) => Ok(None),
            ImageEncoder::Vit(encoder) => encoder.forward_checkpointed(images).map(Some),
        }
    }

    /// The same for a prediction: keeps nothing that a gradient would need, so that a ViT takes the memory of one
    /// block, whatever trains.
    pub fn embed_without_gradient(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let embedding = match &self.image_encoder {
            ImageEncoder::TinyVit(encoder) => encoder.forward(images, mode)?,
            ImageEncoder::Vit(encoder) => encoder.forward_checkpointed(images)?.embedding().clone(),
        };
        Ok(embedding.detach())
    }

    /// Masks of an embedding for some prompts.
    pub fn decode(&self, embedding: &Tensor, prompts: Prompts, tokens: Tokens) -> Result<Decoded> {
        let (sparse, dense) = self.prompt_encoder.forward(prompts)?;
        let pe = self.prompt_encoder.dense_pe()?;
        self.mask_decoder
            .forward(embedding, &pe, (&sparse, &dense), tokens)
    }

    /// Class logits (B, num_cls, 4g, 4g) without prompt.
    pub fn forward_noprompt(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let embedding = self.embed(images, mode)?;
        Ok(self
            .decode(&embedding, Prompts::default(), Tokens::Classes)?
            .masks)
    }
}
