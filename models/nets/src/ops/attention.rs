//! Scaled dot product attention.

use candle_core::{Result, Tensor};

use super::softmax;

/// `softmax(scale * q k^T + bias) v` for `q` (B, H, N, D), `k` and `v` (B, H, M, D) and `bias`
/// (H, N, M), the same for every item of the batch. Gives (B, H, N, D).
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let k = k.transpose(2, 3)?.contiguous()?;
    let scores = (q.contiguous()?.matmul(&k)? * scale)?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    softmax(&scores)?.matmul(&v.contiguous()?)
}
