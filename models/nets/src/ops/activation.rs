//! Element-wise activations and softmax.

use candle_core::{CpuStorage, CudaStorage, D, Layout, Result, Shape, Tensor};

use serde::{Deserialize, Serialize};

use super::kernel::{BLOCK, dot, exp, for_blocks, in_f32, kernel, max, sum, values};
use super::launch::Launch;
use super::operation::{Custom, Input, Operation};

/// What stands between the layers of a TinyViT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The exact one, x times the normal distribution function: what published weights were trained with.
    #[default]
    Gelu,
    /// Its approximation x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), off by up to 5e-4.
    GeluTanh,
    /// x clamp(x / 6 + 1 / 2, 0, 1)
    HardSwish,
}

impl Activation {
    /// Of any shape.
    pub fn of(self, x: &Tensor) -> Result<Tensor> {
        in_f32(x, |x| x.apply_op1(Custom(self)))
    }

    fn kernel(self) -> [&'static str; 2] {
        match self {
            Self::Gelu => ["gelu", "gelu_backward"],
            Self::GeluTanh => ["gelu_tanh", "gelu_tanh_backward"],
            Self::HardSwish => ["hard_swish", "hard_swish_backward"],
        }
    }
}

/// Exact (erf) GELU of any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Activation::Gelu.of(x)
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    in_f32(x, |x| x.apply_op1(Custom(Softmax)))
}

