//! Batched matrix products, in parallel over the batch: candle runs the small ones of windowed
//! attention one after the other.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::kernel::{BLOCK, into_values};
use super::operation::{Custom, Input, Operation};

/// `a b` for `a` (.., m, k) and `b` (.., k, n); the flags say which of the two is stored with its
/// last two dimensions swapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) swapped: [bool; 2],
}

/// Size of a batch of products.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProductSize {
    pub(super) batch: usize,
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) columns: usize,
}

impl Product {
    /// With the gradients of both.
    pub(super) fn apply(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a.contiguous()?.apply_op2(&b.contiguous()?, Custom(self))
    }

    /// Without gradients.
    pub(super) fn apply_no_bwd(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a.contiguous()?
            .apply_op2_no_bwd(&b.contiguous()?, &Custom(self))
    }

    pub(super) fn size(self, a: &Layout, b: &Layout) -> Result<ProductSize> {
        let split = |layout: &Layout, swapped: bool| match layout.dims() {
            [batch @ .., rows, columns] => {
                let batch = batch.iter().product::<usize>();
                let (rows, columns) = if swapped {
                    (*columns, *rows)
                } else {
                    (*rows, *columns)
                };
                Ok((batch, rows, columns))
            }
            dims => bail!("product: shape {dims:?} has no two dimensions"),
        };
        let (batch, rows, inner) = split(a, self.swapped[0])?;
        let (other_batch, other_inner, columns) = split(b, self.swapped[1])?;
        if (batch, inner) != (other_batch, other_inner) {
            bail!("product: {:?} does not go with {:?}", a.dims(), b.dims());
        }
        Ok(ProductSize {
            batch,
            rows,
            inner,
            columns,
        })
    }

    /// All products in one call, as a GPU wants them.
    pub(super) fn whole<S: BackendStorage>(
        self,
        (s1, l1): (&S, &Layout),
        (s2, l2): (&S, &Layout),
    ) -> Result<S> {
        let ProductSize {
            batch,
            rows,
            inner,
            columns,
        } = self.size(l1, l2)?;
        let a = operand(l1, self.swapped[0], [0, batch, rows, inner])?;
        let b = operand(l2, self.swapped[1], [0, batch, inner, columns])?;
        s1.matmul(s2, (batch, rows, columns, inner), &a, &b)
    }

    /// Computes the products a few at a time and hands each group's to `finish`, with its offset
    /// in the result and the place it goes to.
    pub(super) fn run(
        self,
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        finish: impl Fn(usize, Vec<f32>, &mut [f32]) + Sync,
    ) -> Result<Vec<f32>> {
        let ProductSize {
            batch,
            rows,
            inner,
            columns,
        } = self.size(l1, l2)?;
        let matrix = rows * columns;
        let mut out = vec![0f32; batch * matrix];
        let group = (2 * BLOCK / matrix.max(1)).clamp(1, batch.max(1));
        out.par_chunks_mut((group * matrix).max(1))
            .enumerate()
            .try_for_each(|(index, out)| {
                let first = index * group;
                let count = out.len() / matrix;
                let a = operand(l1, self.swapped[0], [first, count, rows, inner])?;
                let b = operand(l2, self.swapped[1], [first, count, inner, columns])?;
                let product = s1.matmul(s2, (count, rows, columns, inner), &a, &b)?;
                finish(first * matrix, into_values(product)?, out);
                Ok::<_, candle_core::Error>(())
            })?;
        Ok(out)
    }
}

/// Layout of matrices `first..first + count`, each rows x columns once unswapped.
fn operand(layout: &Layout, swapped: bool, size: [usize; 4]) -> Result<Layout> {
    let [first, count, rows, columns] = size;
    let start = layout.start_offset() + first * rows * columns;
    if swapped {
        Layout::contiguous_with_offset((count, columns, rows), start).transpose(1, 2)
    } else {
        Ok(Layout::contiguous_with_offset(
            (count, rows, columns),
            start,
        ))
    }
}

/// The shape of a result with `a`'s leading dimensions.
pub(super) fn product_shape(a: &Layout, size: ProductSize) -> Shape {
    let mut dims = a.dims().to_vec();
    dims.truncate(dims.len() - 2);
    dims.extend([size.rows, size.columns]);
    dims.into()
}

impl Operation<2> for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        let shape = product_shape(l1, self.size(l1, l2)?);
        let out = self.run((s1, l1), (s2, l2), |_, product, out| {
            out.copy_from_slice(&product);
        })?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn forward_on_gpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CudaStorage>; 2],
    ) -> Result<(CudaStorage, Shape)> {
        let shape = product_shape(l1, self.size(l1, l2)?);
        Ok((self.whole((s1, l1), (s2, l2))?, shape))
    }

    fn gradients(
        &self,
        [a, b]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let [swap_a, swap_b] = self.swapped;
        let product = |swapped, a, b| Product { swapped }.apply_no_bwd(a, b);
        // With A and B unswapped: dA = G B^T and dB = A^T G; a swapped one gets its transpose.
        let grad_a = a.track_op().then(|| {
            if swap_a {
                product([swap_b, true], b, grad)
            } else {
                product([false, !swap_b], grad, b)
            }
        });
        let grad_b = b.track_op().then(|| {
            if swap_b {
                product([true, swap_a], grad, a)
            } else {
                product([!swap_a, false], a, grad)
            }
        });
        Ok([grad_a.transpose()?, grad_b.transpose()?])
    }
}
