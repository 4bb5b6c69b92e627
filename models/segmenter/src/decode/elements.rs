//! A walk over a DICOM stream that reads nothing but tags and lengths.
//!
//! The parser allocates what a length field claims and recurses once per nesting level, before it has
//! seen a byte of content: 20 hostile bytes would cost 4 GiB or the stack. So every length is first
//! held against the bytes that are there. PS3.5 section 7 has the encoding.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::{DecodeError, Format};

pub(super) const UNDEFINED: u32 = u32::MAX;
/// Real objects nest below ten levels.
const MAX_DEPTH: usize = 32;
const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    pub explicit: bool,
    pub big_endian: bool,
}

/// Tag, VR (of explicit encoding) and length of one element.
pub(super) struct Header {
    pub tag: Tag,
    pub vr: Option<VR>,
    pub length: u32,
}

pub(super) struct Walk<'a> {
    pub bytes: &'a [u8],
    pub position: usize,
    pub encoding: Encoding,
}

fn truncated() -> DecodeError {
    DecodeError::Truncated {
        format: Format::Dicom,
    }
}

fn malformed(detail: &str) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: detail.into(),
    }
}

/// Checks that all lengths of a data set fit.
pub(super) fn check_lengths(bytes: &[u8], encoding: Encoding) -> Result<(), DecodeError> {
    Walk {
        bytes,
        position: 0,
        encoding,
    }
    .elements(bytes.len(), 0)
}

