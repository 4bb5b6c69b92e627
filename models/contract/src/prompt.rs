//! Prompts derived from a mask, as the reference draws them (boxes, interior points).

use crate::LabelMap;

/// Corners in px, both inclusive: x0, y0, x1, y1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxPrompt {
    pub x0: f32,
    pub y0: f32,
    pub x1: f32,
    pub y1: f32,
}

/// The tight box around all foreground pixels, `margin` px wider on each side and clipped to the
/// image; `None` when there is no foreground.
pub fn tight_box(labels: &LabelMap, margin: f32) -> Option<BoxPrompt> {
    todo!()
}
