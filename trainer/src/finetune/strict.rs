//! `strict_reference`: loss and validation as finetune-SAM's scripts have them.
//!
//! Against the default: the loss is taken at the decoder's resolution, on labels that were shrunk as if they were
//! grey values (which invents classes at borders); batch normalization moves with the batch although its weights
//! are frozen; the validation Dice counts background, and calls a class that is absent from both 1; it is taken
//! after the first epoch and then every so many, and the last epoch is none of them.

use anyhow::Result;
use candle_core::{Device, Tensor};
use contract::LabelMap;
use contract::resample::mask_bilinear_half_even;
use nets::loss::{DiceCe, dice_ce};
use nets::mask_decoder::Tokens;
use nets::prompt_encoder::Prompts;
use nets::reference_metrics::dice_coeff_multi_class;

use crate::batch::frame;
use crate::dataset::Sample;
use crate::model::Model;

/// Of low-resolution logits (B, C, h, w) and labels (B, S, S).
pub(super) fn loss(low_res: &Tensor, labels: &Tensor) -> Result<DiceCe> {
    let labels: Vec<Vec<Vec<u32>>> = labels.to_vec3()?;
    let maps = labels.iter().map(|rows| {
        let data = rows.iter().flatten().map(|&label| label as u8).collect();
        LabelMap {
            rows: rows.len(),
            cols: rows[0].len(),
            data,
        }
    });
    let labels = shrunk(maps, low_res.dim(3)?)?;
    Ok(dice_ce(low_res, &labels.to_device(low_res.device())?)?)
}

/// Whether the weights are validated when so many epochs are done.
pub(super) fn validates_after(epochs: u64, every: u64) -> bool {
    epochs % every == 1 % every
}

/// Mean over images and classes, background included, of each batch; then of the batches, so that images of a
/// smaller last one weigh more.
pub(super) fn validation_dice(model: &Model, samples: &[Sample], batch: usize) -> Result<f64> {
    let mut sum = 0.0;
    for batch in samples.chunks(batch) {
        for sample in batch {
            sum += image_dice(model, sample)? / batch.len() as f64;
        }
    }
    Ok(sum / samples.len().div_ceil(batch) as f64)
}

fn image_dice(model: &Model, sample: &Sample) -> Result<f64> {
    let frame = frame(sample, &model.input);
    let image = Tensor::from_vec(frame.pixels, (1, 3, frame.size, frame.size), &Device::Cpu)?;
    let logits = model.predicted(&image, Prompts::default(), Tokens::Classes)?;
    let labels = model.here(&shrunk([frame.labels], logits.dim(3)?)?)?;
    Ok(dice_coeff_multi_class(
        &logits.argmax(1)?,
        &labels,
        model.config.num_cls,
    )?)
}

/// (B, side, side) u32.
fn shrunk(maps: impl IntoIterator<Item = LabelMap>, side: usize) -> Result<Tensor> {
    let labels: Vec<u32> = maps
        .into_iter()
        .flat_map(|map| mask_bilinear_half_even(&map, side, side).data)
        .map(u32::from)
        .collect();
    Ok(Tensor::from_vec(
        labels.clone(),
        (labels.len() / (side * side), side, side),
        &Device::Cpu,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_comes_after_the_first_epoch_and_every_second_from_there() {
        let after: Vec<u64> = (1..=8).filter(|&it| validates_after(it, 2)).collect();
        assert_eq!(after, [1, 3, 5, 7]);
        assert!((1..=8).all(|it| validates_after(it, 1)));
    }
}
