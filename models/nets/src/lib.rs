//! Segment Anything in candle, with upstream's parameter names. Modules in the order of the forward pass.

pub mod adapter;
pub mod checkpoint;
pub mod image_encoder_vit;
pub mod layers;
pub mod lora;
pub mod loss;
pub mod mask_decoder;
pub mod ops;
pub mod optimizer;
pub mod params;
pub mod prompt_encoder;
pub mod reference_metrics;
pub mod sam;
pub mod schedule;
pub mod tiny_vit;
pub mod transformer;

/// What batch normalization takes, and how exactly a TinyViT multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics.
    Eval,
    /// The batch's statistics, which also move the running ones.
    Train,
    /// Running statistics; the inputs and weights of what an exported graph multiplies in int8 are rounded as there,
    /// and gradients pass as if they were not.
    Int8,
}

impl Mode {
    /// The same without rounding.
    #[must_use]
    pub fn exact(self) -> Self {
        match self {
            Self::Train => Self::Train,
            Self::Eval | Self::Int8 => Self::Eval,
        }
    }
}
