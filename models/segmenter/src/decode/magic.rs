//! What a file is, by its first bytes.

use super::dataset;
use super::format::Format;

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
