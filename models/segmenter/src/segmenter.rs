//! A verified bundle with its graph loaded and its golden pair reproduced.

use std::path::Path;
use std::time::Duration;

use contract::geometry::Placement;
use contract::mask::Logits;
use contract::{Image, LabelMap, Manifest};

use crate::infer::InferError;

/// How long each stage of one image took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    pub preprocess: Duration,
    pub infer: Duration,
    pub postprocess: Duration,
}

/// One bundle, ready to segment.
pub struct Segmenter {
    manifest: Manifest,
}

/// What the golden self-test measured.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfTest {
    /// Class id, Dice between the computed and the expected mask; 1 when absent from both.
    pub dice: Vec<(u8, f64)>,
    pub timing: Timing,
}

#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

impl OpenError {
    pub fn kind(&self) -> &'static str {
        todo!()
    }
}

impl Segmenter {
    /// Opens a bundle directory or `.tar`, verifies every file, loads the graph and runs the self-test.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        todo!()
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Segments the golden image and compares with the expected masks.
    pub fn self_test(&self) -> Result<SelfTest, SelfTestError> {
        todo!()
    }

    /// Class logits at the network's output grid, and where the image lies in the frame.
    pub fn logits(&self, image: &Image) -> Result<(Logits, Placement), InferError> {
        todo!()
    }

    /// Label map at the image's native size.
    pub fn segment(&self, image: &Image) -> Result<(LabelMap, Timing), InferError> {
        todo!()
    }
}
