//! The masks of two graphs, compared.

use anyhow::{Context, Result};
use contract::LabelMap;
use contract::geometry::Placement;
use contract::mask::{Logits, Overlap};
use segmenter::infer::Probe;

use crate::bundle;
use crate::onnx::automatic::OUTPUT;

pub(super) fn open(graph: &[u8], size: usize) -> Result<Probe> {
    Probe::open(graph, size, &[OUTPUT.to_owned()]).context("the exported graph does not load")
}

/// int8 masks measured against f32 ones.
#[derive(Default)]
pub(super) struct Comparison {
    pub(super) pooled: Overlap,
    pub(super) worst: Option<f64>,
    /// Index of the image that shows most.
    pub(super) golden: usize,
}

pub(super) fn compare(
    f32: &Probe,
    int8: &Probe,
    frames: &[(Vec<f32>, Placement)],
) -> Result<Comparison> {
    let mut out = Comparison::default();
    let mut most = (0, 0);
    for (index, (chw, placement)) in frames.iter().enumerate() {
        let truth = placement.labels_from_logits(&bundle::logits(f32, chw)?);
        let logits: Logits = bundle::logits(int8, chw)?;
        let found = placement.labels_from_logits(&logits);
        let overlap = foreground(&found, &truth, logits.classes);
        let areas = (1..logits.classes).map(|class| found.area_px(class as u8));
        let present: Vec<_> = areas.filter(|&area| area > 0).collect();
        let shows = (present.len(), present.into_iter().min().unwrap_or(0));
        if shows > most {
            most = shows;
            out.golden = index;
        }
        if let Some(dice) = overlap.dice() {
            out.worst = Some(out.worst.map_or(dice, |worst| worst.min(dice)));
        }
        out.pooled += overlap;
    }
    Ok(out)
}

/// Overlap of all foreground classes, class by class.
fn foreground(found: &LabelMap, truth: &LabelMap, classes: usize) -> Overlap {
    let mut sum = Overlap::default();
    for class in 1..classes {
        sum += Overlap::of(found, truth, class as u8);
    }
    sum
}
