//! The masks of one series as one DICOM Segmentation (PS3.3 A.51): binary, one frame for each class on
//! each plane where the class was found.
//!
//! Frames are ordered by class, then along the normal of their planes, then by instance number. Objects
//! that do not say where all their frames lie (radiographs, secondary captures) give a segmentation
//! without planes, which stands in the pixels of its source only.

mod bits;
mod element;
mod groups;
mod object;
mod stack;

use contract::manifest::Class;
use contract::mask::{Rle, RleError};
use serde::{Deserialize, Serialize};

use crate::decode::source::Source;

pub use object::{DataSetError, data_set};
pub use stack::{Volume, Volumes};

pub const SOP_CLASS_UID: &str = dicom_dictionary_std::uids::SEGMENTATION_STORAGE;

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

/// Who made a segmentation, from what, under which names.
#[derive(Debug, Clone)]
pub struct About<'a> {
    pub sop_instance_uid: String,
    pub series_instance_uid: String,
    pub dimension_organization_uid: String,
    /// Of the model.
    pub classes: &'a [Class],
    pub model_name: &'a str,
    pub model_version: &'a str,
    pub software_version: &'a str,
    /// Stands as the serial number of the device.
    pub node: &'a str,
    /// RFC 3339, UTC.
    pub made_at: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum SegError {
    #[error("a segmentation needs at least one image")]
    NoImage,
    #[error(
        "the images differ in size, in what they say of their planes, or in frame of reference"
    )]
    Mixed,
    #[error("{0} frames are more than DICOM counts")]
    TooManyFrames(usize),
    #[error("a mask does not fit its image: {0}")]
    Mask(#[from] RleError),
    #[error("cannot encode the segmentation: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Bytes of a DICOM file. `slices`: of one series and one size, all with planes or all without.
pub fn encode(slices: &[Slice], about: &About) -> Result<Vec<u8>, SegError> {
    let first = slices.first().ok_or(SegError::NoImage)?;
    let kind = |slice: &Slice| {
        let space = slice.source.frame_of_reference_uid.clone();
        (slice.rows, slice.cols, slice.has_planes().then_some(space))
    };
    if slices.iter().any(|slice| kind(slice) != kind(first)) {
        return Err(SegError::Mixed);
    }
    object::encode(slices, &stack::places(slices), about)
}

/// What each class fills, as far as the planes of the images tell.
pub fn volumes(slices: &[Slice], classes: &[Class]) -> Volumes {
    stack::volumes(slices, &stack::places(slices), classes)
}
