//! 3x3 convolution with padding 1 and few input channels a group: depthwise, and the first one of the stem.

use tract_onnx::tract_hir::internal::{
    DatumExt, DimLike, EvalContext, EvalOp, IntoTValue, Op, StaticName, TDim, TValue, TVec, Tensor,
    ToDim, TractResult, TypedFact, TypedOp, args_3, as_op, bail, ensure, op_as_typed_op,
    op_out_of_plan, tvec,
};
use tract_onnx::tract_hir::tract_core::ops::cnn::{Conv, KernelFormat, PaddingSpec};
use tract_onnx::tract_hir::tract_core::ops::nn::DataFormat;

use super::vectorized;

/// With more input channels a matrix product is faster.
const MAX_GROUP: usize = 4;

/// Inputs: x (1, C, H, W) or (C, H, W), kernel (O, C / groups, 3, 3), bias (O) or one value for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conv3x3 {
    groups: usize,
    channels: [usize; 2],
    stride: usize,
}

impl Conv3x3 {
    /// The same convolution as `conv`, if it is one of these.
    pub(crate) fn of(conv: &Conv) -> Option<Self> {
        let spec = &conv.pool_spec;
        let channels = [spec.input_channels, spec.output_channels];
        let strides = spec.strides();
        let one_each_side = match &spec.padding {
            PaddingSpec::Explicit(before, after) => before[..] == [1, 1] && after[..] == [1, 1],
            _ => false,
        };
        let fits = spec.kernel_shape[..] == [3, 3]
            && one_each_side
            && spec.dilations().iter().all(|&dilation| dilation == 1)
            && (strides[..] == [1, 1] || strides[..] == [2, 2])
            && matches!(spec.data_format, DataFormat::NCHW | DataFormat::CHW)
            && conv.kernel_fmt == KernelFormat::OIHW
            && conv.q_params.is_none()
            && channels[0] / conv.group <= MAX_GROUP;
        fits.then(|| Self {
            groups: conv.group,
            channels,
            stride: strides[0],
        })
    }

    fn out(&self, length: usize) -> usize {
        (length - 1) / self.stride + 1
    }
}

impl Op for Conv3x3 {
    fn name(&self) -> StaticName {
        "Conv3x3".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Conv3x3 {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, kernel, bias) = args_3!(inputs);
        let mut shape: TVec<usize> = x.shape().into();
        let [.., channels, rows, cols] = shape[..] else {
            bail!("a convolution of an image takes no {:?}", x.shape())
        };
        let plane = Plane { rows, cols };
        let n_axes = shape.len();
        shape[n_axes - 3] = self.channels[1];
        shape[n_axes - 2] = self.out(rows);
        shape[n_axes - 1] = self.out(cols);
        ensure!(
            x.len() == channels * rows * cols && channels == self.channels[0],
            "a convolution of one image of {} channels takes no {:?}",
            self.channels[0],
            x.shape()
        );
        let mut out = Tensor::zero::<f32>(&shape)?;
        let (x, kernel, bias) = (
            x.try_as_plain_ram()?,
            kernel.try_as_plain_ram()?,
            bias.try_as_plain_ram()?,
        );
        let operands = [
            x.as_slice::<f32>()?,
            kernel.as_slice::<f32>()?,
            bias.as_slice::<f32>()?,
        ];
        self.run(
            operands,
            plane,
            out.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
        );
        Ok(tvec!(out.into_tvalue()))
    }
}

impl TypedOp for Conv3x3 {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape: TVec<TDim> = inputs[0].shape.iter().cloned().collect();
        let n_axes = shape.len();
        ensure!(n_axes >= 3, "a convolution of an image takes no {shape:?}");
        shape[n_axes - 3] = self.channels[1].to_dim();
        for length in &mut shape[n_axes - 2..] {
            *length = self.out(length.to_usize()?).to_dim();
        }
        Ok(tvec!(f32::fact(shape)))
    }

    as_op!();
}

