//! Dense convolution as matrix products.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::im2col::Windows;
use super::kernel::{axpy, in_f32, into_values, like, sum_per_channel, values, vectorized};
use super::operation::{Custom, Input, Operation};
use super::unfold::conv2d_in_steps;

/// Convolution of `x` (B, I, H, W) with `weight` (O, I, k, k) and `bias` (O), zero padded.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (_, inputs, h, w) = x.dims4()?;
    let (outputs, weight_inputs, kernel, kernel_width) = weight.dims4()?;
    if inputs != weight_inputs || kernel != kernel_width {
        bail!(
            "conv2d: input {:?} does not go with weight {:?}",
            x.dims(),
            weight.dims()
        );
    }
    let windows = Windows::new([h, w], kernel, stride, padding)?;
    let op = Convolution {
        windows,
        inputs,
        outputs,
    };
    in_f32(x, |x| {
        let (weight, bias) = (
            like(x, weight)?,
            bias.map(|bias| like(x, bias)).transpose()?,
        );
        if !x.device().is_cpu() {
            return conv2d_in_steps(x, &weight, bias.as_ref(), windows);
        }
        match bias {
            Some(bias) => x.apply_op3(&weight, &bias, Custom(op)),
            None => x.apply_op2(&weight, Custom(op)),
        }
    })
}

#[derive(Debug, Clone, Copy)]
struct Convolution {
    windows: Windows,
    inputs: usize,
    outputs: usize,
}

type Operand<'a> = (&'a CpuStorage, &'a Layout);

impl Convolution {
    /// Height of the columns.
    fn taps(&self) -> usize {
        self.inputs * self.windows.kernel * self.windows.kernel
    }

    /// `a b` for matrices of (rows, inner) and (inner, columns).
    fn product(a: Operand, b: Operand) -> Result<CpuStorage> {
        let (rows, inner) = a.1.shape().dims2()?;
        let columns = b.1.dim(1)?;
        a.0.matmul(b.0, (1, rows, columns, inner), a.1, b.1)
    }

    fn forward(&self, x: Operand, weight: Operand) -> Result<(Vec<f32>, Shape)> {
        let (taps, plane) = (self.taps(), self.windows.pixels_out());
        let batch = x.1.dims()[0];
        let kernel = Layout::contiguous_with_offset((self.outputs, taps), weight.1.start_offset());
        let [height, width] = self.windows.output;
        let shape = Shape::from((batch, self.outputs, height, width));
        let mut out = Vec::new();
        for image in 0..batch {
            if self.windows.is_pointwise() {
                let start = x.1.start_offset() + image * taps * plane;
                let x = (x.0, &Layout::contiguous_with_offset((taps, plane), start));
                let y = into_values(Self::product((weight.0, &kernel), x)?)?;
                if batch == 1 {
                    return Ok((y, shape));
                }
                out.reserve_exact(batch * y.len() - out.len());
                out.extend_from_slice(&y);
                continue;
            }
            if out.is_empty() {
                out = vec![0f32; shape.elem_count()];
            }
            let y = &mut out[image * self.outputs * plane..][..self.outputs * plane];
            self.for_blocks(x, image, |rows, columns, layout| {
                let product = Self::product((weight.0, &kernel), (columns, layout))?;
                let (product, n) = (into_values(product)?, rows.len() * width);
                y.par_chunks_mut(plane)
                    .zip(product.par_chunks(n))
                    .for_each(|(y, product)| {
                        y[rows.start * width..][..n].copy_from_slice(product);
                    });
                Ok(())
            })?;
        }
        Ok((out, shape))
    }

    /// Calls `f(output rows, columns, their layout (taps, pixels))` for blocks of an image.
    fn for_blocks(
        &self,
        x: Operand,
        image: usize,
        mut f: impl FnMut(std::ops::Range<usize>, &CpuStorage, &Layout) -> Result<()>,
    ) -> Result<()> {
        let size = self.inputs * self.windows.pixels_in();
        let x = &values(x.0, x.1)?[image * size..][..size];
        let mut buffer = Vec::new();
        for rows in self.windows.row_blocks(self.inputs) {
            let n = rows.len() * self.windows.output[1];
            buffer.resize(self.taps() * n, 0f32);
            self.windows.gather(x, rows.clone(), &mut buffer);
            let columns = CpuStorage::F32(buffer);
            f(rows, &columns, &Layout::contiguous((self.taps(), n)))?;
            buffer = into_values(columns)?;
        }
        Ok(())
    }

