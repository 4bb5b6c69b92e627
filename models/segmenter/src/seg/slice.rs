//! What a segmentation is made of.

use contract::mask::Rle;
use serde::{Deserialize, Serialize};

use crate::decode::source::Source;

/// One object of a series and what was found in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    pub source: Source,
    pub rows: usize,
    pub cols: usize,
    pub frames: usize,
    pub masks: Vec<Found>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// From 0.
    pub frame: usize,
    /// Id in the manifest.
    pub class: u8,
    pub area_px: usize,
    pub mask: Rle,
}

impl Slice {
    /// It says where every one of its frames lies.
    pub fn has_planes(&self) -> bool {
        self.source.frame_of_reference_uid.is_some() && self.source.planes.len() == self.frames
    }
}
