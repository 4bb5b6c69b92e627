//! The masks of a series as DICOM Segmentations (PS3.3 A.51), one for each volume of the series: binary,
//! a frame for each class on each plane, also where nothing was found.
//!
//! Frames are ordered by class, then along the normal of their planes. Objects that do not say where all
//! their frames lie (radiographs, secondary captures) give a segmentation without planes, which stands
//! in the pixels of its source only.

mod bits;
mod element;
mod groups;
mod object;
mod space;
mod split;
mod stack;

use contract::manifest::Class;
use contract::mask::{Rle, RleError};
use serde::{Deserialize, Serialize};

use crate::decode::source::Source;

pub use object::{DataSetError, data_set};
pub use split::{Part, parts};
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
    /// Of the series; viewers show the instance with the highest one.
    pub instance_number: usize,
    /// Which volume of the images' series it is, where there are several.
    pub volume: &'a str,
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

/// Bytes of a DICOM file. `slices`: of one series and one size, all with planes or all without;
/// `frames`: object and frame of each of them that belongs to it, as [`parts`] gives them.
pub fn encode(
    slices: &[Slice],
    frames: &[(usize, usize)],
    about: &About,
) -> Result<Vec<u8>, SegError> {
    let first = slices.first().ok_or(SegError::NoImage)?;
    let kind = |slice: &Slice| {
        let space = slice.source.frame_of_reference_uid.clone();
        (slice.rows, slice.cols, slice.has_planes().then_some(space))
    };
    if slices.iter().any(|slice| kind(slice) != kind(first)) {
        return Err(SegError::Mixed);
    }
    object::encode(slices, &stack::places(slices, frames), about)
}

/// What each class fills in these frames, as far as their planes tell.
pub fn volumes(slices: &[Slice], frames: &[(usize, usize)], classes: &[Class]) -> Volumes {
    let mut volumes = stack::volumes(slices, &stack::places(slices, frames), classes);
    let pixels = slices.first().map_or(0, |slice| slice.rows * slice.cols);
    if is_misread(pixels, frames.len() * classes.len()) {
        volumes.warnings.push("frame_size_misread".to_owned());
    }
    volumes
}

/// Whether itk-wasm 7 or cornerstone's adapters 5 shift or refuse such frames: bits of a frame may begin
/// within a byte (PS3.5 section 8.1.1), which neither takes into account for all sizes.
fn is_misread(pixels: usize, n_frames: usize) -> bool {
    let is_shifted = |misread: bool| n_frames > 1 && misread;
    let itk_wasm = is_shifted(matches!(pixels % 8, 3 | 5 | 6 | 7));
    let bytes = (pixels * n_frames).div_ceil(8);
    let padded = bytes.next_multiple_of(2);
    let fits = (pixels * n_frames).is_multiple_of(16);
    let adapters = padded != bytes || is_shifted(padded == n_frames * pixels.div_ceil(8));
    itk_wasm || (adapters && !fits)
}
