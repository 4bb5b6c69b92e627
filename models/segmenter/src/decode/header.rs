//! Tag, VR and length of single elements: PS3.5 section 7, and how writers depart from it.
//!
//! An element without a VR in an explicit data set, one with a VR in an implicit one, a VR that is not known here:
//! each is taken as it makes the next element's header follow where it ends.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

pub(super) const UNDEFINED: u32 = u32::MAX;
pub(super) const ITEM: Tag = Tag(0xfffe, 0xe000);
pub(super) const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
pub(super) const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);
/// No element is shorter: writers pad files with less.
pub(super) const SHORTEST: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    pub explicit: bool,
    pub big_endian: bool,
}

impl Encoding {
    /// Of what is stored as UN (PS3.5 6.2.2), whatever surrounds it.
    pub(super) const IMPLICIT: Self = Self {
        explicit: false,
        big_endian: false,
    };
    pub(super) const EXPLICIT: Self = Self {
        explicit: true,
        big_endian: false,
    };

    /// How a data set is encoded that is said to be encoded in this way. Its first element tells: group 0008 with its
    /// bytes exchanged is 0800, and a length that spells the VR of the element is none.
    pub(super) fn of_data_set(self, bytes: &[u8]) -> Self {
        let Some(&[a, b, ..]) = bytes.first_chunk::<SHORTEST>() else {
            return self;
        };
        let (little, big) = (u16::from_le_bytes([a, b]), u16::from_be_bytes([a, b]));
        let big_endian = if self.big_endian {
            big <= little
        } else {
            big < little
        };
        Self { big_endian, ..self }.of_item(bytes)
    }

    /// The same for an item, whose byte order is known.
    pub(super) fn of_item(self, bytes: &[u8]) -> Self {
        let Some(first) = First::read(bytes, self.big_endian) else {
            return self;
        };
        let next = bytes.get(SHORTEST.saturating_add(first.length as usize)..);
        let explicit = if self.explicit {
            // A single element without a VR does not make a data set implicit.
            let implicit = next.is_some_and(|next| {
                First::read(next, self.big_endian).is_none_or(|next| next.code.is_none())
            });
            first.code.is_some() || first.is_lettered || !implicit
        } else {
            let is_its = first.code.is_some_and(|vr| is_vr_of(first.tag, vr));
            is_its || first.code.is_some() && next.is_none()
        };
        Self { explicit, ..self }
    }
}

/// The VR of a tag that the standard's dictionary has.
pub(super) fn virtual_vr(tag: Tag) -> Option<VirtualVr> {
    let entry = StandardDataDictionary.by_tag(tag)?;
    Some(entry.vr())
}

/// As a length, these two letters would be an odd one, or one that is too long for a value of this VR.
fn is_vr_of(tag: Tag, vr: VR) -> bool {
    match virtual_vr(tag) {
        Some(VirtualVr::Exact(exact)) => vr == exact || vr == VR::UN,
        Some(_) => matches!(vr, VR::US | VR::SS | VR::OB | VR::OW | VR::UN),
        None => false,
    }
}

/// The first eight bytes of an element, read as both encodings have them.
struct First {
    tag: Tag,
    code: Option<VR>,
    /// Two capital letters stand where a VR is due.
    is_lettered: bool,
    /// Of implicit encoding.
    length: u32,
}

impl First {
    fn read(bytes: &[u8], big_endian: bool) -> Option<Self> {
        let &[a, b, c, d, rest @ ..] = bytes.first_chunk::<SHORTEST>()?;
        // Items and delimiters say their byte order themselves.
        let big_endian = match [a, b] {
            [0xfe, 0xff] => false,
            [0xff, 0xfe] => true,
            _ => big_endian,
        };
        let u16 = |pair| {
            if big_endian {
                u16::from_be_bytes(pair)
            } else {
                u16::from_le_bytes(pair)
            }
        };
        Some(Self {
            tag: Tag(u16([a, b]), u16([c, d])),
            code: VR::from_binary([rest[0], rest[1]]),
            is_lettered: rest[..2].iter().all(u8::is_ascii_uppercase),
            length: if big_endian {
                u32::from_be_bytes(rest)
            } else {
                u32::from_le_bytes(rest)
            },
        })
    }

    fn is_delimiter(&self) -> bool {
        [ITEM, ITEM_END, SEQUENCE_END].contains(&self.tag)
    }
}

/// Tag, VR (where one is written that is known) and length of one element.
pub(super) struct Header {
    pub tag: Tag,
    pub vr: Option<VR>,
    pub length: u32,
}

/// A header as one of the encodings has it: where its value begins, and its length.
#[derive(Clone, Copy)]
struct Reading {
    vr: Option<VR>,
    start: usize,
    length: u32,
}

pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub position: usize,
    pub encoding: Encoding,
}

