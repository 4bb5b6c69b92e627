//! Segment Anything in candle, with upstream's parameter names. Modules in the order of the forward pass.

pub mod ops;
pub mod params;
pub mod layers;
pub mod adapter;
pub mod lora;
pub mod tiny_vit;
pub mod prompt_encoder;
pub mod transformer;
pub mod mask_decoder;
pub mod sam;
pub mod loss;
pub mod optimizer;
pub mod schedule;
pub mod checkpoint;

/// What batch normalization does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics.
    Eval,
    /// The batch's statistics, which also move the running ones.
    Train,
}
