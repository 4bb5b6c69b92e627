//! Pillow's separable triangle filter (antialiased when shrinking) and its nearest neighbour:
//! the resampling the reference trains with.

use crate::{Image, LabelMap};

/// Bilinear with antialiasing, f32 throughout.
pub fn bilinear(image: &Image, rows: usize, cols: usize) -> Image {
    todo!()
}

/// Bilinear as Pillow computes it on 8-bit channels: fixed-point weights, rounded and clipped to
/// 0..=255 after the horizontal and after the vertical pass. Input values are rounded first.
pub fn bilinear_u8(image: &Image, rows: usize, cols: usize) -> Image {
    todo!()
}

/// Nearest neighbour, source index floor((i + 0.5) * scale).
pub fn nearest(labels: &LabelMap, rows: usize, cols: usize) -> LabelMap {
    todo!()
}