impl Reader<'_> {
    /// The next header of what ends at `end`. `None` where nothing stands that can be one.
    pub(super) fn header(&mut self, end: usize) -> Option<Header> {
        let bytes = self.bytes.get(self.position..end)?;
        let first = First::read(bytes, self.encoding.big_endian)?;
        let implicit = Reading {
            vr: None,
            start: self.position + SHORTEST,
            length: first.length,
        };
        let reading = if first.is_delimiter() {
            implicit
        } else {
            match (self.encoding.explicit, first.code) {
                (true, Some(vr)) => self.explicit(first.tag, vr, end)?,
                (false, None) => implicit,
                (false, Some(vr)) if is_vr_of(first.tag, vr) => {
                    self.explicit(first.tag, vr, end)?
                }
                (false, Some(vr)) => match self.explicit(first.tag, vr, end) {
                    Some(explicit) if !fits(implicit, end) && fits(explicit, end) => explicit,
                    _ => implicit,
                },
                (true, None) => self.without_vr(&first, implicit, end)?,
            }
        };
        self.position = reading.start;
        Some(Header {
            tag: first.tag,
            vr: reading.vr,
            length: reading.length,
        })
    }

    fn explicit(&self, tag: Tag, vr: VR, end: usize) -> Option<Reading> {
        let short = Reading {
            vr: Some(vr),
            ..self.short()
        };
        if !is_long(vr) {
            return Some(short);
        }
        let long = self.long(end).map(|long| Reading {
            vr: Some(vr),
            ..long
        });
        let is_reserved = self.bytes[self.position + 6..self.position + 8] == [0, 0];
        match long {
            Some(long) if is_reserved || self.is_followed(tag, long, end) => Some(long),
            // A writer that does not know this VR gives it a length of two bytes.
            _ if !is_reserved && self.is_followed(tag, short, end) => Some(short),
            long => long,
        }
    }

    /// Of an explicit data set, but with no VR that is known.
    fn without_vr(&self, first: &First, implicit: Reading, end: usize) -> Option<Reading> {
        let long = self.long(end);
        let readings = if first.is_lettered {
            // PS3.5 6.2.2: a VR of the future has a long length.
            [long, Some(self.short()), Some(implicit)]
        } else {
            [Some(implicit), Some(self.short()), long]
        };
        let mut readings = readings.into_iter().flatten();
        let followed = readings.find(|&reading| self.is_followed(first.tag, reading, end));
        followed.or(long.filter(|&long| first.is_lettered && fits(long, end)))
    }

    fn short(&self) -> Reading {
        let at = self.position + 6;
        let pair = [self.bytes[at], self.bytes[at + 1]];
        let length = if self.encoding.big_endian {
            u16::from_be_bytes(pair)
        } else {
            u16::from_le_bytes(pair)
        };
        Reading {
            vr: None,
            start: at + 2,
            length: length.into(),
        }
    }

    fn long(&self, end: usize) -> Option<Reading> {
        let at = self.position + 8;
        let four = *self.bytes.get(at..end)?.first_chunk()?;
        Some(Reading {
            vr: None,
            start: at + 4,
            length: if self.encoding.big_endian {
                u32::from_be_bytes(four)
            } else {
                u32::from_le_bytes(four)
            },
        })
    }

    /// Does another element, or the end, stand behind this one?
    fn is_followed(&self, tag: Tag, reading: Reading, end: usize) -> bool {
        let next = match reading.length {
            UNDEFINED => reading.start,
            length => reading.start.saturating_add(length as usize),
        };
        let Some(rest) = self.bytes.get(next..end) else {
            return false;
        };
        let Some(first) = First::read(rest, self.encoding.big_endian) else {
            return reading.length != UNDEFINED;
        };
        if first.is_delimiter() || reading.length == UNDEFINED {
            return first.is_delimiter();
        }
        let fits = first.code.is_some() || first.length as usize <= rest.len() - SHORTEST;
        first.tag > tag && fits
    }

    /// Whether an element that is none of a sequence can stand here, behind `tag`.
    pub(super) fn is_element(&self, tag: Tag, end: usize) -> bool {
        let rest = self.bytes.get(self.position..end).unwrap_or_default();
        let Some(first) = First::read(rest, self.encoding.big_endian) else {
            return rest.len() < SHORTEST;
        };
        let has_vr = !self.encoding.explicit || first.code.is_some();
        let length = first.length as usize;
        let fits = first.code.is_some() || length <= rest.len() - SHORTEST;
        !first.is_delimiter() && first.tag > tag && has_vr && fits
    }
}

fn fits(reading: Reading, end: usize) -> bool {
    let room = end.checked_sub(reading.start);
    reading.length == UNDEFINED || room.is_some_and(|room| reading.length as usize <= room)
}

/// VRs whose length has four bytes, behind two that are reserved.
fn is_long(vr: VR) -> bool {
    matches!(
        vr,
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
            | VR::UV
    )
}