    /// The part of an image's gradient (O, pixels) that belongs to `rows` of the output.
    fn gradient_layout(
        &self,
        grad: &Layout,
        image: usize,
        rows: &std::ops::Range<usize>,
    ) -> Layout {
        let (plane, width) = (self.windows.pixels_out(), self.windows.output[1]);
        let start = grad.start_offset() + image * self.outputs * plane + rows.start * width;
        let shape = Shape::from((self.outputs, rows.len() * width));
        Layout::new(shape, vec![plane, 1], start)
    }

    fn gradients(
        &self,
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let to_x = x
            .track_op()
            .then(|| grad.apply_op2_no_bwd(weight, &Custom(InputGradient(*self))));
        let to_weight = weight
            .track_op()
            .then(|| x.apply_op2_no_bwd(&grad, &Custom(WeightGradient(*self))));
        Ok((to_x.transpose()?, to_weight.transpose()?))
    }
}

impl Operation<2> for Convolution {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        let (y, shape) = self.forward((s1, l1), (s2, l2))?;
        Ok((CpuStorage::F32(y), shape))
    }

    fn gradients(
        &self,
        [x, weight]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        self.gradients(x, weight, grad).map(Into::into)
    }
}

impl Operation<3> for Convolution {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CpuStorage>; 3],
    ) -> Result<(CpuStorage, Shape)> {
        let (mut y, shape) = self.forward((s1, l1), (s2, l2))?;
        let bias = values(s3, l3)?;
        if bias.len() != self.outputs {
            bail!(
                "conv2d: bias {:?} does not go with weight {:?}",
                l3.dims(),
                l2.dims()
            );
        }
        add_per_channel(&mut y, bias, self.windows.pixels_out());
        Ok((CpuStorage::F32(y), shape))
    }

    fn gradients(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (to_x, to_weight) = self.gradients(x, weight, grad)?;
        let to_bias = bias.track_op().then(|| sum_per_channel(grad)).transpose()?;
        Ok([to_x, to_weight, to_bias])
    }
}

/// Adds `bias` (C) to `y` (B, C, plane).
pub(super) fn add_per_channel(y: &mut [f32], bias: &[f32], plane: usize) {
    y.par_chunks_mut(plane).enumerate().for_each(|(index, y)| {
        let bias = bias[index % bias.len()];
        vectorized(
            #[inline(always)]
            || y.iter_mut().for_each(|y| *y += bias),
        );
    });
}

/// (gradient, weight) to the input's gradient.
struct InputGradient(Convolution);

impl Operation<2> for InputGradient {
    fn name(&self) -> &'static str {
        "conv2d-input-gradient"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        let op = self.0;
        let windows = op.windows;
        let batch = l1.dims()[0];
        let [height, width] = windows.input;
        let shape = Shape::from((batch, op.inputs, height, width));
        let kernel = Layout::contiguous_with_offset((op.outputs, op.taps()), l2.start_offset())
            .transpose(0, 1)?;
        let all = 0..windows.output[0];
        if windows.is_pointwise() && batch == 1 {
            let grad = op.gradient_layout(l1, 0, &all);
            return Ok((Convolution::product((s2, &kernel), (s1, &grad))?, shape));
        }
        let mut out = vec![0f32; shape.elem_count()];
        for (image, out) in out
            .chunks_exact_mut(op.inputs * windows.pixels_in())
            .enumerate()
        {
            for rows in windows.row_blocks(op.inputs) {
                let grad = op.gradient_layout(l1, image, &rows);
                let columns = into_values(Convolution::product((s2, &kernel), (s1, &grad))?)?;
                windows.scatter(&columns, rows, out);
            }
        }
        Ok((CpuStorage::F32(out), shape))
    }
}

/// (input, gradient) to the weight's gradient.
struct WeightGradient(Convolution);

impl Operation<2> for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d-weight-gradient"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        let op = self.0;
        let (taps, kernel) = (op.taps(), op.windows.kernel);
        let all = 0..op.windows.output[0];
        let mut out = vec![0f32; op.outputs * taps];
        let mut add = |grad: &Layout, columns: &CpuStorage, layout: &Layout| {
            let part = Convolution::product((s2, grad), (columns, &layout.transpose(0, 1)?))?;
            axpy(&mut out, 1.0, &into_values(part)?);
            Ok(())
        };
        for image in 0..l1.dims()[0] {
            if op.windows.is_pointwise() {
                let size = (taps, op.windows.pixels_in());
                let start = l1.start_offset() + image * size.0 * size.1;
                let x = Layout::contiguous_with_offset(size, start);
                add(&op.gradient_layout(l2, image, &all), s1, &x)?;
                continue;
            }
            op.for_blocks((s1, l1), image, |rows, columns, layout| {
                add(&op.gradient_layout(l2, image, &rows), columns, layout)
            })?;
        }
        Ok((
            CpuStorage::F32(out),
            (op.outputs, op.inputs, kernel, kernel).into(),
        ))
    }
}
