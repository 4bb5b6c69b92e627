//! What was found in an image: the object that MQTT and `scansided segment` print.

use contract::mask::{BoundingBox, Rle};
use contract::{LabelMap, Manifest};
use serde::{Deserialize, Serialize};

use crate::decode::Spacing;
pub use crate::warning::Warning;

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
/// is absent from a frame has no instance.
pub fn instances(labels: &[LabelMap], manifest: &Manifest, spacing: &Spacing) -> Vec<Instance> {
    let mut found = Vec::new();
    for (frame, labels) in labels.iter().enumerate() {
        let pixel_mm2 = spacing.of(frame).map(|[row, column]| row * column);
        for class in &manifest.classes {
            let Some(bbox) = labels.bounding_box(class.id) else {
                continue;
            };
            let area_px = labels.area_px(class.id);
            found.push(Instance {
                id: class.id,
                label: class.label.clone(),
                frame,
                bbox,
                area_px,
                area_mm2: pixel_mm2.map(|one| one * area_px as f64),
                mask: labels.rle(class.id),
            });
        }
    }
    found
}
