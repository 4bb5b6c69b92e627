//! Operations on a GPU: kernels of `kernels.cu` by name.

use candle_core::{CudaStorage, Layout, Result, Shape};

/// How a kernel is started: one thread an element of the output or one block a row of it, and what it is told.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(any(feature = "cuda", test)),
    expect(dead_code, reason = "read by a GPU and by tests")
)]
pub(super) struct Launch {
    pub(super) kernel: &'static str,
    pub(super) blocks: usize,
    /// `Numbers::n` in `kernels.cu`, at most ten.
    pub(super) numbers: Vec<usize>,
    pub(super) real: f32,
}

/// Of every block.
const THREADS: usize = 256;
const MAX_NUMBERS: usize = 10;

impl Launch {
    /// A thread for each of `n` values, which is the first number.
    pub(super) fn each(kernel: &'static str, n: usize, numbers: &[usize]) -> Self {
        let blocks = n.div_ceil(THREADS);
        Self::blocks(kernel, blocks, &[&[n], numbers].concat())
    }

    pub(super) fn blocks(kernel: &'static str, blocks: usize, numbers: &[usize]) -> Self {
        debug_assert!(numbers.len() <= MAX_NUMBERS, "{kernel}: too many numbers");
        Self {
            kernel,
            blocks,
            numbers: numbers.to_vec(),
            real: 0.0,
        }
    }

    pub(super) fn with(self, real: f32) -> Self {
        Self { real, ..self }
    }

    /// Runs it on contiguous inputs of one type, f32 or bf16, and gives a new buffer of `shape`.
    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    pub(super) fn run(
        &self,
        _: &[(&CudaStorage, &Layout)],
        _: impl Into<Shape>,
    ) -> Result<(CudaStorage, Shape)> {
        Err(candle_core::Error::NotCompiledWithCudaSupport)
    }

    /// Runs it on contiguous inputs of one type, f32 or bf16, and gives a new buffer of `shape`.
    #[cfg(feature = "cuda")]
    pub(super) fn run(
        &self,
        inputs: &[(&CudaStorage, &Layout)],
        shape: impl Into<Shape>,
    ) -> Result<(CudaStorage, Shape)> {
        gpu::run(self, inputs, shape.into())
    }
}

#[cfg(test)]
pub(super) mod recorder;

#[cfg(feature = "cuda")]
mod gpu {
    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
    use candle_core::cuda_backend::{CudaDType, WrapErr};
    use candle_core::{CudaStorage, DType, Layout, Result, Shape, bail};

    use super::{Launch, MAX_NUMBERS, THREADS};

    /// Made by `build.rs`.
    const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Numbers {
        n: [u32; MAX_NUMBERS],
        real: f32,
    }

    #[expect(unsafe_code, reason = "plain values, laid out as in kernels.cu")]
    // SAFETY: `repr(C)`, no pointers, no padding: eleven words of four bytes.
    unsafe impl DeviceRepr for Numbers {}

    pub(super) fn run(
        launch: &Launch,
        inputs: &[(&CudaStorage, &Layout)],
        shape: Shape,
    ) -> Result<(CudaStorage, Shape)> {
        match inputs[0].0.dtype() {
            DType::F32 => start::<f32>(launch, launch.kernel, inputs, shape),
            DType::BF16 => {
                let kernel = format!("{}_bf16", launch.kernel);
                start::<half::bf16>(launch, &kernel, inputs, shape)
            }
            other => bail!("{}: {other:?} is neither f32 nor bf16", launch.kernel),
        }
    }

    fn start<T: CudaDType + DeviceRepr>(
        launch: &Launch,
        kernel: &str,
        inputs: &[(&CudaStorage, &Layout)],
        shape: Shape,
    ) -> Result<(CudaStorage, Shape)> {
        let device = inputs[0].0.device().clone();
        let function = device.get_or_load_custom_func(kernel, "scanside", PTX)?;
        let mut slices = Vec::new();
        for (storage, layout) in inputs {
            let Some((from, to)) = layout.contiguous_offsets() else {
                bail!(
                    "{kernel}: input of shape {:?} is not contiguous",
                    layout.shape()
                );
            };
            slices.push(storage.as_cuda_slice::<T>()?.slice(from..to));
        }
        let mut numbers = Numbers {
            n: [0; MAX_NUMBERS],
            real: launch.real,
        };
        for (to, &number) in numbers.n.iter_mut().zip(&launch.numbers) {
            *to = u32::try_from(number)
                .map_err(|_| candle_core::Error::Msg(format!("{kernel}: {number} is too large")))?;
        }
        #[expect(unsafe_code, reason = "filled at once")]
        // SAFETY: every kernel writes all of its output.
        let mut out = unsafe { device.alloc::<T>(shape.elem_count()) }?;
        let config = LaunchConfig {
            grid_dim: (launch.blocks as u32, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut builder = function.builder();
        for index in 0..3 {
            builder.arg(slices.get(index).unwrap_or(&slices[0]));
        }
        builder.arg(&mut out);
        builder.arg(&numbers);
        #[expect(unsafe_code, reason = "a kernel is foreign code")]
        // SAFETY: the arguments are those of every kernel in kernels.cu, which stays within the sizes it is told.
        unsafe { builder.launch(config) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device), shape))
    }
}
