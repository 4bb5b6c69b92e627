//! Operations that training on a CPU needs fast, forward and backward. All take and give f32;
//! inputs that are not contiguous are copied first.
//!
//! Each is a candle `CustomOp`, and its backward pass runs further operations without one, so a
//! `cuda_fwd` beside each `cpu_fwd` is all that a GPU needs. Gradients are computed for the
//! inputs that need one (`Tensor::track_op`) and for no others.

mod activation;
mod attention;
mod batch_norm;
mod conv;
mod conv_transpose;
mod depthwise;
mod im2col;
mod kernel;
mod linear;
mod norm;
mod norm_2d;
mod product;
mod resize;
#[cfg(test)]
mod tests;

pub use activation::{gelu, softmax};
pub use attention::{attention, attention_relative};
pub use batch_norm::{batch_norm_train, channel_affine};
pub use conv::conv2d;
pub use conv_transpose::conv_transpose2x2;
pub use depthwise::depthwise_conv2d;
pub use linear::linear;
pub use norm::layer_norm;
pub use norm_2d::layer_norm_2d;
pub use resize::resize_bilinear;
