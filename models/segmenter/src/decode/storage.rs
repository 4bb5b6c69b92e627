//! What has to be known of a DICOM data set before it is stored: in which transfer syntaxes it may
//! come, and what it says it is.

use std::borrow::Cow;
use std::io::{Cursor, Read};

use dicom_dictionary_std::{tags, uids};
use dicom_encoding::Codec;
use dicom_encoding::transfer_syntax::{Endianness, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::{TransferSyntaxRegistry, entries};

use super::elements::{Content, Walk};
use super::error::{DecodeError, unsupported_syntax};
use super::format::Format;
use super::header::Encoding;

/// Transfer syntaxes whose pixels [`decode`](super::decode) reads: what a sender may use of each, and what is refused,
/// is the table of `tests/peers/transfer_syntaxes.py`.
pub const TRANSFER_SYNTAXES: [&str; 12] = [
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    uids::IMPLICIT_VR_LITTLE_ENDIAN,
    entries::EXPLICIT_VR_BIG_ENDIAN.uid(),
    uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    uids::DEFLATED_IMAGE_FRAME_COMPRESSION,
    uids::RLE_LOSSLESS,
    uids::JPEG_BASELINE8_BIT,
    uids::JPEG_EXTENDED12_BIT,
    uids::JPEG_LOSSLESS,
    uids::JPEG_LOSSLESS_SV1,
    uids::JPEG2000_LOSSLESS,
    uids::JPEG2000,
];

/// What a data set says of itself. Not `Debug`: UIDs stay out of logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Instance {
    pub sop_class_uid: Option<String>,
    pub sop_instance_uid: Option<String>,
}

/// Reads SOP class and instance from the first bytes of a data set: both stand near its beginning,
/// so a few kilobytes are enough.
pub fn instance(head: &[u8], transfer_syntax: &str) -> Result<Instance, DecodeError> {
    let syntax = TransferSyntaxRegistry
        .get(transfer_syntax)
        .ok_or_else(|| unsupported_syntax(transfer_syntax))?;
    let bytes = match syntax.codec() {
        Codec::Dataset(Some(adapter)) => {
            let mut inflated = Vec::new();
            let limit = head.len() as u64;
            // The head ends in the middle of the stream; what came out before that is enough.
            let _ = adapter
                .adapt_reader(Box::new(Cursor::new(head)))
                .take(limit)
                .read_to_end(&mut inflated);
            Cow::Owned(inflated)
        }
        _ => Cow::Borrowed(head),
    };
    let stated = Encoding {
        explicit: transfer_syntax != uids::IMPLICIT_VR_LITTLE_ENDIAN,
        big_endian: syntax.endianness() == Endianness::Big,
    };
    Walk::new(&bytes, stated.of_data_set(&bytes)).instance()
}

impl Walk<'_> {
    fn instance(&mut self) -> Result<Instance, DecodeError> {
        let mut found = Instance::default();
        let mut last = None;
        let end = self.reader.bytes.len();
        while self.reader.position < end {
            let header = self.reader.header(end).ok_or_else(no_data_set)?;
            // Elements ascend, and the first ones are of group 8.
            let in_order = last.map_or(header.tag.group() == 8, |last| header.tag > last);
            if !in_order {
                return Err(no_data_set());
            }
            last = Some(header.tag);
            if header.tag > tags::SOP_INSTANCE_UID {
                break;
            }
            let (_, content) = self.content(&header, end, 0)?;
            match (header.tag, content) {
                (tags::SOP_CLASS_UID, Content::Value(value)) => {
                    found.sop_class_uid = Some(uid(value));
                }
                (tags::SOP_INSTANCE_UID, Content::Value(value)) => {
                    found.sop_instance_uid = Some(uid(value));
                }
                _ => {}
            }
        }
        last.map(|_| found).ok_or_else(no_data_set)
    }
}

fn no_data_set() -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: "it does not begin like a data set".into(),
    }
}

fn uid(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_matches(['\0', ' '])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::codecs;
    use super::*;

    const CLASS: &[u8] = b"1.2.840.10008.5.1.4.1.1.4\0";
    const INSTANCE: &[u8] = b"2.25.17\0";

    fn explicit(tag: (u16, u16), vr: &[u8], value: &[u8]) -> Vec<u8> {
        let length = (value.len() as u16).to_le_bytes();
        let (group, element) = (tag.0.to_le_bytes(), tag.1.to_le_bytes());
        [&group[..], &element, vr, &length, value].concat()
    }

    fn data_set() -> Vec<u8> {
        [
            explicit((8, 5), b"CS", b"ISO_IR 100"),
            explicit((8, 0x16), b"UI", CLASS),
            explicit((8, 0x18), b"UI", INSTANCE),
            explicit((8, 0x20), b"DA", b"20260101"),
        ]
        .concat()
    }

    #[test]
    fn class_and_instance_are_found_without_the_rest() {
        let bytes = data_set();
        for end in [bytes.len(), bytes.len() - 16] {
            let found = instance(&bytes[..end], uids::EXPLICIT_VR_LITTLE_ENDIAN).unwrap();
            let class = found.sop_class_uid.unwrap();
            assert_eq!(class, "1.2.840.10008.5.1.4.1.1.4");
            assert_eq!(found.sop_instance_uid.unwrap(), "2.25.17");
        }
    }

    #[test]
    fn what_is_no_data_set_is_said_so() {
        let late = explicit((8, 0x20), b"DA", b"20260101");
        let found = instance(&late, uids::EXPLICIT_VR_LITTLE_ENDIAN).unwrap();
        assert!(found.sop_class_uid.is_none());
        let cut = &data_set()[..30];
        for bytes in [b"", &b"GIF89a........."[..], &[0xff; 64], cut] {
            for syntax in TRANSFER_SYNTAXES {
                assert!(instance(bytes, syntax).is_err(), "{bytes:?} {syntax}");
            }
        }
        let descending = [explicit((8, 0x16), b"UI", CLASS), data_set()].concat();
        assert!(instance(&descending, uids::EXPLICIT_VR_LITTLE_ENDIAN).is_err());
    }

    #[test]
    fn every_syntax_has_its_decoder() {
        for uid in TRANSFER_SYNTAXES {
            let syntax = TransferSyntaxRegistry.get(uid).unwrap();
            let readable = match syntax.codec() {
                Codec::None | Codec::Dataset(Some(_)) => true,
                _ => codecs::are_read(uid),
            };
            assert!(readable, "{uid}");
        }
    }
}
