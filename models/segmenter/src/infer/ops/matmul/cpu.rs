//! Which kernels this CPU has.

use std::sync::LazyLock;

#[cfg(not(target_arch = "aarch64"))]
use super::generic;
use super::kernel::{Half, Kernel};
#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::x86;

pub(super) fn kernel() -> &'static Kernel {
    static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = x86::kernel() {
            return kernel;
        }
        #[cfg(target_arch = "aarch64")]
        return neon::kernel();
        #[cfg(not(target_arch = "aarch64"))]
        generic::KERNEL
    });
    &KERNEL
}

/// `None` where this CPU has no such instructions.
pub(crate) fn half() -> Option<&'static Half> {
    #[cfg(target_arch = "x86_64")]
    return x86::bf16::half();
    #[cfg(target_arch = "aarch64")]
    return neon::f16::half();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}
