//! Loops compiled for the vector instructions of this CPU, here and in `segmenter`.

use std::sync::LazyLock;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Runs `f` with the widest instructions that there are, which changes its speed and no bit of what it computes:
/// nothing is fused and no sum is put in another order. Only what is inlined into `f` profits,
/// so all it calls is `#[inline(always)]`.
#[inline]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}