impl Operation<1> for Activation {
    fn name(&self) -> &'static str {
        self.kernel()[0]
    }

    fn forward_on_cpu(
        &self,
        [(storage, layout)]: [Input<'_, CpuStorage>; 1],
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut out = vec![0f32; x.len()];
        match self {
            Self::Gelu => each([x], &mut out, |[x]| x * normal(x).0),
            Self::GeluTanh => each([x], &mut out, |[x]| x * sigmoid_of_cubic(x).0),
            Self::HardSwish => each([x], &mut out, |[x]| x * hard_sigmoid(x)),
        }
        #[cfg(test)]
        super::launch::recorder::record(Some(&Launch::each(self.name(), x.len(), &[])), &[x], &out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn forward_on_gpu(
        &self,
        [(storage, layout)]: [Input<'_, CudaStorage>; 1],
    ) -> Result<(CudaStorage, Shape)> {
        let launch = Launch::each(self.name(), layout.shape().elem_count(), &[]);
        launch.run(&[(storage, layout)], layout.shape())
    }

    fn gradients(
        &self,
        [x]: [&Tensor; 1],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let launch = Launch::each(self.kernel()[1], x.elem_count(), &[]);
        let grad = kernel(launch, [x, grad], x.shape(), |inputs, out| match self {
            Self::Gelu => each(inputs, out, |[x, grad]| {
                let (cdf, density) = normal(x);
                grad * (cdf + x * density)
            }),
            Self::GeluTanh => each(inputs, out, |[x, grad]| {
                let (sigmoid, slope) = sigmoid_of_cubic(x);
                grad * (sigmoid + x * slope)
            }),
            Self::HardSwish => each(inputs, out, |[x, grad]| {
                let slope = if x.abs() < 3.0 { x / 6.0 } else { 0.0 };
                grad * (hard_sigmoid(x) + slope)
            }),
        })?;
        Ok([Some(grad)])
    }
}

/// `f` of the values at each place.
fn each<const N: usize>(inputs: [&[f32]; N], out: &mut [f32], f: impl Fn([f32; N]) -> f32 + Sync) {
    for_blocks(
        out,
        BLOCK,
        #[inline(always)]
        |at, out| {
            let inputs = inputs.map(|input| &input[at..at + out.len()]);
            for (i, out) in out.iter_mut().enumerate() {
                *out = f(inputs.map(|input| input[i]));
            }
        },
    );
}

const SQRT_2_BY_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// The sigmoid of 2 sqrt(2 / pi) (x + 0.044715 x^3), and its slope in x.
#[inline(always)]
fn sigmoid_of_cubic(x: f32) -> (f32, f32) {
    let square = x * x;
    let inner = 2.0 * SQRT_2_BY_PI * x * (1.0 + CUBIC * square);
    let e = exp(-inner.abs());
    let small = e / (1.0 + e);
    let sigmoid = if inner > 0.0 { 1.0 - small } else { small };
    let inner_slope = 2.0 * SQRT_2_BY_PI * (1.0 + 3.0 * CUBIC * square);
    (sigmoid, sigmoid * (1.0 - sigmoid) * inner_slope)
}

#[inline(always)]
fn hard_sigmoid(x: f32) -> f32 {
    (x / 6.0 + 0.5).clamp(0.0, 1.0)
}

/// The standard normal's distribution function, within 7.5e-8, and density. Abramowitz and
/// Stegun 7.1.26: the error function from the exponential that the density needs as well.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    // 0.3275911 / sqrt(2)
    let t = 1.0 / (1.0 + 0.231_641_89 * x.abs());
    let p = 1.061_405_4;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let e = exp(-0.5 * x * x);
    let tail = 0.5 * p * t * e;
    let cdf = if x > 0.0 { 1.0 - tail } else { tail };
    (cdf, 0.398_942_3 * e)
}

/// Turns `row` into its softmax.
#[inline(always)]
pub(super) fn softmax_row(row: &mut [f32]) {
    let top = max(row);
    for x in &mut *row {
        *x = exp(*x - top);
    }
    let scale = 1.0 / sum(row);
    for x in row {
        *x *= scale;
    }
}

struct Softmax;

impl Softmax {
    fn launch(x: &Layout) -> Result<Launch> {
        let width = x.shape().dim(D::Minus1)?;
        let rows = x.shape().elem_count() / width.max(1);
        Ok(Launch::blocks("softmax", rows, &[width]).with(1.0))
    }
}

impl Operation<1> for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn forward_on_cpu(
        &self,
        [(storage, layout)]: [Input<'_, CpuStorage>; 1],
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let width = layout.shape().dim(D::Minus1)?;
        let mut out = vec![0f32; x.len()];
        for_blocks(
            &mut out,
            rows_per_block(width) * width,
            #[inline(always)]
            |at, out| {
                let x = &x[at..at + out.len()];
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    out.copy_from_slice(x);
                    softmax_row(out);
                }
            },
        );
        #[cfg(test)]
        super::launch::recorder::record(Some(&Self::launch(layout)?), &[x], &out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn forward_on_gpu(
        &self,
        [(storage, layout)]: [Input<'_, CudaStorage>; 1],
    ) -> Result<(CudaStorage, Shape)> {
        Self::launch(layout)?.run(&[(storage, layout)], layout.shape())
    }

    fn gradients(
        &self,
        [_]: [&Tensor; 1],
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        softmax_backward(y, grad, 1.0).map(|gradient| [Some(gradient)])
    }
}

/// Gradient of `scale * x` from the softmax `y` of it, and `y`'s gradient.
pub(super) fn softmax_backward(y: &Tensor, grad: &Tensor, scale: f32) -> Result<Tensor> {
    let width = y.dim(D::Minus1)?;
    let rows = y.elem_count() / width.max(1);
    let launch = Launch::blocks("softmax_backward", rows, &[width]).with(scale);
    kernel(launch, [y, grad], y.shape(), |[y, grad], out| {
        for_blocks(
            out,
            rows_per_block(width) * width,
            #[inline(always)]
            |at, out| {
                let y = y[at..].chunks_exact(width);
                let grad = grad[at..].chunks_exact(width);
                for ((out, y), grad) in out.chunks_exact_mut(width).zip(y).zip(grad) {
                    let mean = dot(y, grad);
                    for ((out, &y), &grad) in out.iter_mut().zip(y).zip(grad) {
                        *out = scale * y * (grad - mean);
                    }
                }
            },
        );
    })
}

/// Rows of a block when each is `width` long.
pub(super) fn rows_per_block(width: usize) -> usize {
    (BLOCK / width.max(1)).max(1)
}