#[derive(Clone, Copy)]
pub(super) struct Plane {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Conv3x3 {
    #[cfg(test)]
    pub(super) fn new(groups: usize, channels: [usize; 2], stride: usize) -> Self {
        Self {
            groups,
            channels,
            stride,
        }
    }

    /// `operands`: image, kernel, bias; `out` is overwritten.
    pub(super) fn run(&self, [x, kernel, bias]: [&[f32]; 3], plane: Plane, out: &mut [f32]) {
        let [n_in, n_out] = self.channels.map(|channels| channels / self.groups);
        let (area, out_area) = (
            plane.rows * plane.cols,
            self.out(plane.rows) * self.out(plane.cols),
        );
        let mut padded = Padded::new(plane, self.stride);
        for group in 0..self.groups {
            for inner in 0..n_in {
                let channel = group * n_in + inner;
                vectorized(
                    #[inline(always)]
                    || {
                        padded.fill(&x[channel * area..][..area]);
                        for o in group * n_out..(group + 1) * n_out {
                            let taps = &kernel[(o * n_in + inner) * 9..][..9];
                            let start = match (inner, bias.len()) {
                                (0, 1) => Some(bias[0]),
                                (0, _) => Some(bias[o]),
                                _ => None,
                            };
                            let taps = taps.try_into().expect("nine taps");
                            padded.accumulate(taps, start, &mut out[o * out_area..][..out_area]);
                        }
                    },
                );
            }
        }
    }
}

/// A plane with a border of zeros; with stride 2 the even columns come before the odd ones, so that neighbours of
/// one output row lie beside each other.
struct Padded {
    plane: Plane,
    stride: usize,
    /// Columns of one parity (or all, with stride 1).
    phase: usize,
    data: Vec<f32>,
}

impl Padded {
    fn new(plane: Plane, stride: usize) -> Self {
        let phase = (plane.cols + 2).div_ceil(stride);
        Self {
            plane,
            stride,
            phase,
            data: vec![0.0; (plane.rows + 2) * phase * stride],
        }
    }

    #[inline(always)]
    fn fill(&mut self, x: &[f32]) {
        let (stride, phase) = (self.stride, self.phase);
        let rows = self.data.chunks_exact_mut(stride * phase).skip(1);
        for (to, from) in rows.zip(x.chunks_exact(self.plane.cols)) {
            if stride == 1 {
                to[1..=from.len()].copy_from_slice(from);
                continue;
            }
            // Column c of the image is column c + 1 here: odd for even c.
            let (even, odd) = to.split_at_mut(phase);
            for (to, pair) in odd.iter_mut().zip(from.chunks(2)) {
                *to = pair[0];
            }
            for (to, pair) in even[1..].iter_mut().zip(from.chunks_exact(2)) {
                *to = pair[1];
            }
        }
    }

    /// Adds the product of the nine taps to `out`, or writes it with `start` in front.
    #[inline(always)]
    fn accumulate(&self, taps: [f32; 9], start: Option<f32>, out: &mut [f32]) {
        let width = (self.plane.cols - 1) / self.stride + 1;
        let offsets = if self.stride == 1 {
            [0, 1, 2]
        } else {
            [0, self.phase, 1]
        };
        let line = self.stride * self.phase;
        for (y, out) in out.chunks_exact_mut(width).enumerate() {
            let top = y * self.stride * line;
            let tap =
                |row: usize, col: usize| &self.data[top + row * line + offsets[col]..][..width];
            let rows = [
                [tap(0, 0), tap(0, 1), tap(0, 2)],
                [tap(1, 0), tap(1, 1), tap(1, 2)],
                [tap(2, 0), tap(2, 1), tap(2, 2)],
            ];
            for x in 0..width {
                let mut sum = start.unwrap_or(out[x]);
                for row in 0..3 {
                    for col in 0..3 {
                        sum += taps[row * 3 + col] * rows[row][col][x];
                    }
                }
                out[x] = sum;
            }
        }
    }
}
