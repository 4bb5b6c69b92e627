//! Bytes of one file to frames of modality values. The format is found by content, never by name.

mod dicom;
mod raster;

use contract::Image;

/// What an image file holds, without the patient.
#[derive(Debug)]
pub struct Scan {
    /// One or more, all of the same shape.
    pub frames: Vec<Image>,
    /// Distance between rows, between columns.
    pub spacing_mm: Option<[f64; 2]>,
    /// DICOM Modality (0008,0060), e.g. `MR`.
    pub modality: Option<String>,
    pub format: Format,
    pub identifiers: Identifiers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    Png,
    Jpeg,
    Tiff,
    Dicom,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Tiff => "tiff",
            Self::Dicom => "dicom",
        }
    }
}

/// Who the image is of. Kept apart so that it cannot slip into a message or a log: not `Serialize`,
/// and `Debug` says only which fields are set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identifiers {
    pub sop_instance_uid: Option<String>,
    pub series_instance_uid: Option<String>,
    pub patient_id: Option<String>,
    pub instance_number: Option<i64>,
}

impl std::fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = |set: bool| if set { "hidden" } else { "absent" };
        f.debug_struct("Identifiers")
            .field("sop_instance_uid", &hidden(self.sop_instance_uid.is_some()))
            .field("series_instance_uid", &hidden(self.series_instance_uid.is_some()))
            .field("patient_id", &hidden(self.patient_id.is_some()))
            .field("instance_number", &hidden(self.instance_number.is_some()))
            .finish()
    }
}

/// What a file may ask for, checked against its header before anything is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_pixels_per_frame: u64,
    pub max_frames: u32,
    /// Of the file, and of all decoded frames together at 4 bytes a sample.
    pub max_bytes: u64,
}

impl Limits {
    /// 8192 x 8192 px holds every detector sold today, 4096 frames a long cine, 1 GiB what a small
    /// box can spare.
    pub const STANDARD: Self =
        Self { max_pixels_per_frame: 8192 * 8192, max_frames: 4096, max_bytes: 1 << 30 };
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {}

impl DecodeError {
    /// Stable code for messages and quarantine.
    pub fn kind(&self) -> &'static str {
        todo!()
    }
}

pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Scan, DecodeError> {
    todo!()
}
