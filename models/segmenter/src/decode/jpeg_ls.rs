//! JPEG-LS (ITU-T T.87), by charls.

use std::borrow::Cow;
use std::error::Error;

use dicom_dictionary_std::uids;
use dicom_encoding::Codec;
use dicom_encoding::adapters::{PixelDataObject, RawPixelData};
use dicom_encoding::transfer_syntax::{TransferSyntax, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::error::{DecodeError, unsupported_syntax};
use super::format::Format;
use super::pixels::Layout;

/// What the stream says of itself.
struct Header {
    rows: usize,
    cols: usize,
    components: usize,
    precision: usize,
    /// Components that share no scan come one after the other.
    planar: bool,
    /// What the stream has that CharLS does not decode.
    foreign: Option<&'static str>,
}

/// SOF55 of ISO/IEC 14495-1.
const FRAME: u8 = 0xf7;

pub(super) fn is_jpeg_ls(bytes: &[u8]) -> bool {
    header(bytes).is_some()
}

fn header(bytes: &[u8]) -> Option<Header> {
    let mut position = 2;
    let mut found: Option<Header> = None;
    loop {
        let marker = bytes.get(position..position + 4)?;
        if marker[0] != 0xff {
            return None;
        }
        if marker[1] == 0xff {
            position += 1;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([marker[2], marker[3]]));
        match (marker[1], found) {
            (0xda, Some(header)) => {
                let count = usize::from(*bytes.get(position + 4)?);
                // Selector and mapping table of each component; NEAR, interleave mode, point transform.
                let scan = bytes.get(position + 5..position + 5 + 2 * count + 3)?;
                let (components, last) = scan.split_at(2 * count);
                let mut tables = components.iter().skip(1).step_by(2);
                let foreign = match last[2] & 0xf {
                    0 if tables.all(|table| *table == 0) => None,
                    0 => Some("jpeg-ls with mapping tables"),
                    _ => Some("jpeg-ls with a point transform"),
                };
                return Some(Header {
                    planar: count == 1 && header.components > 1,
                    foreign,
                    ..header
                });
            }
            (FRAME, _) => {
                let frame = bytes.get(position + 4..position + 10)?;
                found = Some(Header {
                    rows: usize::from(u16::from_be_bytes([frame[1], frame[2]])),
                    cols: usize::from(u16::from_be_bytes([frame[3], frame[4]])),
                    components: usize::from(frame[5]),
                    precision: usize::from(frame[0]),
                    planar: false,
                    foreign: None,
                });
            }
            (_, other) => found = other,
        }
        position += 2 + length;
    }
}

/// Values of one frame, channels interleaved, and the bits of a sample.
pub(super) fn decode(frame: &[u8], layout: Layout) -> Result<(Vec<f32>, usize), DecodeError> {
    let header = header(frame).ok_or_else(|| malformed("no header in a frame".into()))?;
    // The stream's own size decides what its decoder allocates.
    let size = (header.rows, header.cols, header.components);
    if size != (layout.rows, layout.cols, layout.samples) || header.precision > 16 {
        return Err(malformed(
            "a stream differs from rows, columns or samples".into(),
        ));
    }
    if let Some(what) = header.foreign {
        return Err(DecodeError::Unsupported { what: what.into() });
    }
    let codec = TransferSyntaxRegistry
        .get(uids::JPEGLS_LOSSLESS)
        .map(TransferSyntax::codec);
    let Some(Codec::EncapsulatedPixelData(Some(decoder), _)) = codec else {
        return Err(unsupported_syntax(uids::JPEGLS_LOSSLESS));
    };
    let allocated = if header.precision > 8 { 16 } else { 8 };
    let stored = layout.stored.min(allocated);
    let layout = Layout {
        allocated,
        stored,
        high_bit: stored - 1,
        planar: header.planar,
        ..layout
    };
    let object = OneFrame { frame, layout };
    let mut samples = Vec::new();
    decoder
        .decode_frame(&object, 0, &mut samples)
        .map_err(|error| malformed(root_cause(&error)))?;
    Ok((layout.samples(&samples, 0)?, stored))
}

fn malformed(detail: String) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail,
    }
}

fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// One frame alone, as the codec wants to see it.
struct OneFrame<'a> {
    frame: &'a [u8],
    layout: Layout,
}

impl PixelDataObject for OneFrame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        uids::JPEGLS_LOSSLESS
    }

    fn rows(&self) -> Option<u16> {
        u16::try_from(self.layout.rows).ok()
    }

    fn cols(&self) -> Option<u16> {
        u16::try_from(self.layout.cols).ok()
    }

    fn samples_per_pixel(&self) -> Option<u16> {
        u16::try_from(self.layout.samples).ok()
    }

    fn bits_allocated(&self) -> Option<u16> {
        u16::try_from(self.layout.allocated).ok()
    }

    fn bits_stored(&self) -> Option<u16> {
        u16::try_from(self.layout.stored).ok()
    }

    fn photometric_interpretation(&self) -> Option<&str> {
        None
    }

    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }

    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }

    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(self.frame))
    }

    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        Some(Cow::Borrowed(&[]))
    }

    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        let fragments = vec![self.frame.to_vec()].into();
        Some(RawPixelData {
            fragments,
            offset_table: Vec::new().into(),
        })
    }
}
