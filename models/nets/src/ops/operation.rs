//! What an operation consists of, and how candle takes it: one trait for any number of inputs in place of its three.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor,
};

pub(super) type Input<'a, S> = (&'a S, &'a Layout);

/// An operation of N tensors.
pub(super) trait Operation<const N: usize> {
    fn name(&self) -> &'static str;

    fn forward_on_cpu(&self, inputs: [Input<'_, CpuStorage>; N]) -> Result<(CpuStorage, Shape)>;

    fn forward_on_gpu(&self, _: [Input<'_, CudaStorage>; N]) -> Result<(CudaStorage, Shape)> {
        let message = format!("no cuda implementation for {}", self.name());
        Err(Error::Cuda(message.into()))
    }

    /// Those of the inputs, for the result and its gradient.
    fn gradients(
        &self,
        _inputs: [&Tensor; N],
        _y: &Tensor,
        _grad: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        Err(Error::BackwardNotSupported { op: self.name() })
    }
}

/// For `apply_op1`, `apply_op2` and `apply_op3`.
pub(super) struct Custom<T>(pub(super) T);

impl<T: Operation<1>> CustomOp1 for Custom<T> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.forward_on_cpu([(s1, l1)])
    }

    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.forward_on_gpu([(s1, l1)])
    }

    fn bwd(&self, x1: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [gradient] = self.0.gradients([x1], y, grad)?;
        Ok(gradient)
    }
}

impl<T: Operation<2>> CustomOp2 for Custom<T> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.0.forward_on_cpu([(s1, l1), (s2, l2)])
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.0.forward_on_gpu([(s1, l1), (s2, l2)])
    }

    fn bwd(
        &self,
        x1: &Tensor,
        x2: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(self.0.gradients([x1, x2], y, grad)?.into())
    }
}

impl<T: Operation<3>> CustomOp3 for Custom<T> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.0.forward_on_cpu([(s1, l1), (s2, l2), (s3, l3)])
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.0.forward_on_gpu([(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        x1: &Tensor,
        x2: &Tensor,
        x3: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(self.0.gradients([x1, x2, x3], y, grad)?.into())
    }
}
