//! Encapsulated pixel data (PS3.5 A.4): fragments to frames, frames to samples.

use std::borrow::Cow;
use std::error::Error;

use dicom_dictionary_std::uids;
use dicom_encoding::Codec;
use dicom_encoding::adapters::{PixelDataObject, RawPixelData};
use dicom_encoding::transfer_syntax::{TransferSyntax, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::pixels::Layout;
use super::{DecodeError, Format, rle};

/// Joins the fragments of each frame.
pub(super) fn frames<'a>(
    fragments: &'a [Vec<u8>],
    offset_table: &[u32],
    count: usize,
) -> Result<Vec<Cow<'a, [u8]>>, DecodeError> {
    let starts = if count == 1 {
        vec![0]
    } else if fragments.len() == count {
        (0..count).collect()
    } else if offset_table.len() == count {
        starts_by_offset(fragments, offset_table)
    } else {
        starts_by_magic(fragments)
    };
    if starts.len() < count || fragments.is_empty() {
        return Err(DecodeError::Truncated {
            format: Format::Dicom,
        });
    }
    let ends = starts.iter().skip(1).copied().chain([fragments.len()]);
    let joined = starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| match &fragments[start..end] {
            [one] => Cow::Borrowed(one.as_slice()),
            several => Cow::Owned(several.concat()),
        });
    Ok(joined.take(count).collect())
}

/// Offsets count from the first fragment's item header, eight bytes each.
fn starts_by_offset(fragments: &[Vec<u8>], offset_table: &[u32]) -> Vec<usize> {
    let mut offset = 0;
    let mut starts = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        if offset_table
            .get(starts.len())
            .is_some_and(|&start| start as usize == offset)
        {
            starts.push(index);
        }
        offset += fragment.len() + 8;
    }
    starts
}

fn starts_by_magic(fragments: &[Vec<u8>]) -> Vec<usize> {
    let starts_stream = |fragment: &Vec<u8>| {
        fragment.starts_with(&[0xff, 0xd8, 0xff]) || fragment.starts_with(&[0xff, 0x4f, 0xff, 0x51])
    };
    (0..fragments.len())
        .filter(|&index| starts_stream(&fragments[index]))
        .collect()
}

/// What a JPEG, JPEG-LS or JPEG 2000 stream says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamHeader {
    rows: u32,
    cols: u32,
    components: u16,
    precision: u8,
    lossy_jpeg: bool,
    /// Its decoder gives one component after the other.
    planar: bool,
}

/// SOF55 of ISO/IEC 14495-1.
const JPEG_LS_FRAME: u8 = 0xf7;

fn jpeg_header(bytes: &[u8]) -> Option<StreamHeader> {
    let mut position = 2;
    let mut jpeg_ls: Option<StreamHeader> = None;
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
        if let (0xda, Some(header)) = (marker[1], jpeg_ls) {
            // Components that share no scan are not interleaved.
            let alone = *bytes.get(position + 4)? == 1;
            return Some(StreamHeader {
                planar: alone && header.components > 1,
                ..header
            });
        }
        let is_frame = matches!(marker[1], 0xc0..=0xcf | JPEG_LS_FRAME)
            && !matches!(marker[1], 0xc4 | 0xc8 | 0xcc);
        if is_frame {
            let frame = bytes.get(position + 4..position + 10)?;
            let header = StreamHeader {
                rows: u32::from(u16::from_be_bytes([frame[1], frame[2]])),
                cols: u32::from(u16::from_be_bytes([frame[3], frame[4]])),
                components: u16::from(frame[5]),
                precision: frame[0],
                lossy_jpeg: !matches!(marker[1], 0xc3 | 0xc7 | 0xcb | 0xcf | JPEG_LS_FRAME),
                planar: false,
            };
            if marker[1] != JPEG_LS_FRAME {
                return Some(header);
            }
            jpeg_ls = Some(header);
        }
        position += 2 + length;
    }
}

/// The SIZ segment; a JP2 file header before the stream is passed over.
fn jpeg_2000_header(bytes: &[u8]) -> Option<StreamHeader> {
    let start = bytes
        .windows(4)
        .position(|four| four == [0xff, 0x4f, 0xff, 0x51])?;
    let siz = bytes.get(start + 4..start + 4 + 39)?;
    let word = |at: usize| u32::from_be_bytes([siz[at], siz[at + 1], siz[at + 2], siz[at + 3]]);
    Some(StreamHeader {
        rows: word(8).checked_sub(word(16))?,
        cols: word(4).checked_sub(word(12))?,
        components: u16::from_be_bytes([siz[36], siz[37]]),
        precision: (siz[38] & 0x7f) + 1,
        lossy_jpeg: false,
        planar: false,
    })
}

/// Samples of one frame, little endian, channels interleaved, and how to read them.
pub(super) fn decode(
    frame: &[u8],
    transfer_syntax: &str,
    layout: Layout,
) -> Result<(Vec<u8>, Layout), DecodeError> {
    if transfer_syntax == uids::RLE_LOSSLESS {
        return decode_rle(frame, layout);
    }
    let Some(Codec::EncapsulatedPixelData(Some(decoder), _)) = TransferSyntaxRegistry
        .get(transfer_syntax)
        .map(TransferSyntax::codec)
    else {
        return Err(unsupported(transfer_syntax));
    };
    let is_jpeg = frame.starts_with(&[0xff, 0xd8]);
    let header = if is_jpeg {
        jpeg_header(frame)
    } else {
        jpeg_2000_header(frame)
    };
    let header = header.ok_or_else(|| malformed("no jpeg header in a frame".into()))?;
    // The stream's own size decides what its decoder allocates.
    let size = (
        header.rows as usize,
        header.cols as usize,
        usize::from(header.components),
    );
    if size != (layout.rows, layout.cols, layout.samples) {
        return Err(malformed(
            "a frame's stream differs from rows, columns or samples".into(),
        ));
    }
    if header.lossy_jpeg && header.precision > 8 {
        return Err(DecodeError::Unsupported {
            what: "lossy jpeg of 12 bits".into(),
        });
    }
    if header.precision > 16 {
        return Err(DecodeError::Unsupported {
            what: "jpeg of more than 16 bits".into(),
        });
    }
    let allocated = if header.precision > 8 { 16 } else { 8 };
    let stored = if is_jpeg {
        layout.stored.min(allocated)
    } else {
        header.precision.into()
    };
    let layout = Layout {
        allocated,
        stored,
        high_bit: stored - 1,
        planar: header.planar,
        ..layout
    };
    let object = OneFrame {
        transfer_syntax,
        frame,
        layout,
    };
    let mut samples = Vec::new();
    decoder
        .decode_frame(&object, 0, &mut samples)
        .map_err(|error| malformed(root_cause(&error)))?;
    Ok((samples, layout))
}

fn decode_rle(frame: &[u8], layout: Layout) -> Result<(Vec<u8>, Layout), DecodeError> {
    let pixels = layout.rows * layout.cols;
    let (plane, bytes) = match layout.allocated {
        1 => (pixels.div_ceil(8), 1),
        bits => (pixels, bits / 8),
    };
    let samples = rle::frame(frame, plane, layout.samples, bytes)?;
    Ok((
        samples,
        Layout {
            planar: false,
            ..layout
        },
    ))
}

pub(super) fn unsupported(transfer_syntax: &str) -> DecodeError {
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

/// One frame alone, as the codecs want to see it.
struct OneFrame<'a> {
    transfer_syntax: &'a str,
    frame: &'a [u8],
    layout: Layout,
}

impl PixelDataObject for OneFrame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        self.transfer_syntax
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
