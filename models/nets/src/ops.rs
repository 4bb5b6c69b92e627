//! Operations that training on a CPU needs, forward and backward. All take and give f32; inputs
//! that are not contiguous are copied first.

mod activation;
mod attention;
mod batch_norm;
mod contiguous;
mod conv;
mod depthwise;
mod linear;
mod norm;
mod resize;

pub use activation::{gelu, softmax};
pub use attention::attention;
pub use batch_norm::{batch_norm_train, channel_affine};
pub use conv::{conv_transpose2x2, conv2d};
pub use depthwise::depthwise_conv2d;
pub use linear::linear;
pub use norm::{layer_norm, layer_norm_2d};
pub use resize::resize_bilinear;

#[cfg(test)]
mod tests;
