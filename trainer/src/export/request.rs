//! What to export.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::Tensor;
use contract::Image;
use contract::geometry::InputRules;
use contract::manifest::{Class, Provenance};
use nets::ops::Activation;

use crate::config;

/// `calibration` are training images: their activations set the int8 ranges.
pub struct Request<'a> {
    /// Upstream's names, LoRA merged.
    pub state: &'a BTreeMap<String, Tensor>,
    /// Of the image encoder.
    pub activation: Activation,
    pub input: InputRules,
    pub classes: &'a [Class],
    pub recipe: &'a config::Export,
    pub provenance: Provenance,
    pub calibration: &'a [Image],
    /// Images the two graphs are compared on; the one that shows the most classes, and of these the
    /// one whose smallest class is largest, becomes the golden image.
    pub validation: &'a [Image],
    /// Logits of the network itself for a prepared image (3 x size x size).
    pub reference: &'a dyn Fn(&[f32]) -> Result<Vec<f32>>,
    /// Folder of the bundles `f32` and `int8`.
    pub out: &'a Path,
}
