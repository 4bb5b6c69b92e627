//! Convolution on a GPU: its windows as the rows of a matrix, all at once, and a linear layer.

use candle_core::{CpuStorage, CudaStorage, Layout, Result, Shape, Tensor};

use super::im2col::Windows;
use super::kernel::{kernel, values};
use super::launch::Launch;
use super::linear;
use super::operation::{Custom, Input, Operation};

/// `x` (B, I, H, W) with `weight` (O, I, k, k) and `bias` (O), giving (B, O, H', W').
pub(super) fn conv2d_in_steps(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    windows: Windows,
) -> Result<Tensor> {
    let (batch, inputs, _, _) = x.dims4()?;
    let outputs = weight.dim(0)?;
    let rows = if windows.is_pointwise() {
        x.flatten_from(2)?.transpose(1, 2)?.contiguous()?
    } else {
        x.apply_op1(Custom(Unfold { windows, inputs }))?
    };
    let [height, width] = windows.output;
    linear(&rows, &weight.reshape((outputs, ()))?, bias)?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((batch, outputs, height, width))
}

/// Image (B, I, H, W) to its windows (B, H' W', I k k).
struct Unfold {
    windows: Windows,
    inputs: usize,
}

impl Unfold {
    fn taps(&self) -> usize {
        self.inputs * self.windows.kernel * self.windows.kernel
    }

    /// With the output's shape.
    fn launch(&self, x: &Layout) -> Result<(Launch, Shape)> {
        let shape = Shape::from((x.shape().dim(0)?, self.windows.pixels_out(), self.taps()));
        let numbers = self.windows.numbers(self.inputs);
        Ok((Launch::each("gather", shape.elem_count(), &numbers), shape))
    }

    /// Matrices of `rows` rows, each turned over.
    fn transposed(matrices: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        let turned = |matrix: &[f32]| {
            (0..rows * columns)
                .map(|at| matrix[at % rows * columns + at / rows])
                .collect::<Vec<_>>()
        };
        matrices
            .chunks_exact(rows * columns)
            .flat_map(turned)
            .collect()
    }
}

impl Operation<1> for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn forward_on_cpu(
        &self,
        [(storage, layout)]: [Input<'_, CpuStorage>; 1],
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (_, shape) = self.launch(layout)?;
        let (taps, pixels) = (self.taps(), self.windows.pixels_out());
        let mut columns = vec![0f32; shape.elem_count()];
        let images = x.chunks_exact(self.inputs * self.windows.pixels_in());
        for (image, columns) in images.zip(columns.chunks_exact_mut(taps * pixels)) {
            self.windows
                .gather(image, 0..self.windows.output[0], columns);
        }
        let out = Self::transposed(&columns, taps, pixels);
        #[cfg(test)]
        super::launch::recorder::record(Some(&self.launch(layout)?.0), &[x], &out);
        Ok((CpuStorage::F32(out), shape))
    }

    fn forward_on_gpu(
        &self,
        [(storage, layout)]: [Input<'_, CudaStorage>; 1],
    ) -> Result<(CudaStorage, Shape)> {
        let (launch, shape) = self.launch(layout)?;
        launch.run(&[(storage, layout)], shape)
    }

    fn gradients(
        &self,
        [x]: [&Tensor; 1],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let numbers = self.windows.numbers(self.inputs);
        let launch = Launch::each("scatter", x.elem_count(), &numbers);
        let (taps, pixels) = (self.taps(), self.windows.pixels_out());
        kernel(launch, [grad], x.shape(), |[grad], out| {
            let columns = Self::transposed(grad, pixels, taps);
            let images = out.chunks_exact_mut(self.inputs * self.windows.pixels_in());
            for (image, columns) in images.zip(columns.chunks_exact(taps * pixels)) {
                self.windows
                    .scatter(columns, 0..self.windows.output[0], image);
            }
        })
        .map(|gradient| [Some(gradient)])
    }
}
