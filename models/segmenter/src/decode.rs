//! Bytes of one file to frames of modality values. The format is found by content, never by name.

pub mod acquisition;
mod attributes;
mod charset;
mod codecs;
mod dataset;
mod deflated;
mod dicom;
mod elements;
mod error;
mod foreign;
mod format;
mod fragments;
mod header;
mod jpeg;
mod jpeg_2000;
#[cfg(feature = "jpeg-ls")]
mod jpeg_ls;
pub mod kind;
mod limits;
mod lookup;
mod magic;
mod object;
pub mod orientation;
mod padding;
mod pixel_data;
mod pixels;
mod raster;
mod rle;
mod scan;
pub mod source;
mod spacing;
pub mod storage;
mod values;

use contract::intensity;

use self::limits::check;
use crate::warning::Warning;

pub use error::DecodeError;
pub use format::Format;
pub use limits::Limits;
pub use magic::sniff;
pub use scan::{Identifiers, Scan};
pub use spacing::{Spacing, SpacingFrom};
pub use values::{Attribute, KeywordError, values};

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
