//! Sums over the ranks' GPUs.

use std::ffi::c_char;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Storage, Tensor};

/// A sum takes milliseconds.
const POLL: Duration = Duration::from_micros(100);

/// What all ranks of a run have to know to meet; rank 0 makes it.
pub(super) fn meeting() -> Result<Vec<c_char>> {
    let id = Id::new().map_err(|error| named(&error))?;
    Ok(id.internal().to_vec())
}

/// Meets the other ranks, on their GPUs.
pub(super) fn meet(
    id: Vec<c_char>,
    rank: usize,
    world: usize,
    device: &CudaDevice,
) -> Result<Comm> {
    let id = <[c_char; 128]>::try_from(id);
    let id = id.map_err(|_| anyhow!("rank 0 sent no NCCL id"))?;
    let stream = device.cuda_stream();
    // NCCL takes the GPU of the calling thread.
    stream.context().bind_to_thread()?;
    Comm::from_rank(stream, rank, world, Id::uninit(id))
        .map_err(|error| named(&error))
        .context("each process needs a GPU of its own")
}

/// The sum of one f32 tensor of every rank. `alive` fails when another rank is gone, which NCCL does not
/// notice; `comm` must be dropped then, as it still waits.
pub(super) fn sum(comm: &Comm, tensor: &Tensor, alive: impl Fn() -> Result<()>) -> Result<Tensor> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        bail!("what NCCL adds up must be contiguous and on the GPU");
    };
    let source = storage.as_cuda_slice::<f32>()?.slice(start..end);
    let mut sum = storage.device.alloc_zeros::<f32>(end - start)?;
    comm.all_reduce(&source, &mut sum, &ReduceOp::Sum)
        .map_err(|error| named(&error))?;
    let done = comm.stream().record_event(None)?;
    while !done.try_is_complete()? {
        alive()?;
        sleep(POLL);
    }
    let sum = CudaStorage::wrap_cuda_slice(sum, storage.device.clone());
    let shape = tensor.shape().clone();
    Ok(Tensor::from_storage(
        Storage::Cuda(sum),
        shape,
        BackpropOp::none(),
        false,
    ))
}

/// `NcclError` does not say which.
fn named(error: &NcclError) -> anyhow::Error {
    anyhow!("NCCL: {:?}", error.0)
}
