//! The convolutional building blocks.

use candle_core::{Result, Tensor};

use crate::Mode;
use crate::layers::{Conv2dBn, ConvShape};
use crate::ops::Activation;
use crate::params::Params;

fn pointwise(inputs: usize, outputs: usize) -> ConvShape {
    ConvShape {
        inputs,
        outputs,
        kernel: 1,
        stride: 1,
        padding: 0,
    }
}

/// Inverted bottleneck with a residual.
pub struct MbConv {
    conv1: Conv2dBn,
    conv2: Conv2dBn,
    conv3: Conv2dBn,
    activation: Activation,
}

impl MbConv {
    pub fn new(
        inputs: usize,
        outputs: usize,
        expand_ratio: f64,
        activation: Activation,
        params: &Params,
    ) -> Result<Self> {
        let hidden = (inputs as f64 * expand_ratio) as usize;
        Ok(Self {
            conv1: Conv2dBn::new(pointwise(inputs, hidden), &params.pp("conv1"))?,
            conv2: Conv2dBn::depthwise(hidden, 1, &params.pp("conv2"))?,
            conv3: Conv2dBn::zero_scaled(pointwise(hidden, outputs), &params.pp("conv3"))?,
            activation,
        })
    }

    /// (B, C, h, w) -> the same
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = self.activation.of(&self.conv1.forward(x, mode)?)?;
        let y = self.activation.of(&self.conv2.forward(&y, mode)?)?;
        self.activation.of(&(self.conv3.forward(&y, mode)? + x)?)
    }
}

/// More channels on (mostly) half the grid.
pub struct PatchMerging {
    conv1: Conv2dBn,
    conv2: Conv2dBn,
    conv3: Conv2dBn,
    activation: Activation,
}

impl PatchMerging {
    pub fn new(
        dim: usize,
        out_dim: usize,
        activation: Activation,
        params: &Params,
    ) -> Result<Self> {
        // Upstream keeps the grid before the last stage, which it knows by its width.
        let stride = if matches!(out_dim, 320 | 448 | 576) {
            1
        } else {
            2
        };
        Ok(Self {
            conv1: Conv2dBn::new(pointwise(dim, out_dim), &params.pp("conv1"))?,
            conv2: Conv2dBn::depthwise(out_dim, stride, &params.pp("conv2"))?,
            conv3: Conv2dBn::new(pointwise(out_dim, out_dim), &params.pp("conv3"))?,
            activation,
        })
    }

    /// (B, C, h, w) -> (B, C', h', w')
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = self.activation.of(&self.conv1.forward(x, mode)?)?;
        let y = self.activation.of(&self.conv2.forward(&y, mode)?)?;
        self.conv3.forward(&y, mode)
    }
}
