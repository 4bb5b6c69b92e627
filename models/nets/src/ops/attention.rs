//! Scaled dot product attention.

use candle_core::{CpuStorage, CudaStorage, D, DType, Layout, Result, Shape, Tensor};

use super::activation::{rows_per_block, softmax_backward, softmax_row};
use super::kernel::{axpy, for_blocks, kernel, like, plain, sum, values, vectorized};
use super::launch::Launch;
use super::operation::{Custom, Input, Operation};
use super::product::{Product, ProductSize, product_shape};

/// `softmax(scale * q k^T + bias) v` for `q` (B, H, N, D), `k` and `v` (B, H, M, D) and `bias`
/// (H, N, M), the same for every item of the batch. Gives (B, H, N, D).
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    weighted(q, k, v, bias, scale, Bias::Shared)
}

/// The same with SAM's decomposed relative positions. Keys lie on a grid of `rows` x `cols`; `relative`
/// (B, H, N, rows + cols) holds for each query what each row and then each column of the grid adds.
pub fn attention_relative(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (relative, [rows, cols]): (&Tensor, [usize; 2]),
    scale: f64,
) -> Result<Tensor> {
    weighted(q, k, v, Some(relative), scale, Bias::Grid { rows, cols })
}

fn weighted(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
    kind: Bias,
) -> Result<Tensor> {
    if q.dtype() != DType::F32 && q.device().is_cpu() {
        let [q32, k32, v32] = [q, k, v].map(|x| x.to_dtype(DType::F32));
        return weighted(&q32?, &k32?, &v32?, bias, scale, kind)?.to_dtype(q.dtype());
    }
    if !q.device().is_cpu() && n_scores(q, k)? > MAX_GPU_SCORES && q.dim(0)? > 1 {
        return in_halves([q, k, v], bias, scale, kind);
    }
    let (q, k) = (q.contiguous()?, k.contiguous()?);
    let op = AttentionWeights {
        scale: scale as f32,
        bias: kind,
    };
    let weights = match bias {
        Some(bias) => q.apply_op3(&k, &like(&q, bias)?, Custom(op))?,
        None => q.apply_op2(&k, Custom(op))?,
    };
    Product {
        swapped: [false; 2],
    }
    .apply(&weights, v)
}

/// candle counts the values of a tensor on a GPU in 32 bits where it adds up gradients.
const MAX_GPU_SCORES: usize = i32::MAX as usize;

fn n_scores(q: &Tensor, k: &Tensor) -> Result<usize> {
    let (b, h, n, _) = q.dims4()?;
    Ok(b * h * n * k.dim(2)?)
}

/// One half of the batch after the other.
pub(super) fn in_halves(
    all: [&Tensor; 3],
    bias: Option<&Tensor>,
    scale: f64,
    kind: Bias,
) -> Result<Tensor> {
    let batch = all[0].dim(0)?;
    let half = |from: usize, n: usize| {
        let [q, k, v] = all.map(|x| x.narrow(0, from, n));
        let bias = match (bias, kind) {
            (Some(bias), Bias::Grid { .. }) => Some(bias.narrow(0, from, n)?),
            (bias, _) => bias.cloned(),
        };
        weighted(&q?, &k?, &v?, bias.as_ref(), scale, kind)
    };
    let middle = batch / 2;
    Tensor::cat(&[half(0, middle)?, half(middle, batch - middle)?], 0)
}

/// What the third input adds to the scores.
#[derive(Clone, Copy)]
pub(super) enum Bias {
    /// (H, N, M), the same for every item of the batch.
    Shared,
    /// (B, H, N, rows + cols) for keys on a grid.
    Grid { rows: usize, cols: usize },
}

impl Bias {
    /// Adds its part to the scores of the query in row `index` of all (B, H, N).
    #[inline(always)]
    fn add(self, bias: &[f32], index: usize, scores: &mut [f32]) {
        match self {
            Self::Shared => {
                let from = index * scores.len() % bias.len();
                for (score, &bias) in scores.iter_mut().zip(&bias[from..]) {
                    *score += bias;
                }
            }
            Self::Grid { rows, cols } => {
                let bias = &bias[index * (rows + cols)..][..rows + cols];
                let (by_row, by_col) = bias.split_at(rows);
                for (scores, &row) in scores.chunks_exact_mut(cols).zip(by_row) {
                    for (score, &col) in scores.iter_mut().zip(by_col) {
                        *score += row + col;
                    }
                }
            }
        }
    }

    /// How the kernels know it: `bias_of` in `kernels.cu`.
    fn numbers(self, n_values: usize) -> [usize; 4] {
        match self {
            Self::Shared => [1, n_values, 0, 0],
            Self::Grid { rows, cols } => [2, 0, rows, cols],
        }
    }

    fn check(self, bias: &Layout, size: ProductSize) -> Result<()> {
        let ProductSize {
            batch,
            rows: queries,
            columns: keys,
            ..
        } = size;
        let n = bias.shape().elem_count();
        let fits = match self {
            Self::Shared => n > 0 && (batch * queries * keys).is_multiple_of(n),
            Self::Grid { rows, cols } => {
                rows * cols == keys && n == batch * queries * (rows + cols)
            }
        };
        if !fits {
            candle_core::bail!("attention: bias {:?} does not fit {size:?}", bias.dims());
        }
        Ok(())
    }

