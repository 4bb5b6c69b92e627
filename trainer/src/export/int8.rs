//! As many layers in int8 as the masks bear.

use anyhow::Result;
use contract::geometry::Placement;
use segmenter::infer::Probe;
use serde::Serialize;

use super::compare::{Comparison, compare, open};
use super::request::Request;
use crate::onnx::{self, ModelProto};
use crate::quantize::{self, Calibration, Layer, equalize, sensitivity};
use crate::report::{self, Progress};

/// Images that show how fragile a layer is.
const SENSITIVITY_IMAGES: usize = 2;

/// An int8 graph and what was done for it.
pub(super) struct Quantized {
    pub(super) graph: Vec<u8>,
    pub(super) layers: Vec<Layer>,
    /// Layers whose input's channels were made alike.
    pub(super) equalized: Vec<String>,
    /// Layers that stay f32 because int8 there moved the masks, with what each did alone.
    pub(super) kept: Vec<(String, f32)>,
    pub(super) compared: Comparison,
}

impl Quantized {
    /// What the bundle says of it, as JSON.
    pub(super) fn record(&self, calibration: Calibration) -> Result<String> {
        let record = Record {
            calibration,
            layers: &self.layers,
            equalized: &self.equalized,
            kept_f32: &self.kept,
        };
        Ok(serde_json::to_string_pretty(&record)?)
    }
}

/// What a bundle says of its quantization.
#[derive(Serialize)]
struct Record<'a> {
    calibration: Calibration,
    layers: &'a [Layer],
    equalized: &'a [String],
    kept_f32: &'a [(String, f32)],
}

/// All layers int8, or all but the fewest of the most fragile ones (of 1, 2, 4 ..) with which the masks agree.
pub(super) fn quantized(
    request: &Request<'_>,
    model: &ModelProto,
    calibration: &[Vec<f32>],
    (f32, frames): (&Probe, &[(Vec<f32>, Placement)]),
) -> Result<Quantized> {
    let size = request.input.size;
    let mut options = quantize::Options {
        calibration: request.recipe.calibration,
        keep_f32: request.recipe.keep_f32.clone(),
        ..quantize::Options::default()
    };
    let (model, equalized) = if request.recipe.equalize {
        equalize::equalize(model, size, calibration, &options)?
    } else {
        (model.clone(), Vec::new())
    };
    let model = &model;
    let ranges = quantize::calibrate(model, size, calibration, &options)?;
    let mut order: Option<Vec<(String, f32)>> = None;
    let mut n_kept = 0;
    loop {
        let (small, layers) = quantize::quantize(model, &ranges, &options)?;
        let graph = onnx::serialize(&small);
        let compared = compare(f32, &open(&graph, size)?, frames)?;
        let agreement = compared.pooled.dice().unwrap_or(1.0);
        let kept = order.as_ref().map_or(&[][..], |order| &order[..n_kept]);
        if agreement >= request.recipe.agreement || layers.len() == 1 {
            return Ok(Quantized {
                graph,
                equalized,
                kept: kept.to_vec(),
                layers,
                compared,
            });
        }
        report::say(&format!(
            "int8 and f32 masks: Dice {agreement:.4}, below export.agreement = {} with {n_kept} layers kept in f32",
            request.recipe.agreement
        ));
        if order.is_none() {
            let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
            let images = &calibration[..calibration.len().min(SENSITIVITY_IMAGES)];
            let progress = Progress::images("layers int8 alone", names.len() as u64);
            let found = sensitivity::fragile_first(
                (model, &ranges, request.recipe.calibration),
                &names,
                size,
                images,
                &mut |n| progress.images_done(n as u64),
            );
            order = Some(found?);
        }
        let order = order.as_deref().unwrap_or_default();
        n_kept = (2 * n_kept).clamp(1, order.len() - 1);
        let kept = order[..n_kept].iter().map(|(name, _)| name.clone());
        options.keep_f32 = request
            .recipe
            .keep_f32
            .iter()
            .cloned()
            .chain(kept)
            .collect();
    }
}
