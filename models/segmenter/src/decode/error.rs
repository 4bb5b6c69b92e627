//! Why a file gives no image.

use std::time::Duration;

use dicom_core::Tag;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_dictionary_std::StandardDataDictionary;
use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::format::Format;

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

pub(super) fn with_keyword(tag: Tag) -> String {
    let entry = StandardDataDictionary.by_tag(tag);
    entry.map_or_else(
        || tag.to_string(),
        |entry| format!("{tag} {}", entry.alias()),
    )
}

pub(super) fn unsupported_syntax(transfer_syntax: &str) -> DecodeError {
    let known = TransferSyntaxRegistry.get(transfer_syntax);
    let name = known.map_or("unknown", |syntax| syntax.name());
    // The UID comes from the file: print it only if it is one.
    let is_uid = transfer_syntax
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let uid = if is_uid && transfer_syntax.len() <= 64 {
        transfer_syntax
    } else {
        "(no uid)"
    };
    DecodeError::UnsupportedTransferSyntax {
        uid: uid.into(),
        name: name.into(),
    }
}