    /// The bias's gradient from that of the scores (B, H, N, M) times `scale`.
    pub(super) fn backward(self, bias: &Tensor, scores: &Tensor, scale: f32) -> Result<Tensor> {
        let keys = scores.dim(D::Minus1)?;
        match self {
            Self::Shared if !scores.device().is_cpu() => {
                shared_backward_in_steps(bias, scores, scale)
            }
            Self::Shared => plain(
                "attention-bias-backward",
                [scores],
                bias.shape(),
                |[scores], out| {
                    for scores in scores.chunks_exact(out.len()) {
                        axpy(out, 1.0 / scale, scores);
                    }
                },
            ),
            Self::Grid { rows, cols } => {
                let queries = bias.elem_count() / (rows + cols);
                let launch = Launch::blocks("grid_bias_backward", queries, &[rows, cols]);
                kernel(
                    launch.with(scale),
                    [scores],
                    bias.shape(),
                    |[scores], out| {
                        for_blocks(
                            out,
                            rows_per_block(keys) * (rows + cols),
                            #[inline(always)]
                            |at, out| {
                                let scores = scores[at / (rows + cols) * keys..].chunks_exact(keys);
                                for (out, scores) in out.chunks_exact_mut(rows + cols).zip(scores) {
                                    let (by_row, by_col) = out.split_at_mut(rows);
                                    let lines = scores.chunks_exact(cols);
                                    for (row, scores) in by_row.iter_mut().zip(lines) {
                                        *row = sum(scores) / scale;
                                        axpy(by_col, 1.0 / scale, scores);
                                    }
                                }
                            },
                        );
                    },
                )
            }
        }
    }
}

/// Of a shared bias, on a GPU.
pub(super) fn shared_backward_in_steps(
    bias: &Tensor,
    scores: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    scores
        .reshape(((), bias.elem_count()))?
        .sum(0)?
        .reshape(bias.shape())?
        .affine(f64::from(1.0 / scale), 0.0)
}

/// The kernel for scores (rows, width), and for how many values of bias.
pub(super) fn softmax_launch(
    [rows, width]: [usize; 2],
    scale: f32,
    bias: Option<(Bias, usize)>,
) -> Launch {
    let mut numbers = vec![width];
    if let Some((bias, n_values)) = bias {
        numbers.extend(bias.numbers(n_values));
    }
    Launch::blocks("softmax", rows, &numbers).with(scale)
}

const SCORES: Product = Product {
    swapped: [false, true],
};

/// The softmax of scaled and biased scores, (B, H, N, M): all that the backward pass needs.
struct AttentionWeights {
    scale: f32,
    bias: Bias,
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
                            self.bias.add(bias, at / width + index, out);
                        }
                        softmax_row(out);
                    }
                },
            );
        })?;
        Ok((CpuStorage::F32(out), product_shape(l1, size)))
    }

    fn on_gpu(
        &self,
        (s1, l1): (&CudaStorage, &Layout),
        (s2, l2): (&CudaStorage, &Layout),
        bias: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let size = SCORES.size(l1, l2)?;
        let scores = SCORES.whole((s1, l1), (s2, l2))?;
        let layout = Layout::contiguous(product_shape(l1, size));
        let n_values = bias.map(|(_, layout)| layout.shape().elem_count());
        let mut inputs = vec![(&scores, &layout)];
        inputs.extend(bias);
        let rows = [size.batch * size.rows, size.columns];
        let bias = n_values.map(|n| (self.bias, n));
        softmax_launch(rows, self.scale, bias).run(&inputs, layout.shape())
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

impl Operation<2> for AttentionWeights {
    fn name(&self) -> &'static str {
        "attention-weights"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CpuStorage>; 2],
    ) -> Result<(CpuStorage, Shape)> {
        self.run((s1, l1), (s2, l2), None)
    }

    fn forward_on_gpu(
        &self,
        [(s1, l1), (s2, l2)]: [Input<'_, CudaStorage>; 2],
    ) -> Result<(CudaStorage, Shape)> {
        self.on_gpu((s1, l1), (s2, l2), None)
    }

    fn gradients(
        &self,
        [q, k]: [&Tensor; 2],
        weights: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let (grad_q, grad_k, _) = self.backward([q, k, weights, grad])?;
        Ok([grad_q, grad_k])
    }
}

impl Operation<3> for AttentionWeights {
    fn name(&self) -> &'static str {
        "attention-weights"
    }

    fn forward_on_cpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CpuStorage>; 3],
    ) -> Result<(CpuStorage, Shape)> {
        self.bias.check(l3, SCORES.size(l1, l2)?)?;
        self.run((s1, l1), (s2, l2), Some(values(s3, l3)?))
    }

    fn forward_on_gpu(
        &self,
        [(s1, l1), (s2, l2), (s3, l3)]: [Input<'_, CudaStorage>; 3],
    ) -> Result<(CudaStorage, Shape)> {
        self.bias.check(l3, SCORES.size(l1, l2)?)?;
        self.on_gpu((s1, l1), (s2, l2), Some((s3, l3)))
    }

    fn gradients(
        &self,
        [q, k, bias]: [&Tensor; 3],
        weights: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (grad_q, grad_k, scores) = self.backward([q, k, weights, grad])?;
        let grad_bias = bias
            .track_op()
            .then(|| self.bias.backward(bias, &scores, self.scale));
        Ok([grad_q, grad_k, grad_bias.transpose()?])
    }
}
