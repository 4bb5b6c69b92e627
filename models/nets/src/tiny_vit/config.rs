//! The sizes that a TinyViT has.

use serde::{Deserialize, Serialize};

use crate::ops::Activation;

/// The layers between the image and the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// Two 3 x 3 convolutions with stride 2 (MobileSAM).
    Stride4,
    /// One 3 x 3 convolution with stride 2 (the reference at 512 px).
    Stride2,
    /// Two 1 x 1 convolutions (LiteMedSAM at 256 px).
    Pointwise,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TinyVitConfig {
    /// Side of the square input, px.
    pub img_size: usize,
    pub in_chans: usize,
    pub embed_dims: [usize; 4],
    pub depths: [usize; 4],
    pub num_heads: [usize; 4],
    pub window_sizes: [usize; 4],
    pub mlp_ratio: f64,
    pub mbconv_expand_ratio: f64,
    pub stem: Stem,
    #[serde(default)]
    pub activation: Activation,
    /// Channels of the embedding.
    pub out_chans: usize,
}

impl TinyVitConfig {
    /// TinyViT-5M as in MobileSAM, at any multiple of 64 px: embedding of `img_size` / 16.
    pub fn mobile_sam(img_size: usize) -> Self {
        Self {
            img_size,
            in_chans: 3,
            embed_dims: [64, 128, 160, 320],
            depths: [2, 2, 6, 2],
            num_heads: [2, 4, 5, 10],
            window_sizes: [7, 7, 14, 7],
            mlp_ratio: 4.0,
            mbconv_expand_ratio: 4.0,
            stem: Stem::Stride4,
            activation: Activation::Gelu,
            out_chans: 256,
        }
    }

    /// LiteMedSAM: 256 px, embedding 64 x 64.
    pub fn lite_medsam() -> Self {
        Self {
            stem: Stem::Pointwise,
            ..Self::mobile_sam(256)
        }
    }

    /// Side of the embedding.
    pub fn embedding_size(&self) -> usize {
        let stem = match self.stem {
            Stem::Stride4 => 4,
            Stem::Stride2 => 2,
            Stem::Pointwise => 1,
        };
        self.img_size / stem / 4
    }
}
