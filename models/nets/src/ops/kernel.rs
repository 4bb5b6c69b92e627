//! What the operations are made of: access to storages, loops that LLVM vectorizes for the CPU
//! at hand, and operations without a gradient.

use std::sync::LazyLock;

use candle_core::{CpuStorage, CudaStorage, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::launch::Launch;
use super::operation::{Custom, Input, Operation};

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Runs `f` compiled for the vector instructions of this CPU. Only what is inlined into `f`
/// profits, so the closure and the loops it calls are `#[inline(always)]`.
#[inline]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}

/// The values of a contiguous f32 storage.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("input of shape {:?} is not contiguous", layout.shape())
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The values of a storage that a kernel just made.
pub(super) fn into_values(storage: CpuStorage) -> Result<Vec<f32>> {
    match storage {
        CpuStorage::F32(values) => Ok(values),
        _ => bail!("expected f32 values"),
    }
}

/// What the CPU's operations take is f32: other types are rounded from and to it around `op`.
pub(super) fn in_f32(x: &Tensor, op: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.dtype() == DType::F32 || !x.device().is_cpu() {
        return op(&x.contiguous()?);
    }
    op(&x.to_dtype(DType::F32)?.contiguous()?)?.to_dtype(x.dtype())
}

/// A weight, contiguous and of the type of the values that it meets.
pub(super) fn like(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    weight.to_dtype(x.dtype())?.contiguous()
}

/// An operation without gradient: a shape and a function that fills a zeroed buffer of it.
struct Plain<F> {
    name: &'static str,
    launch: Option<Launch>,
    shape: Shape,
    fill: F,
}

impl<const N: usize, F: Fn(&[&[f32]], &mut [f32])> Operation<N> for Plain<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward_on_cpu(&self, inputs: [Input<'_, CpuStorage>; N]) -> Result<(CpuStorage, Shape)> {
        let mut slices = [&[][..]; N];
        for (slice, (storage, layout)) in slices.iter_mut().zip(inputs) {
            *slice = values(storage, layout)?;
        }
        let mut out = vec![0f32; self.shape.elem_count()];
        (self.fill)(&slices, &mut out);
        #[cfg(test)]
        super::launch::recorder::record(self.launch.as_ref(), &slices, &out);
        Ok((CpuStorage::F32(out), self.shape.clone()))
    }

    fn forward_on_gpu(&self, inputs: [Input<'_, CudaStorage>; N]) -> Result<(CudaStorage, Shape)> {
        match &self.launch {
            Some(launch) => launch.run(&inputs, self.shape.clone()),
            None => bail!("{} has no kernel for a GPU", self.name),
        }
    }
}

/// Runs `fill` on the values of `inputs` and a zeroed buffer of `shape`; on a CPU only.
pub(super) fn plain<const N: usize>(
    name: &'static str,
    inputs: [&Tensor; N],
    shape: impl Into<Shape>,
    fill: impl Fn([&[f32]; N], &mut [f32]),
) -> Result<Tensor> {
    plain_or(name, None, inputs, shape.into(), fill)
}

/// The same, by a kernel on a GPU.
pub(super) fn kernel<const N: usize>(
    launch: Launch,
    inputs: [&Tensor; N],
    shape: impl Into<Shape>,
    fill: impl Fn([&[f32]; N], &mut [f32]),
) -> Result<Tensor> {
    plain_or(launch.kernel, Some(launch), inputs, shape.into(), fill)
}

fn plain_or<const N: usize>(
    name: &'static str,
    launch: Option<Launch>,
    inputs: [&Tensor; N],
    shape: Shape,
    fill: impl Fn([&[f32]; N], &mut [f32]),
) -> Result<Tensor> {
    let contiguous = inputs
        .iter()
        .map(|input| input.contiguous())
        .collect::<Result<Vec<_>>>()?;
    let op = Custom(Plain {
        name,
        launch,
        shape,
        fill: |slices: &[&[f32]], out: &mut [f32]| {
            let slices = slices.try_into().expect("as many slices as inputs");
            fill(slices, out);
        },
    });
    match &contiguous[..] {
        [a] => a.apply_op1_no_bwd(&op),
        [a, b] => a.apply_op2_no_bwd(b, &op),
        [a, b, c] => a.apply_op3_no_bwd(b, c, &op),
        _ => bail!("{name}: {N} inputs"),
    }
}

const LANES: usize = 16;

/// Sum of the values `f` gives for `a` and `b`, which have one length. Sixteen partial sums let
/// it use vectors, and keep it more precise than one would.
#[inline(always)]
fn fold2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(&a, &b)| f(a, b)).sum();
    lanes.iter().sum::<f32>() + tail
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold2(a, b, |a, b| a * b)
}

