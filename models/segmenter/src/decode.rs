//! Bytes of one file to frames of modality values. The format is found by content, never by name.

pub mod acquisition;
mod attributes;
mod charset;
mod codecs;
mod dataset;
mod deflated;
mod dicom;
mod elements;
mod foreign;
mod fragments;
mod header;
mod jpeg;
mod jpeg_2000;
#[cfg(feature = "jpeg-ls")]
mod jpeg_ls;
pub mod kind;
mod lookup;
mod object;
pub mod orientation;
mod padding;
mod pixel_data;
mod pixels;
mod raster;
mod rle;
pub mod source;
mod spacing;
pub mod storage;
mod values;

use std::time::{Duration, Instant};

use contract::{Image, intensity};
use dicom_core::Tag;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_dictionary_std::StandardDataDictionary;

use crate::result::Warning;

pub use spacing::{Spacing, SpacingFrom};
pub use values::{Attribute, KeywordError, values};

/// What an image file holds, without the patient.
#[derive(Debug)]
pub struct Scan {
    /// One or more, all of the same shape.
    pub frames: Vec<Image>,
    pub spacing: Spacing,
    /// DICOM Modality (0008,0060), e.g. `MR`.
    pub modality: Option<String>,
    pub format: Format,
    pub identifiers: Identifiers,
    pub warnings: Vec<Warning>,
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
    pub study_instance_uid: Option<String>,
    pub sop_instance_uid: Option<String>,
    pub series_instance_uid: Option<String>,
    pub patient_id: Option<String>,
    pub instance_number: Option<i64>,
}

impl std::fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = |set: bool| if set { "hidden" } else { "absent" };
        f.debug_struct("Identifiers")
            .field(
                "study_instance_uid",
                &hidden(self.study_instance_uid.is_some()),
            )
            .field("sop_instance_uid", &hidden(self.sop_instance_uid.is_some()))
            .field(
                "series_instance_uid",
                &hidden(self.series_instance_uid.is_some()),
            )
            .field("patient_id", &hidden(self.patient_id.is_some()))
            .field("instance_number", &hidden(self.instance_number.is_some()))
            .finish()
    }
}

/// What a file may ask for: size is checked against its header before anything is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_pixels_per_frame: u64,
    pub max_frames: u32,
    /// Of the file, and of all decoded frames together at 4 bytes a sample.
    pub max_bytes: u64,
    /// Looked at before each frame, as no decoder can be interrupted within one: a file of a single frame is not
    /// bounded by it, nor is what comes before the first frame. `None` for all the time it takes.
    pub max_time: Option<Duration>,
}

impl Limits {
    /// 8192 x 8192 px holds every detector sold today, 4096 frames a long cine, 1 GiB what a small
    /// box can spare.
    pub const STANDARD: Self = Self {
        max_pixels_per_frame: 8192 * 8192,
        max_frames: 4096,
        max_bytes: 1 << 30,
        max_time: None,
    };

    fn check_time(&self, start: Instant) -> Result<(), DecodeError> {
        match self.max_time {
            Some(limit) if start.elapsed() >= limit => Err(DecodeError::TooSlow { limit }),
            _ => Ok(()),
        }
    }
}

/// Why a file gives no image. The words never repeat a value of the file: it may name a patient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the file is empty; send it again")]
    Empty,
    #[error("the content is neither PNG, JPEG, TIFF nor DICOM; send one of these")]
    NotAnImage,
    #[error(
        "the content is {name}; send images as DICOM, PNG, JPEG or TIFF, one object or picture in each file"
    )]
    OtherFormat { name: &'static str },
    #[error("the {} file ends too early; send it again, complete", .format.name())]
    Truncated { format: Format },
    #[error("{what} is {found}, the limit is {limit}; send a smaller image or raise the limit")]
    TooLarge {
        what: &'static str,
        found: u64,
        limit: u64,
    },
    #[error("decoding took {} s and was not done; send fewer frames, or without compression, or raise the limit", .limit.as_secs())]
    TooSlow { limit: Duration },
    #[error("the image has no pixels: {what} is 0; send an image")]
    NoPixels { what: &'static str },
    #[error(
        "the dicom object has no pixel data (report, plan or directory?); send image objects only"
    )]
    NoPixelData,
    #[error("the dicom object is no image of a patient: {what}; send image objects only")]
    NoPatientImage { what: String },
    #[error(
        "the dicom object is one that Scanside made itself ({what}); let the PACS keep what it gets \
         from here"
    )]
    OwnObject { what: &'static str },
    #[error(
        "transfer syntax {uid} ({name}) is not supported; let the sender use explicit vr little endian"
    )]
    UnsupportedTransferSyntax { uid: String, name: String },
    #[error("{what} is not supported; convert the image at its source")]
    Unsupported { what: String },
    #[error("attribute {} {problem}; correct it at the source", with_tag(.name))]
    Attribute {
        name: &'static str,
        problem: &'static str,
    },
    #[error(
        "element {} {problem}; correct its writer, or have an archive write the object anew",
        with_keyword(*.tag)
    )]
    Element { tag: Tag, problem: &'static str },
    #[error("the {} file is damaged: {detail}; send it again", .format.name())]
    Malformed { format: Format, detail: String },
    #[error("the {} decoder broke on this file; report it to the makers", .format.name())]
    DecoderPanicked { format: Format },
}

