//! Scaled dot product attention.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::activation::{softmax_backward, softmax_row};
use super::kernel::{plain, values, vectorized};
use super::product::{Product, product_shape};

/// `softmax(scale * q k^T + bias) v` for `q` (B, H, N, D), `k` and `v` (B, H, M, D) and `bias`
/// (H, N, M), the same for every item of the batch. Gives (B, H, N, D).
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let (q, k) = (q.contiguous()?, k.contiguous()?);
    let op = AttentionWeights {
        scale: scale as f32,
    };
    let weights = match bias {
        Some(bias) => q.apply_op3(&k, &bias.contiguous()?, op)?,
        None => q.apply_op2(&k, op)?,
    };
    Product {
        swapped: [false; 2],
    }
    .apply(&weights, v)
}

const SCORES: Product = Product {
    swapped: [false, true],
};

/// The softmax of scaled and biased scores, (B, H, N, M): all that the backward pass needs.
struct AttentionWeights {
    scale: f32,
}

impl AttentionWeights {
    fn run(
        &self,
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let size = SCORES.size(l1, l2)?;
        let (width, scale) = (size.columns, self.scale);
        let out = SCORES.run((s1, l1), (s2, l2), |at, scores, out| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(width).zip(scores.chunks_exact(width));
                    for (index, (out, scores)) in rows.enumerate() {
                        for (out, &score) in out.iter_mut().zip(scores) {
                            *out = scale * score;
                        }
                        if let Some(bias) = bias {
                            let from = (at + index * width) % bias.len();
                            for (out, &bias) in out.iter_mut().zip(&bias[from..]) {
                                *out += bias;
                            }
                        }
                        softmax_row(out);
                    }
                },
            );
        })?;
        Ok((CpuStorage::F32(out), product_shape(l1, size)))
    }

    /// Gradients of q and k, and that of the scores times `scale`.
    fn backward(
        &self,
        [q, k, weights, grad]: [&Tensor; 4],
    ) -> Result<(Option<Tensor>, Option<Tensor>, Tensor)> {
        let scores = softmax_backward(weights, grad, self.scale)?;
        let product = |swapped, a, b| Product { swapped }.apply_no_bwd(a, b);
        let grad_q = q
            .track_op()
            .then(|| product([false, false], &scores, k))
            .transpose()?;
        let grad_k = k
            .track_op()
            .then(|| product([true, false], &scores, q))
            .transpose()?;
        Ok((grad_q, grad_k, scores))
    }
}

impl CustomOp2 for AttentionWeights {
    fn name(&self) -> &'static str {
        "attention-weights"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run((s1, l1), (s2, l2), None)
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        weights: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (grad_q, grad_k, _) = self.backward([q, k, weights, grad])?;
        Ok((grad_q, grad_k))
    }
}

impl CustomOp3 for AttentionWeights {
    fn name(&self) -> &'static str {
        "attention-weights"
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
        let size = SCORES.size(l1, l2)?;
        let bias = values(s3, l3)?;
        if bias.is_empty() || !(size.batch * size.rows * size.columns).is_multiple_of(bias.len()) {
            candle_core::bail!("attention: bias {:?} does not fit {size:?}", l3.dims());
        }
        self.run((s1, l1), (s2, l2), Some(bias))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        bias: &Tensor,
        weights: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad_q, grad_k, scores) = self.backward([q, k, weights, grad])?;
        let scale = self.scale;
        let grad_bias = bias.track_op().then(|| {
            plain(
                "attention-bias-backward",
                [&scores],
                bias.shape(),
                |[scores], out| {
                    for scores in scores.chunks_exact(out.len()) {
                        super::kernel::axpy(out, 1.0 / scale, scores);
                    }
                },
            )
        });
        Ok((grad_q, grad_k, grad_bias.transpose()?))
    }
}
