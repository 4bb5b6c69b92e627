//! One line of a list.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::grid::Plane;
use super::nifti::is_nifti;

/// Which part of a data set a patient belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    Validation,
    Test,
}

impl Split {
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// One labelled frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub image: PathBuf,
    pub labels: PathBuf,
    pub patient: String,
    pub split: Split,
    /// Slice of a NIfTI volume as DICOM shows it, or frame of a multi-frame DICOM file; from 0. Axial slices
    /// count from the lowest, coronal ones from the foremost, sagittal ones from the patient's right.
    pub slice: Option<usize>,
    /// The plane in which a volume is cut, where it is not the one that it was acquired in.
    pub plane: Option<Plane>,
}

/// True as soon as one of the two files is a volume; then both have to be.
pub(super) fn holds_volume(entry: &Entry) -> bool {
    is_nifti(&entry.image) || is_nifti(&entry.labels)
}
