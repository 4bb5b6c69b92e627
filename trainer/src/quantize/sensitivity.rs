//! Which layers bear int8 least: each is made int8 alone, and the logits are compared with those of the f32 graph.

use anyhow::{Context, Result};
use segmenter::infer::Probe;
use tract_onnx::pb::ModelProto;

use super::{Calibration, Options, Ranges, quantize};
use crate::onnx::automatic::OUTPUT;
use crate::{bundle, onnx};

/// Layers with the root mean square of the difference they make, relative to the spread of the logits; worst first.
pub fn fragile_first(
    (model, ranges, calibration): (&ModelProto, &Ranges, Calibration),
    layers: &[String],
    size: usize,
    images: &[Vec<f32>],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<(String, f32)>> {
    let logits = |model: &ModelProto| -> Result<Vec<f32>> {
        let probe = Probe::open(&onnx::serialize(model), size, &[OUTPUT.to_owned()])
            .context("cannot load a graph to see what int8 does to a layer")?;
        let mut all = Vec::new();
        for image in images {
            all.extend(bundle::logits(&probe, image)?.data);
        }
        Ok(all)
    };
    let truth = logits(model)?;
    let mean = truth.iter().sum::<f32>() / truth.len() as f32;
    let spread: f32 = truth.iter().map(|x| (x - mean).powi(2)).sum();
    let mut found = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        progress(index);
        let alone = Options {
            only: Some(layer.clone()),
            calibration,
            ..Options::default()
        };
        let (small, _) = quantize(model, ranges, &alone)?;
        let noise: f32 = logits(&small)?
            .iter()
            .zip(&truth)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        found.push((layer.clone(), (noise / spread).sqrt()));
    }
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(found)
}
