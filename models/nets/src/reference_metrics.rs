//! The reference's own metrics, for comparison with its logs. They count background and call a class
//! that is absent from both 1; report `contract::mask::Overlap` instead.

use candle_core::{Result, Tensor};

/// `utils/dsc.py`: (2 I + 1) / (P + T + 1), mean over classes and images; labels (B, H, W) u32.
pub fn dice_coeff_multi_class(predicted: &Tensor, labels: &Tensor, num_cls: usize) -> Result<f64> {
    let per_image = overlaps(predicted, labels, num_cls)?;
    let n = (per_image.len() * num_cls) as f64;
    Ok(per_image
        .iter()
        .flatten()
        .map(|it| (2.0 * it[0] + 1.0) / (it[1] + it[2] + 1.0))
        .sum::<f64>()
        / n)
}

/// The validation script's Dice of each class: (2 I + e) / (P + T + e), e = 1e-4, mean over images.
pub fn dice_coeff_per_class(
    predicted: &Tensor,
    labels: &Tensor,
    num_cls: usize,
) -> Result<Vec<f64>> {
    let eps = 1e-4;
    per_class(predicted, labels, num_cls, |[i, p, t]| {
        (2.0 * i + eps) / (p + t + eps)
    })
}

/// The validation script's IoU of each class, counted over the whole batch: I / (U + 1e-9).
pub fn iou_per_class(predicted: &Tensor, labels: &Tensor, num_cls: usize) -> Result<Vec<f64>> {
    let per_image = overlaps(predicted, labels, num_cls)?;
    let total =
        |class: usize, which: usize| per_image.iter().map(|it| it[class][which]).sum::<f64>();
    let score = |class| {
        let [i, p, t] = [0, 1, 2].map(|which| total(class, which));
        i / (p + t - i + 1e-9)
    };
    Ok((0..num_cls).map(score).collect())
}

fn per_class(
    predicted: &Tensor,
    labels: &Tensor,
    num_cls: usize,
    score: impl Fn([f64; 3]) -> f64,
) -> Result<Vec<f64>> {
    let per_image = overlaps(predicted, labels, num_cls)?;
    let n = per_image.len() as f64;
    Ok((0..num_cls)
        .map(|class| per_image.iter().map(|it| score(it[class])).sum::<f64>() / n)
        .collect())
}

/// For each image and class: pixels in both, predicted, true.
fn overlaps(predicted: &Tensor, labels: &Tensor, num_cls: usize) -> Result<Vec<Vec<[f64; 3]>>> {
    let flat = |x: &Tensor| x.flatten_from(1)?.to_vec2::<u32>();
    let mut per_image = Vec::new();
    for (predicted, labels) in flat(predicted)?.iter().zip(flat(labels)?) {
        let mut counts = vec![[0.0; 3]; num_cls];
        for (&p, t) in predicted.iter().zip(labels) {
            counts[p as usize][1] += 1.0;
            counts[t as usize][2] += 1.0;
            if p == t {
                counts[t as usize][0] += 1.0;
            }
        }
        per_image.push(counts);
    }
    Ok(per_image)
}