/// The data set up to the first element of `group` or above.
pub(super) fn before_group(
    bytes: &[u8],
    encoding: Encoding,
    group: u16,
) -> Result<&[u8], DecodeError> {
    let mut walk = Walk {
        bytes,
        position: 0,
        encoding,
    };
    while bytes.len() - walk.position >= 8 {
        let start = walk.position;
        let header = walk.header()?;
        if header.tag.group() >= group {
            return Ok(&bytes[..start]);
        }
        if header.length == UNDEFINED || walk.is_sequence(&header) {
            walk.sequence(&header, bytes.len(), 0)?;
        } else {
            walk.value(&header)?;
        }
    }
    Ok(bytes)
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.position.checked_add(count).ok_or_else(truncated)?;
        let taken = self.bytes.get(self.position..end).ok_or_else(truncated)?;
        self.position = end;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.take(2)?;
        let pair = [bytes[0], bytes[1]];
        let big = self.encoding.big_endian;
        Ok(if big {
            u16::from_be_bytes(pair)
        } else {
            u16::from_le_bytes(pair)
        })
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        let bytes = self.take(4)?;
        let four = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let big = self.encoding.big_endian;
        Ok(if big {
            u32::from_be_bytes(four)
        } else {
            u32::from_le_bytes(four)
        })
    }

    pub(super) fn header(&mut self) -> Result<Header, DecodeError> {
        let tag = Tag(self.u16()?, self.u16()?);
        if tag.group() == 0xfffe || !self.encoding.explicit {
            let length = self.u32()?;
            return Ok(Header {
                tag,
                vr: None,
                length,
            });
        }
        let code = self.take(2)?;
        let vr = VR::from_binary([code[0], code[1]]);
        let length = match vr {
            // An unknown VR has a long length, as the parser takes it (PS3.5 6.2.2, note on future VRs).
            None
            | Some(
                VR::OB
                | VR::OD
                | VR::OF
                | VR::OL
                | VR::OV
                | VR::OW
                | VR::SQ
                | VR::SV
                | VR::UC
                | VR::UN
                | VR::UR
                | VR::UT
                | VR::UV,
            ) => {
                self.take(2)?;
                self.u32()?
            }
            Some(_) => u32::from(self.u16()?),
        };
        Ok(Header { tag, vr, length })
    }

    /// Moves past `length` bytes of content.
    pub(super) fn skip(&mut self, length: u32) -> Result<&'a [u8], DecodeError> {
        self.take(length as usize)
    }

    /// Moves past a value. The parser reads whole numbers and takes a rest for the next header, with a length that nobody
    /// has seen here.
    fn value(&mut self, header: &Header) -> Result<(), DecodeError> {
        let vr = if self.encoding.explicit {
            header.vr
        } else {
            let entry = StandardDataDictionary.by_tag(header.tag);
            entry.map(|entry| entry.vr().relaxed())
        };
        let size = match vr {
            Some(VR::US | VR::SS | VR::OW) => 2,
            Some(VR::UL | VR::SL | VR::OL | VR::FL | VR::OF | VR::AT) => 4,
            Some(VR::FD | VR::OD | VR::SV | VR::UV | VR::OV) => 8,
            _ => 1,
        };
        if !header.length.is_multiple_of(size) {
            return Err(malformed("a value ends within a number"));
        }
        self.skip(header.length)?;
        Ok(())
    }

    fn elements(&mut self, end: usize, depth: usize) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(malformed("sequences nest too deep"));
        }
        // Fewer than eight bytes hold no element: writers pad files.
        while end - self.position >= 8 {
            let header = self.header()?;
            if header.tag == ITEM_END {
                return Ok(());
            }
            let is_sequence = self.is_sequence(&header);
            if header.length != UNDEFINED && !is_sequence {
                self.value(&header)?;
            } else if header.tag == tags::PIXEL_DATA && header.length == UNDEFINED {
                self.items(end, None)?;
            } else {
                self.sequence(&header, end, depth)?;
            }
            if self.position > end {
                return Err(malformed("an element is longer than what holds it"));
            }
        }
        Ok(())
    }

    pub(super) fn sequence(
        &mut self,
        header: &Header,
        end: usize,
        depth: usize,
    ) -> Result<(), DecodeError> {
        let end = self.content_end(header.length, end)?;
        let outer = self.encoding;
        if header.vr == Some(VR::UN) {
            // PS3.5 6.2.2 note 4: undefined-length UN holds implicit VR little endian.
            self.encoding = Encoding {
                explicit: false,
                big_endian: false,
            };
        }
        let walked = self.items(end, Some(depth + 1));
        self.encoding = outer;
        self.close(header.length, end);
        walked
    }

    /// Items of a sequence (`depth` of their elements given) or fragments of pixel data.
    fn items(&mut self, end: usize, depth: Option<usize>) -> Result<(), DecodeError> {
        let mut is_first = true;
        while end - self.position >= 8 {
            let header = self.header()?;
            match (header.tag, depth) {
                (SEQUENCE_END, _) => return Ok(()),
                // Offsets of four bytes.
                (ITEM, None) if is_first && header.length % 4 != 0 => {
                    return Err(malformed("an offset table ends within an offset"));
                }
                (ITEM, None) => {
                    self.skip(header.length)?;
                }
                (ITEM, Some(depth)) => {
                    let end = self.content_end(header.length, end)?;
                    self.elements(end, depth)?;
                    self.close(header.length, end);
                }
                _ => return Err(malformed("something else stands where an item is due")),
            }
            if self.position > end {
                return Err(malformed("an item is longer than what holds it"));
            }
            is_first = false;
        }
        Ok(())
    }

    /// Past the padding of something whose length is known.
    fn close(&mut self, length: u32, end: usize) {
        if length != UNDEFINED {
            self.position = self.position.max(end);
        }
    }

    fn content_end(&self, length: u32, outer: usize) -> Result<usize, DecodeError> {
        if length == UNDEFINED {
            return Ok(outer);
        }
        let end = self
            .position
            .checked_add(length as usize)
            .ok_or_else(truncated)?;
        if end > self.bytes.len() {
            return Err(truncated());
        }
        if end > outer {
            return Err(malformed("a sequence is longer than what holds it"));
        }
        Ok(end)
    }

    pub(super) fn is_sequence(&self, header: &Header) -> bool {
        if self.encoding.explicit {
            return header.vr == Some(VR::SQ);
        }
        StandardDataDictionary
            .by_tag(header.tag)
            .is_some_and(|entry| entry.vr().exact() == Some(VR::SQ))
    }
}
