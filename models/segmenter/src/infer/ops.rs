//! Operations with the same bits on every processor: f32 additions and multiplications in a written order, fused
//! where it says `mul_add` and nowhere else, and no function of the C library. [`Half`] alone gives that up.

mod activation;
mod compute;
mod depthwise;
mod lanes;
mod layer_norm;
mod linear;
mod matmul;
mod patches;
mod relative_bias;
mod softmax;
#[cfg(test)]
mod tests;
mod window_attention;

pub(super) use activation::Activation;
pub(super) use compute::{Compute, Operand, Ours};
pub(super) use depthwise::Depthwise;
pub(super) use layer_norm::LayerNorm;
pub(super) use linear::{Linear, Rows, Weights};
pub(super) use matmul::{Half, PackedF32, PackedI8, half};
pub(super) use patches::{Layout, Patches};
pub(super) use relative_bias::RelativeBias;
pub(super) use softmax::Softmax;
pub(super) use window_attention::WindowAttention;
