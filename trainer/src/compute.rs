//! Where a run computes.

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use nets::params::Compute;

use crate::config::{self, Precision};

/// What `[compute]` asks for; `ordinal` is the GPU's number on this machine.
pub fn open(config: &config::Compute, ordinal: usize) -> Result<Compute> {
    let device = match config.device {
        config::Device::Cpu => Device::Cpu,
        config::Device::Cuda => cuda(ordinal)?,
    };
    let precision = match config.precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    Ok(Compute { device, precision })
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal).with_context(|| {
        format!(
            "compute.device = \"cuda\": GPU {ordinal} cannot be used; look at nvidia-smi, or set compute.device = \"cpu\""
        )
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal).context(
        "compute.device = \"cuda\": this trainer was built without GPUs; build it with tests/cuda/build.sh, or set \
         compute.device = \"cpu\"",
    )
}
