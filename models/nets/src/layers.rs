//! The small layers that encoders and decoder share.

use candle_core::{Result, Tensor, Var};

use crate::params::{Init, Params};
use crate::{Mode, ops};

pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub fn new(inputs: usize, outputs: usize, params: &Params) -> Result<Self> {
        Self::with_init(inputs, outputs, [Init::fan_in(inputs); 2], params)
    }

    /// With the starts of weight and bias given.
    pub fn with_init(
        inputs: usize,
        outputs: usize,
        [weight, bias]: [Init; 2],
        params: &Params,
    ) -> Result<Self> {
        Ok(Self {
            weight: params.get((outputs, inputs), "weight", weight)?,
            bias: params.get(outputs, "bias", bias)?,
        })
    }

    /// (.., inputs) -> (.., outputs)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, Some(&self.bias))
    }

    /// The same in a mode.
    pub fn forward_in(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (x, weight) = ops::in_mode(x, &self.weight, mode)?;
        ops::linear(&x, &weight, Some(&self.bias))
    }
}

/// Layer normalization over the last dimension, or over channels of NCHW.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub fn new(size: usize, eps: f64, params: &Params) -> Result<Self> {
        Ok(Self {
            weight: params.get(size, "weight", Init::Const(1.0))?,
            bias: params.get(size, "bias", Init::Const(0.0))?,
            eps,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }

    /// Over the channels of each pixel: upstream's `LayerNorm2d`.
    pub fn forward_2d(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm_2d(x, &self.weight, &self.bias, self.eps)
    }
}

pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
}

/// Shape of a convolution with a square kernel.
#[derive(Debug, Clone, Copy)]
pub struct ConvShape {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Conv2d {
    pub fn new(shape: ConvShape, params: &Params) -> Result<Self> {
        let mut conv = Self::without_bias(shape, params)?;
        let init = Init::fan_in(shape.inputs * shape.kernel * shape.kernel);
        conv.bias = Some(params.get(shape.outputs, "bias", init)?);
        Ok(conv)
    }

    pub fn without_bias(shape: ConvShape, params: &Params) -> Result<Self> {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            stride,
            padding,
        } = shape;
        let init = Init::fan_in(inputs * kernel * kernel);
        let weight = params.get((outputs, inputs, kernel, kernel), "weight", init)?;
        Ok(Self {
            weight,
            bias: None,
            stride,
            padding,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv2d(
            x,
            &self.weight,
            self.bias.as_ref(),
            self.stride,
            self.padding,
        )
    }

    /// The same in a mode.
    pub fn forward_in(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (x, weight) = ops::in_mode(x, &self.weight, mode)?;
        ops::conv2d(&x, &weight, self.bias.as_ref(), self.stride, self.padding)
    }
}

/// Transposed convolution, kernel 2, stride 2.
pub struct ConvTranspose2x2 {
    weight: Tensor,
    bias: Tensor,
}

impl ConvTranspose2x2 {
    pub fn new(inputs: usize, outputs: usize, params: &Params) -> Result<Self> {
        // PyTorch takes the fan of a transposed kernel from its output side.
        let init = Init::fan_in(outputs * 4);
        Ok(Self {
            weight: params.get((inputs, outputs, 2, 2), "weight", init)?,
            bias: params.get(outputs, "bias", init)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv_transpose2x2(x, &self.weight, Some(&self.bias))
    }
}

/// Batch normalization of NCHW: eps 1e-5, momentum 0.1, unbiased variance in the running statistics.
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
}

const BATCH_NORM_EPS: f64 = 1e-5;
const BATCH_NORM_MOMENTUM: f64 = 0.1;

impl BatchNorm {
    pub fn new(channels: usize, weight: f32, params: &Params) -> Result<Self> {
        Ok(Self {
            weight: params.get(channels, "weight", Init::Const(weight))?,
            bias: params.get(channels, "bias", Init::Const(0.0))?,
            running_mean: params.buffer(channels, "running_mean", Init::Const(0.0))?,
            running_var: params.buffer(channels, "running_var", Init::Const(1.0))?,
        })
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let running = [&self.running_mean, &self.running_var];
        if mode != Mode::Train {
            let [mean, variance] = running.map(Var::as_detached_tensor);
            let scale = (&self.weight / (variance + BATCH_NORM_EPS)?.sqrt()?)?;
            let shift = (&self.bias - (mean * &scale)?)?;
            return ops::channel_affine(x, &scale, &shift);
        }
        let (y, mean, variance) =
            ops::batch_norm_train(x, &self.weight, &self.bias, BATCH_NORM_EPS)?;
        let n = (x.elem_count() / x.dim(1)?) as f64;
        let unbiased = (variance * (n / (n - 1.0).max(1.0)))?;
        for (var, batch) in running.into_iter().zip([mean, unbiased]) {
            let kept = (var.as_detached_tensor() * (1.0 - BATCH_NORM_MOMENTUM))?;
            var.set(&(kept + (batch.detach() * BATCH_NORM_MOMENTUM)?)?)?;
        }
        Ok(y)
    }
}

/// Convolution without bias, then batch normalization: upstream's `Conv2d_BN`.
pub struct Conv2dBn {
    weight: Tensor,
    bn: BatchNorm,
    stride: usize,
    padding: usize,
    depthwise: bool,
}

impl Conv2dBn {
    pub fn new(shape: ConvShape, params: &Params) -> Result<Self> {
        Self::build(shape, false, 1.0, params)
    }

