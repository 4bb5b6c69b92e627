//! Losses of the reference's training scripts and of LiteMedSAM.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::sigmoid;

/// Smoothing above and below the Dice fraction (MONAI's default).
const DICE_SMOOTHING: f64 = 1e-5;
/// The same in LiteMedSAM's own loss.
const LITE_DICE_SMOOTHING: f64 = 1e-6;

pub struct DiceCe {
    pub dice: Tensor,
    pub cross_entropy: Tensor,
}

/// Logits (B, C, H, W) against labels (B, H, W) u32, background included in both terms. Dice as
/// MONAI's `DiceLoss(sigmoid=True, squared_pred=True, to_onehot_y=True)`; cross-entropy over softmax.
pub fn dice_ce(logits: &Tensor, labels: &Tensor) -> Result<DiceCe> {
    let target = one_hot(labels, logits.dim(1)?)?;
    let n_pixels = labels.elem_count() as f64;
    let log_p = log_softmax(logits)?;
    let cross_entropy = ((&target * log_p)?.sum_all()?.neg()? / n_pixels)?;
    Ok(DiceCe {
        dice: dice(&sigmoid(logits)?, &target)?,
        cross_entropy,
    })
}

/// Cross-entropy of the student's softmax against the teacher's, mean over pixels; both (B, C, H, W).
pub fn mask_distillation(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let (b, _, h, w) = student.dims4()?;
    let p = log_softmax(&teacher.detach())?.exp()?;
    (p * log_softmax(student)?)?.sum_all()?.neg()? / (b * h * w) as f64
}

/// Mean squared difference over all elements.
pub fn embedding_mse(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    (student - teacher)?.sqr()?.mean_all()
}

/// LiteMedSAM's: Dice (denominators not squared) + binary cross-entropy of one foreground channel;
/// logits and target (B, 1, H, W), target 0 or 1.
pub fn lite_segmentation_loss(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    // log(1 + exp(-|x|)) + max(x, 0) - x t
    let bce =
        ((logits.abs()?.neg()?.exp()? + 1.0)?.log()? + (logits.relu()? - (logits * target)?)?)?;
    let p = sigmoid(logits)?;
    let sum = |x: &Tensor| x.flatten_from(1)?.sum(1);
    let overlap = ((sum(&(&p * target)?)? * 2.0)? + LITE_DICE_SMOOTHING)?;
    let total = ((sum(&p)? + sum(target)?)? + LITE_DICE_SMOOTHING)?;
    (1.0 - (overlap / total)?)?.mean_all()? + bce.mean_all()?
}

/// Mean over images and classes of 1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s).
fn dice(p: &Tensor, target: &Tensor) -> Result<Tensor> {
    let sum = |x: Tensor| x.flatten_from(2)?.sum(2);
    let overlap = ((sum((p * target)?)? * 2.0)? + DICE_SMOOTHING)?;
    let total = ((sum(p.sqr()?)? + sum(target.sqr()?)?)? + DICE_SMOOTHING)?;
    (1.0 - (overlap / total)?)?.mean_all()
}

fn one_hot(labels: &Tensor, n_classes: usize) -> Result<Tensor> {
    let planes: Vec<Tensor> = (0..n_classes)
        .map(|class| labels.eq(class as u32)?.to_dtype(DType::F32))
        .collect::<Result<_>>()?;
    Tensor::stack(&planes, 1)
}

fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let normalizer = shifted.exp()?.sum_keepdim(1)?.log()?;
    shifted.broadcast_sub(&normalizer)
}