impl DecodeError {
    /// Stable code for messages and quarantine.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage => "not_an_image",
            Self::OtherFormat { .. } => "other_format",
            Self::Truncated { .. } => "truncated",
            Self::TooLarge { .. } => "too_large",
            Self::TooSlow { .. } => "too_slow",
            Self::NoPixels { .. } => "no_pixels",
            Self::NoPixelData => "no_pixel_data",
            Self::NoPatientImage { .. } => "no_patient_image",
            Self::OwnObject { .. } => "own_object",
            Self::UnsupportedTransferSyntax { .. } => "unsupported_transfer_syntax",
            Self::Unsupported { .. } => "unsupported",
            Self::Attribute { .. } => "bad_attribute",
            Self::Element { .. } | Self::Malformed { .. } => "malformed",
            Self::DecoderPanicked { .. } => "decoder_panicked",
        }
    }
}

/// A keyword of the dictionary behind its tag; other names as they are.
fn with_tag(name: &str) -> String {
    let entry = StandardDataDictionary.by_name(name);
    entry.map_or_else(
        || name.to_owned(),
        |entry| format!("{} {name}", entry.tag()),
    )
}

fn with_keyword(tag: Tag) -> String {
    let entry = StandardDataDictionary.by_tag(tag);
    entry.map_or_else(
        || tag.to_string(),
        |entry| format!("{tag} {}", entry.alias()),
    )
}

/// Decodes the file's frames to modality values (see [`dicom`] for what these are in DICOM; other
/// formats give their stored values, in the orientation that EXIF names). Alpha is dropped, palettes are looked up.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Scan, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    check("the file in bytes", bytes.len() as u64, limits.max_bytes)?;
    let unknown = || match foreign::format_name(bytes) {
        Some(name) => DecodeError::OtherFormat { name },
        None => DecodeError::NotAnImage,
    };
    let format = sniff(bytes).ok_or_else(unknown)?;
    // Third-party decoders have panicked on hostile input before; one file must not end the daemon.
    // Nothing is shared with the closure but the input, so no state can be left half changed.
    let decoded = std::panic::catch_unwind(|| match format {
        Format::Png => raster::png(bytes, limits),
        Format::Jpeg => raster::jpeg(bytes, limits),
        Format::Tiff => raster::tiff(bytes, limits),
        Format::Dicom => dicom::decode(bytes, limits),
    });
    let mut scan = decoded.unwrap_or(Err(DecodeError::DecoderPanicked { format }))?;
    scan.warnings.extend(scan.spacing.warning());
    if !scan.frames.iter().all(intensity::is_finite) {
        scan.warnings.push(Warning::ValuesNotFinite);
    }
    Ok(scan)
}

/// What the beginning of a file says it is; 132 bytes are enough.
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    // A DICOM preamble may hold a TIFF header, so DICOM is asked first.
    if bytes.get(128..132) == Some(b"DICM") || bytes.starts_with(b"DICM") {
        return Some(Format::Dicom);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(Format::Png);
    }
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        return Some(Format::Jpeg);
    }
    if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]
        .iter()
        .any(|&magic| bytes.starts_with(magic))
    {
        return Some(Format::Tiff);
    }
    dataset::looks_bare(bytes).then_some(Format::Dicom)
}

fn check(what: &'static str, found: u64, limit: u64) -> Result<(), DecodeError> {
    if found > limit {
        return Err(DecodeError::TooLarge { what, found, limit });
    }
    Ok(())
}

/// The sizes a header claims.
#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: u64,
    cols: u64,
    channels: u64,
    frames: u64,
}

impl Shape {
    /// Must run before the first allocation that depends on the header.
    fn check(self, limits: &Limits) -> Result<(), DecodeError> {
        for (what, value) in [("height", self.rows), ("width", self.cols)] {
            if value == 0 {
                return Err(DecodeError::NoPixels { what });
            }
        }
        let pixels = self.rows.saturating_mul(self.cols);
        check("the image in px", pixels, limits.max_pixels_per_frame)?;
        check(
            "the number of frames",
            self.frames,
            u64::from(limits.max_frames),
        )?;
        let bytes = pixels
            .saturating_mul(self.channels)
            .saturating_mul(self.frames)
            .saturating_mul(size_of::<f32>() as u64);
        check("the decoded image in bytes", bytes, limits.max_bytes)
    }
}
