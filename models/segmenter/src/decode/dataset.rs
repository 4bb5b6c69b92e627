//! A DICOM file to its data set: preamble, file meta information (PS3.10 section 7.1), transfer syntax.
//!
//! What the file says of its encoding is held against its first element, which cannot err.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind, Read};

use dicom_core::{Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_encoding::DataRWAdapter;
use dicom_encoding::transfer_syntax::{Codec, Endianness, TransferSyntax, TransferSyntaxIndex};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::{TransferSyntaxRegistry, entries};

use super::elements;
use super::error::{DecodeError, unsupported_syntax};
use super::format::Format;
use super::header::{Encoding, Reader};
use super::limits::{Limits, check};
use super::object::{Doubt, Reading};

/// Preamble and magic.
const MAGIC: (usize, &[u8]) = (128, b"DICM");

pub(super) struct DataSet {
    pub object: InMemDicomObject,
    /// Of the pixels.
    pub syntax: &'static TransferSyntax,
    pub doubts: Vec<(Tag, Doubt)>,
}

/// The attributes of a file, and its pixels only where they are asked for.
pub(super) fn read(
    bytes: &[u8],
    limits: &Limits,
    with_pixels: bool,
) -> Result<DataSet, DecodeError> {
    let (bytes, syntax) = split(bytes)?;
    let bytes = match syntax.codec() {
        Codec::Dataset(None) => return Err(unsupported_syntax(syntax.uid())),
        Codec::Dataset(Some(_)) if !is_data_set(bytes) => Cow::Owned(inflate(bytes, limits)?),
        // Deflated under the name of another syntax.
        Codec::None if !is_data_set(bytes) => match inflate(bytes, limits) {
            Ok(inflated) if is_data_set(&inflated) => Cow::Owned(inflated),
            _ => Cow::Borrowed(bytes),
        },
        _ => Cow::Borrowed(bytes),
    };
    let encoding = encoding(syntax).of_data_set(&bytes);
    let syntax = match syntax.codec() {
        Codec::EncapsulatedPixelData(..) => syntax,
        _ => native(encoding),
    };
    let elements = elements::read(&bytes, encoding, with_pixels)?;
    let mut reading = Reading {
        with_pixels,
        doubts: Vec::new(),
    };
    let object = reading.object(&elements)?;
    Ok(DataSet {
        object,
        syntax,
        doubts: reading.doubts,
    })
}

/// Does a file without preamble begin like file meta information or like a data set?
pub(super) fn looks_bare(bytes: &[u8]) -> bool {
    bare_encoding(bytes).is_some()
}

/// Group 0002 or 0008 first, then a VR of the standard or a small length.
fn bare_encoding(bytes: &[u8]) -> Option<Encoding> {
    let first = bytes.get(..8)?;
    let big_endian = match first[..2] {
        [2 | 8, 0] => false,
        [0, 8] => true,
        _ => return None,
    };
    let explicit = VR::from_binary([first[4], first[5]]).is_some();
    let length = u32::from_le_bytes([first[4], first[5], first[6], first[7]]);
    let element = if big_endian { first[2] } else { first[3] };
    let plausible = explicit || (!big_endian && length <= 64);
    (element == 0 && plausible).then_some(Encoding {
        explicit,
        big_endian,
    })
}

/// Does it begin with an element of a low group, as data sets do and deflated bytes do not?
fn is_data_set(bytes: &[u8]) -> bool {
    let Some(&[a, b, _, _, rest @ ..]) = bytes.first_chunk::<8>() else {
        return false;
    };
    let is_low = matches!([a, b], [2..=0x28, 0] | [0, 2..=0x28]);
    let length = u32::from_le_bytes(rest) as usize;
    is_low && (VR::from_binary([rest[0], rest[1]]).is_some() || length <= bytes.len())
}

fn encoding(syntax: &TransferSyntax) -> Encoding {
    Encoding {
        explicit: syntax.uid() != uids::IMPLICIT_VR_LITTLE_ENDIAN,
        big_endian: syntax.endianness() == Endianness::Big,
    }
}

/// The transfer syntax of pixels that are not encapsulated.
fn native(encoding: Encoding) -> &'static TransferSyntax {
    let uid = match (encoding.explicit, encoding.big_endian) {
        (_, true) => entries::EXPLICIT_VR_BIG_ENDIAN.uid(),
        (true, false) => uids::EXPLICIT_VR_LITTLE_ENDIAN,
        (false, false) => uids::IMPLICIT_VR_LITTLE_ENDIAN,
    };
    TransferSyntaxRegistry
        .get(uid)
        .expect("the three native syntaxes are always registered")
}

