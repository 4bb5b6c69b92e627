//! Operations that training needs fast, forward and backward, in f32 or bf16 with f32 weights. Inputs that are not
//! contiguous are copied first.
//!
//! Each is an `operation`, which candle takes as one of its `CustomOp`s, and its backward pass runs further operations
//! without one. On a CPU they are loops here, in f32 (bf16 is rounded from and to it). On a GPU they are cuBLAS's
//! products and the kernels of `kernels.cu`, or, where that costs little, candle's own operations: the functions
//! `.._in_steps`. Gradients are computed for the inputs that need one (`Tensor::track_op`) and for no others.

mod activation;
mod attention;
mod batch_norm;
mod conv;
mod conv_transpose;
mod depthwise;
mod im2col;
mod int8;
mod kernel;
mod launch;
mod linear;
mod lookup;
mod norm;
mod norm_2d;
mod operation;
mod product;
mod resize;
#[cfg(test)]
mod tests;
mod unfold;

pub use activation::{Activation, gelu, softmax};
pub use attention::{attention, attention_relative};
pub use batch_norm::{batch_norm_train, channel_affine};
pub use conv::conv2d;
pub use conv_transpose::conv_transpose2x2;
pub use depthwise::depthwise_conv2d;
pub use int8::in_mode;
pub use linear::linear;
pub use lookup::Lookup;
pub use norm::layer_norm;
pub use norm_2d::layer_norm_2d;
pub use resize::resize_bilinear;
