//! Operations with the same bits on every processor: f32 additions and multiplications in a written order, never
//! fused, and no function of the C library.

mod conv3x3;
mod gelu;
mod layer_norm;
mod softmax;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

pub(super) use conv3x3::Conv3x3;
pub(super) use gelu::Gelu;
pub(super) use layer_norm::LayerNorm;
pub(super) use softmax::Softmax;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Runs `f` compiled for the vector instructions of this CPU, which changes its speed and no bit of what it
/// computes. Only what is inlined into `f` profits, so all it calls is `#[inline(always)]`.
#[inline]
fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}

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
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, value);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}
