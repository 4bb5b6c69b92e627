//! The masks of a series as DICOM Segmentations (PS3.3 A.51), one for each volume of the series: binary,
//! a frame for each class on each plane, also where nothing was found.
//!
//! Frames are ordered by class, then along the normal of their planes. Objects that do not say where all
//! their frames lie (radiographs, secondary captures) give a segmentation without planes, which stands
//! in the pixels of its source only.

mod about;
mod bits;
mod element;
mod groups;
mod object;
mod slice;
mod space;
mod split;
mod stack;

use contract::manifest::Class;

pub use about::About;
pub use object::{DataSetError, SOP_CLASS_UID, SegError, data_set};
pub use slice::{Found, Slice};
pub use split::{Part, parts};
pub use stack::{Volume, Volumes};

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