#[inline(always)]
pub(super) fn sum(a: &[f32]) -> f32 {
    fold2(a, a, |a, _| a)
}

/// Sum of the squared distances from `mean`.
#[inline(always)]
pub(super) fn squared_deviation(a: &[f32], mean: f32) -> f32 {
    fold2(a, a, |a, _| (a - mean) * (a - mean))
}

#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] {
                chunk[i]
            } else {
                lanes[i]
            };
        }
    }
    lanes
        .iter()
        .chain(tail)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// `out += scale * a`
#[inline(always)]
pub(super) fn axpy(out: &mut [f32], scale: f32, a: &[f32]) {
    for (out, &a) in out.iter_mut().zip(a) {
        *out += scale * a;
    }
}

/// e^x for x <= 88, within 2 units in the last place; 0 below -87.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the sum.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let bits = shifted
        .to_bits()
        .wrapping_sub(MAGIC.to_bits())
        .wrapping_add(127)
        << 23;
    let value = p * f32::from_bits(bits);
    if x > -87.0 { value } else { 0.0 }
}

/// How many values a task takes from a large buffer: enough to outweigh its start, few enough
/// to stay in the second-level cache with its inputs.
pub(super) const BLOCK: usize = 1 << 14;

/// Fills `out` in blocks, in parallel and vectorized; `f` gets each block's offset.
pub(super) fn for_blocks(out: &mut [f32], block: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(block.max(1))
        .enumerate()
        .for_each(|(index, chunk)| {
            vectorized(
                #[inline(always)]
                || f(index * block, chunk),
            );
        });
}

/// Sums over all but the channels of a (B, C, plane) buffer, accumulated in f64: `f` gives the
/// sums of the plane at an offset. The result has the channels of the first sum, then the next.
pub(super) fn channel_sums<const N: usize>(
    out: &mut [f32],
    plane: usize,
    batch: usize,
    f: impl Fn(usize, usize) -> [f64; N] + Sync,
) {
    let channels = out.len() / N;
    let sums: Vec<[f64; N]> = (0..channels)
        .into_par_iter()
        .map(|c| {
            let mut total = [0f64; N];
            for b in 0..batch {
                let sums = vectorized(
                    #[inline(always)]
                    || f(c, (b * channels + c) * plane),
                );
                for (total, sum) in total.iter_mut().zip(sums) {
                    *total += sum;
                }
            }
            total
        })
        .collect();
    for (c, sums) in sums.iter().enumerate() {
        for (n, &sum) in sums.iter().enumerate() {
            out[n * channels + c] = sum as f32;
        }
    }
}

/// Bias gradient: the sum of `grad` (B, C, ..) for each channel.
pub(super) fn sum_per_channel(grad: &Tensor) -> Result<Tensor> {
    let dims = grad.dims();
    let (batch, channels) = (dims[0], dims[1]);
    let plane = dims[2..].iter().product();
    plain("sum-per-channel", [grad], channels, |[g], out| {
        channel_sums(out, plane, batch, |_, at| [long_sum(&g[at..at + plane])]);
    })
}

/// Sum of a long buffer, in f64 from block to block.
#[inline(always)]
pub(super) fn long_sum(a: &[f32]) -> f64 {
    a.chunks(1024).map(|a| f64::from(sum(a))).sum()
}

/// Dot product of long buffers, in f64 from block to block.
#[inline(always)]
pub(super) fn long_dot(a: &[f32], b: &[f32]) -> f64 {
    a.chunks(1024)
        .zip(b.chunks(1024))
        .map(|(a, b)| f64::from(dot(a, b)))
        .sum()
}
