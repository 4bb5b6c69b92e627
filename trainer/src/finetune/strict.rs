//! `strict_reference`: loss and validation as finetune-SAM's scripts have them.
//!
//! Against the default: the loss is taken at the decoder's resolution, on labels that were shrunk as if they were
//! grey values (which invents classes at borders); batch normalization moves with the batch although its weights
//! are frozen; the validation Dice counts background, and calls a class that is absent from both 1.

use anyhow::Result;
use candle_core::{Device, Tensor};
use contract::LabelMap;
use contract::resample::mask_bilinear_half_even;
use nets::Mode;
use nets::loss::{DiceCe, dice_ce};
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

/// Mean over images and classes, background included.
pub(super) fn validation_dice(model: &Model, samples: &[Sample]) -> Result<f64> {
    let mut sum = 0.0;
    for sample in samples {
        let frame = frame(sample, &model.input);
        let image = Tensor::from_vec(frame.pixels, (1, 3, frame.size, frame.size), &Device::Cpu)?;
        let logits = model.low_res_logits(&image, Mode::Eval)?;
        let labels = model.here(&shrunk([frame.labels], logits.dim(3)?)?)?;
        sum += dice_coeff_multi_class(&logits.argmax(1)?, &labels, model.config.num_cls)?;
    }
    Ok(sum / samples.len() as f64)
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
