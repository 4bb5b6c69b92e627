//! Native image to network frame, and back for masks at the image's native size.

use serde::{Deserialize, Serialize};

use crate::intensity::{Normalize, Window};
use crate::mask::Logits;
use crate::{Image, LabelMap};

/// How an image of any shape becomes a square of `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Both sides to `size`, aspect ratio not kept (the reference).
    Stretch,
    /// Longest side to `size`, zeros at the bottom or right after normalization (SAM, LiteMedSAM).
    LongestSidePad,
}

/// Everything that happens to pixels between decoding and the network; part of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRules {
    /// Side of the square network input, px.
    pub size: usize,
    pub fit: Fit,
    pub window: Window,
    pub normalize: Normalize,
}

/// Where an image of `rows` x `cols` lies inside the square frame: the top left
/// `scaled_rows` x `scaled_cols` of `size` x `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub rows: usize,
    pub cols: usize,
    pub scaled_rows: usize,
    pub scaled_cols: usize,
    pub size: usize,
}

impl InputRules {
    pub fn placement(&self, rows: usize, cols: usize) -> Placement {
        todo!()
    }

    /// Window, resize (`resample::bilinear_u8`), normalize, pad: the network input, CHW,
    /// 3 x size x size (grey repeated), and where the image lies in it.
    pub fn prepare(&self, image: &Image) -> (Vec<f32>, Placement) {
        todo!()
    }
}

impl Placement {
    /// A label map of the native size, brought into a frame of `side` x `side` (nearest; `side` may
    /// be smaller than `size`, e.g. the decoder's low-resolution grid). Padding is background (0).
    pub fn labels_to_frame(&self, labels: &LabelMap, side: usize) -> LabelMap {
        todo!()
    }

    /// The exact inverse for network output of any square side: crops the padding, samples the
    /// logits bilinearly (half-pixel centres, edges clamped) at the native pixels, arg-max over classes.
    pub fn labels_from_logits(&self, logits: &Logits) -> LabelMap {
        todo!()
    }

    /// Native pixel coordinates (x, y) to frame coordinates.
    pub fn point_to_frame(&self, x: f32, y: f32) -> (f32, f32) {
        todo!()
    }
}
