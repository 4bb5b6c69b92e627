//! Operations with the same bits on every processor: f32 additions and multiplications in a written order, fused
//! where it says `mul_add` and nowhere else, and no function of the C library. [`Half`] alone gives that up.

mod activation;
mod compute;
mod depthwise;
mod layer_norm;
mod linear;
mod matmul;
mod patches;
mod relative_bias;
mod softmax;
#[cfg(test)]
mod tests;
mod window_attention;

use contract::vector::vectorized;

pub(super) use activation::Activation;
pub(super) use compute::{Compute, Operand, Ours};
pub(super) use depthwise::Depthwise;
pub(super) use layer_norm::LayerNorm;
pub(super) use linear::{Linear, Rows, Weights};
pub(super) use matmul::{Half, PackedF32, PackedI8, half};
pub(super) use patches::{Layout, Patches};
pub(super) use relative_bias::RelativeBias;
pub(super) use softmax::Softmax;
pub(super) use window_attention::WindowAttention;

/// Sums are made of this many partial ones, whatever the width of the CPU's vectors.
const LANES: usize = 16;

/// Folds `values` lane by lane, then the lanes pairwise.
#[inline(always)]
fn fold_lanes(
    values: &[f32],
    start: f32,
    step: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, value);
        }
    }
    if !rest.is_empty() {
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane = step(*lane, value);
        }
    }
    join_lanes(lanes, join)
}

/// Pairwise.
#[inline(always)]
fn join_lanes(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}
