//! Dense convolutions as matrix products.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::contiguous::values;

/// Convolution of `x` (B, I, H, W) with `weight` (O, I, k, k) and `bias` (O), zero padded.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (b, inputs, h, w) = x.dims4()?;
    let (outputs, _, kernel, _) = weight.dims4()?;
    let grid = Grid::new([h, w], kernel, stride, padding);
    let [oh, ow] = grid.output;
    let columns = if (kernel, stride, padding) == (1, 1, 0) {
        x.contiguous()?.reshape((b, inputs, h * w))?
    } else {
        x.contiguous()?.apply_op1(ImageToColumns { grid })?
    };
    let weight = weight
        .contiguous()?
        .reshape((outputs, inputs * kernel * kernel))?;
    let y = columns
        .apply_op2(&weight, ChannelProduct)?
        .reshape((b, outputs, oh, ow))?;
    add_bias(y, bias)
}

/// Transposed convolution with kernel 2 and stride 2: `x` (B, I, H, W), `weight` (I, O, 2, 2),
/// `bias` (O), giving (B, O, 2H, 2W). The windows do not overlap, so it is one matrix product.
pub fn conv_transpose2x2(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (b, _, h, w) = x.dims4()?;
    let (i, o, _, _) = weight.dims4()?;
    let kernel = weight.permute((1, 2, 3, 0))?.reshape((4 * o, i, 1, 1))?;
    let y = conv2d(x, &kernel, None, 1, 0)?
        .reshape(&[b, o, 2, 2, h, w][..])?
        .permute([0, 1, 4, 2, 5, 3])?
        .reshape((b, o, 2 * h, 2 * w))?;
    add_bias(y, bias)
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?),
        None => Ok(y),
    }
}

/// `weight` (O, K) times each image of `columns` (B, K, L). A gradient that nothing needs is not
/// computed: frozen weights are the rule with LoRA.
struct ChannelProduct;

impl CustomOp2 for ChannelProduct {
    fn name(&self) -> &'static str {
        "channel_product"
    }

    fn cpu_fwd(
        &self,
        columns: &CpuStorage,
        columns_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, k, l) = columns_layout.shape().dims3()?;
        let (o, _) = weight_layout.shape().dims2()?;
        let weight_layout = weight_layout.broadcast_as((b, o, k))?;
        let y = weight.matmul(columns, (b, o, l, k), &weight_layout, columns_layout)?;
        Ok((y, Shape::from((b, o, l))))
    }

    fn bwd(
        &self,
        columns: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (b, k, _) = columns.dims3()?;
        let (o, _) = weight.dims2()?;
        let to_columns = columns
            .track_op()
            .then(|| {
                weight
                    .t()?
                    .contiguous()?
                    .broadcast_as((b, k, o))?
                    .matmul(&gradient)
            })
            .transpose()?;
        let to_weight = weight
            .track_op()
            .then(|| gradient.matmul(&columns.transpose(1, 2)?)?.sum(0))
            .transpose()?;
        Ok((to_columns, to_weight))
    }
}

/// How a k x k kernel lies on the input.
#[derive(Debug, Clone, Copy)]
struct Grid {
    input: [usize; 2],
    output: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Grid {
    fn new(input: [usize; 2], kernel: usize, stride: usize, padding: usize) -> Self {
        let output = input.map(|side| (side + 2 * padding - kernel) / stride + 1);
        Self {
            input,
            output,
            kernel,
            stride,
            padding,
        }
    }

    /// Calls `f(index in the columns of one channel, index in its image)` for every tap that lies
    /// inside the image.
    fn for_each_tap(&self, mut f: impl FnMut(usize, usize)) {
        let Self {
            input: [h, w],
            output: [oh, ow],
            kernel,
            stride,
            padding,
        } = *self;
        for tap in 0..kernel * kernel {
            let (ky, kx) = (tap / kernel, tap % kernel);
            let first = padding.saturating_sub(kx).div_ceil(stride);
            let end = (w + padding).saturating_sub(kx).div_ceil(stride).min(ow);
            for oy in 0..oh {
                let Some(iy) = (oy * stride + ky).checked_sub(padding).filter(|&iy| iy < h) else {
                    continue;
                };
                let row = (tap * oh + oy) * ow;
                for ox in first..end {
                    f(row + ox, iy * w + ox * stride + kx - padding);
                }
            }
        }
    }

    fn n_columns(&self) -> usize {
        self.kernel * self.kernel * self.output[0] * self.output[1]
    }
}

/// (B, C, H, W) -> (B, C k k, OH OW)
struct ImageToColumns {
    grid: Grid,
}

impl CustomOp1 for ImageToColumns {
    fn name(&self) -> &'static str {
        "image_to_columns"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let grid = self.grid;
        let mut columns = vec![0f32; b * c * grid.n_columns()];
        columns
            .par_chunks_mut(grid.n_columns())
            .zip(values(x, layout)?.par_chunks(h * w))
            .for_each(|(columns, image)| grid.for_each_tap(|to, from| columns[to] = image[from]));
        let [oh, ow] = grid.output;
        let shape = Shape::from((b, c * grid.kernel * grid.kernel, oh * ow));
        Ok((CpuStorage::F32(columns), shape))
    }

    fn bwd(&self, _x: &Tensor, _columns: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let op = ColumnsToImage { grid: self.grid };
        gradient.contiguous()?.apply_op1_no_bwd(&op).map(Some)
    }
}

/// The adjoint: adds every column entry to the pixel it came from.
struct ColumnsToImage {
    grid: Grid,
}

impl CustomOp1 for ColumnsToImage {
    fn name(&self) -> &'static str {
        "columns_to_image"
    }

    fn cpu_fwd(&self, columns: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, rows, _) = layout.shape().dims3()?;
        let grid = self.grid;
        let c = rows / (grid.kernel * grid.kernel);
        let [h, w] = grid.input;
        let mut image = vec![0f32; b * c * h * w];
        image
            .par_chunks_mut(h * w)
            .zip(values(columns, layout)?.par_chunks(grid.n_columns()))
            .for_each(|(image, columns)| grid.for_each_tap(|from, to| image[to] += columns[from]));
        Ok((CpuStorage::F32(image), Shape::from((b, c, h, w))))
    }
}