fn behind_preamble(bytes: &[u8]) -> &[u8] {
    let (start, magic) = MAGIC;
    match bytes.get(start..) {
        Some(rest) if rest.starts_with(magic) => &rest[magic.len()..],
        _ => bytes.strip_prefix(magic).unwrap_or(bytes),
    }
}

/// The data set's bytes, and how the file says they are encoded.
fn split(bytes: &[u8]) -> Result<(&[u8], &'static TransferSyntax), DecodeError> {
    let mut rest = behind_preamble(bytes);
    let mut uid = None;
    // A sender may have put a whole file where a data set is due: the inner one counts.
    while matches!(rest, [2, 0, ..] | [0, 2, ..]) {
        let (elements, length) = group_2(rest)?;
        uid = value_of(&elements, tags::TRANSFER_SYNTAX_UID).or(uid);
        rest = &rest[length..];
        if !is_data_set(rest) {
            rest = behind_preamble(rest);
        }
    }
    if let Some(uid) = uid {
        let syntax = TransferSyntaxRegistry.get(&uid);
        return Ok((rest, syntax.ok_or_else(|| unsupported_syntax(&uid))?));
    }
    let encoding = match bare_encoding(rest) {
        Some(encoding) => encoding,
        None if is_data_set(rest) => Encoding::EXPLICIT.of_data_set(rest),
        None if rest.len() == bytes.len() => {
            return Err(DecodeError::Malformed {
                format: Format::Dicom,
                detail: "no file meta information".into(),
            });
        }
        None => {
            return Err(DecodeError::Attribute {
                name: "TransferSyntaxUID",
                problem: "is missing",
            });
        }
    };
    Ok((rest, native(encoding)))
}

/// An element of the file meta information, as text.
pub(super) fn meta(bytes: &[u8], tag: Tag) -> Option<String> {
    let (elements, _) = group_2(behind_preamble(bytes)).ok()?;
    value_of(&elements, tag)
}

fn value_of(elements: &[(Tag, &[u8])], tag: Tag) -> Option<String> {
    let (_, value) = elements.iter().find(|element| element.0 == tag)?;
    let text = String::from_utf8_lossy(value);
    let text = text.trim_matches(['\0', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}

type Group<'a> = Vec<(Tag, &'a [u8])>;

/// The elements of group 0002, and where they end.
fn group_2(bytes: &[u8]) -> Result<(Group<'_>, usize), DecodeError> {
    let mut reader = Reader {
        bytes,
        position: 0,
        encoding: Encoding::EXPLICIT.of_data_set(bytes),
    };
    let truncated = DecodeError::Truncated {
        format: Format::Dicom,
    };
    let mut elements = Vec::new();
    while matches!(bytes[reader.position..], [2, 0, ..] | [0, 2, ..]) {
        let header = reader.header(bytes.len()).ok_or(truncated.clone())?;
        let end = reader.position.saturating_add(header.length as usize);
        let value = bytes.get(reader.position..end).ok_or(truncated.clone())?;
        reader.position = end;
        elements.push((header.tag, value));
    }
    Ok((elements, reader.position))
}

fn inflate(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, DecodeError> {
    let syntax = &entries::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN;
    let Codec::Dataset(Some(adapter)) = syntax.codec() else {
        return Err(unsupported_syntax(syntax.uid()));
    };
    let mut inflated = Vec::new();
    adapter
        .adapt_reader(Box::new(Cursor::new(bytes)))
        .take(limits.max_bytes.saturating_add(1))
        .read_to_end(&mut inflated)
        .map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => DecodeError::Truncated {
                format: Format::Dicom,
            },
            _ => DecodeError::Malformed {
                format: Format::Dicom,
                detail: "its deflated data set cannot be inflated".into(),
            },
        })?;
    let found = inflated.len() as u64;
    check("the inflated data set in bytes", found, limits.max_bytes)?;
    Ok(inflated)
}
