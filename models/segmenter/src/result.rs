//! What was found in an image: the object that MQTT and `scansided segment` print.

use contract::mask::{BoundingBox, Rle};
use contract::{LabelMap, Manifest};
use serde::{Deserialize, Serialize};

/// One class found in one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Class id in the manifest.
    pub id: u8,
    pub label: String,
    /// From 0.
    pub frame: usize,
    /// x, y, width, height in px of the native image.
    pub bbox: BoundingBox,
    pub area_px: usize,
    /// Only when the file states its pixel spacing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_mm2: Option<f64>,
    pub mask: Rle,
}

/// The classes found in each frame, frames first, then classes in the manifest's order; a class that
/// is absent from a frame has no instance. `spacing_mm` is row, column.
pub fn instances(
    labels: &[LabelMap],
    manifest: &Manifest,
    spacing_mm: Option<[f64; 2]>,
) -> Vec<Instance> {
    todo!()
}
