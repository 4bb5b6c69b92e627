//! Scanner values to network values: a window to 0..=255, then a normalization after resizing.

use serde::{Deserialize, Serialize};

use crate::Image;

/// How scanner values become 0..=255 before resizing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Window {
    /// Values are 0..=255 already.
    None,
    /// The image's own minimum and maximum.
    MinMax,
    /// Clip to two percentiles of the image, in percent, e.g. 0.5 and 99.5.
    Percentile { low: f32, high: f32 },
    /// DICOM window center and width (PS3.3 C.11.2.1.2).
    Level { center: f32, width: f32 },
}

/// How 0..=255 becomes what the network reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// x / 255, then ImageNet mean and standard deviation per channel (SAM as the reference trains it).
    Sam,
    /// (x - min) / (max - min) over the whole image (MedSAM, LiteMedSAM).
    MinMax,
    /// (x - mean) / standard deviation over the whole image.
    ZScore,
    /// x / 255.
    Unit,
}

/// `image` with its values mapped to 0..=255 (f32, not rounded), clipped.
/// An image without contrast becomes 0. NaN and infinities count as the finite minimum.
pub fn window(image: &Image, window: Window) -> Image {
    todo!()
}

/// Normalizes interleaved RGB or grey pixels in place; statistics are over all of `image`.
pub fn normalize(image: &mut Image, rule: Normalize) {
    todo!()
}
