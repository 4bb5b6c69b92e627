//! Masks: logits, label maps, COCO run-length encoding, areas, boxes, overlap measures.

use serde::{Deserialize, Serialize};

/// Class logits of one image: `classes` x `rows` x `cols`, class-major. Class 0 is background.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    pub classes: usize,
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

/// One class id a pixel, row-major; 0 is background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<u8>,
}

/// COCO run-length encoding of a binary mask, as pycocotools writes it: column-major, first run is
/// background, counts compressed to printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rle {
    /// Rows, columns.
    pub size: [usize; 2],
    pub counts: String,
}

/// x, y, width, height in px (COCO).
pub type BoundingBox = [usize; 4];

impl LabelMap {
    pub fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0; rows * cols] }
    }

    pub fn area_px(&self, class: u8) -> usize {
        todo!()
    }

    pub fn bounding_box(&self, class: u8) -> Option<BoundingBox> {
        todo!()
    }

    pub fn rle(&self, class: u8) -> Rle {
        todo!()
    }
}

/// What is wrong with a run-length string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RleError {
    #[error("counts end in the middle of a number")]
    Truncated,
    #[error("character {0:?} is outside the COCO alphabet")]
    Alphabet(char),
    #[error("runs add up to {runs} px, the mask has {size}")]
    Length { runs: u64, size: u64 },
}

impl Rle {
    /// Sets the pixels of the mask to `class` in `labels` (same size).
    pub fn paint(&self, labels: &mut LabelMap, class: u8) -> Result<(), RleError> {
        todo!()
    }
}

/// Overlap counts of one class; add them up over images for the pooled figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    pub intersection: u64,
    pub predicted: u64,
    pub truth: u64,
}

impl Overlap {
    pub fn of(predicted: &LabelMap, truth: &LabelMap, class: u8) -> Self {
        todo!()
    }

    /// 2 I / (P + T); `None` when the class is absent from both.
    pub fn dice(&self) -> Option<f64> {
        todo!()
    }

    /// I / U; `None` when the class is absent from both.
    pub fn iou(&self) -> Option<f64> {
        todo!()
    }
}

impl std::ops::AddAssign for Overlap {
    fn add_assign(&mut self, other: Self) {
        self.intersection += other.intersection;
        self.predicted += other.predicted;
        self.truth += other.truth;
    }
}
