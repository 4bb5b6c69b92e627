//! Element-wise activations and softmax.

use candle_core::{D, Result, Tensor};

/// Exact (erf) GELU of any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax(x, D::Minus1)
}