    /// The batch norm scales by 0 at the start, so a residual branch begins as nothing.
    pub fn zero_scaled(shape: ConvShape, params: &Params) -> Result<Self> {
        Self::build(shape, false, 0.0, params)
    }

    /// 3 x 3 on each channel by itself.
    pub fn depthwise(channels: usize, stride: usize, params: &Params) -> Result<Self> {
        let shape = ConvShape {
            inputs: 1,
            outputs: channels,
            kernel: 3,
            stride,
            padding: 1,
        };
        Self::build(shape, true, 1.0, params)
    }

    fn build(shape: ConvShape, depthwise: bool, bn_weight: f32, params: &Params) -> Result<Self> {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            stride,
            padding,
        } = shape;
        let init = Init::fan_in(inputs * kernel * kernel);
        Ok(Self {
            weight: params
                .pp("c")
                .get((outputs, inputs, kernel, kernel), "weight", init)?,
            bn: BatchNorm::new(outputs, bn_weight, &params.pp("bn"))?,
            stride,
            padding,
            depthwise,
        })
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = if self.depthwise {
            ops::depthwise_conv2d(x, &self.weight, self.stride, self.padding)?
        } else {
            let (x, weight) = ops::in_mode(x, &self.weight, mode)?;
            ops::conv2d(&x, &weight, None, self.stride, self.padding)?
        };
        self.bn.forward(&y, mode)
    }
}

/// Linear layers with ReLU between them: upstream's decoder `MLP`.
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// `widths` from input to output.
    pub fn new(widths: &[usize], params: &Params) -> Result<Self> {
        let layers = widths
            .windows(2)
            .enumerate()
            .map(|(i, pair)| Linear::new(pair[0], pair[1], &params.pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x)?;
            if i + 1 < self.layers.len() {
                x = x.relu()?;
            }
        }
        Ok(x)
    }
}

/// The last layers of both encoders: to the embedding's channels, each convolution with its norm.
pub(crate) struct Neck {
    conv1: Conv2d,
    norm1: LayerNorm,
    conv2: Conv2d,
    norm2: LayerNorm,
}

impl Neck {
    pub(crate) fn new(inputs: usize, outputs: usize, params: &Params) -> Result<Self> {
        let pointwise = ConvShape {
            inputs,
            outputs,
            kernel: 1,
            stride: 1,
            padding: 0,
        };
        let square = ConvShape {
            inputs: outputs,
            outputs,
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        Ok(Self {
            conv1: Conv2d::without_bias(pointwise, &params.pp(0))?,
            norm1: LayerNorm::new(outputs, 1e-6, &params.pp(1))?,
            conv2: Conv2d::without_bias(square, &params.pp(2))?,
            norm2: LayerNorm::new(outputs, 1e-6, &params.pp(3))?,
        })
    }

    /// (B, C, h, w) -> (B, outputs, h, w)
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.norm1.forward_2d(&self.conv1.forward_in(x, mode)?)?;
        self.norm2.forward_2d(&self.conv2.forward_in(&x, mode)?)
    }
}

/// (B, h, w, C) to windows (B n, side, side, C); zeros fill the grid at the bottom and right.
pub(crate) fn split_windows(x: &Tensor, side: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let (rows, cols) = (h.div_ceil(side), w.div_ceil(side));
    let mut x = x.clone();
    if rows * side > h {
        x = x.pad_with_zeros(1, 0, rows * side - h)?;
    }
    if cols * side > w {
        x = x.pad_with_zeros(2, 0, cols * side - w)?;
    }
    x.reshape(&[b, rows, side, cols, side, c][..])?
        .transpose(2, 3)?
        .contiguous()?
        .reshape((b * rows * cols, side, side, c))
}

/// Windows (B n, side, side, C) to the grid (B, h, w, C) that they were split from.
pub(crate) fn join_windows(windows: &Tensor, [h, w]: [usize; 2]) -> Result<Tensor> {
    let (n, side, _, c) = windows.dims4()?;
    let (rows, cols) = (h.div_ceil(side), w.div_ceil(side));
    let b = n / (rows * cols);
    windows
        .reshape(&[b, rows, cols, side, side, c][..])?
        .transpose(2, 3)?
        .contiguous()?
        .reshape((b, rows * side, cols * side, c))?
        .narrow(1, 0, h)?
        .narrow(2, 0, w)?
        .contiguous()
}

/// (B, C, h, w) -> (B, h w, C)
pub(crate) fn to_tokens(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.transpose(1, 2)?.contiguous()
}

/// (B, h w, C) -> (B, C, h, w)
pub(crate) fn to_map(tokens: &Tensor, [h, w]: [usize; 2]) -> Result<Tensor> {
    let (b, _, c) = tokens.dims3()?;
    tokens.transpose(1, 2)?.contiguous()?.reshape((b, c, h, w))
}
