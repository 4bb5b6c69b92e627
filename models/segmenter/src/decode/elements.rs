//! A DICOM stream as a tree of elements, whose values are not looked at.
//!
//! Every length is held against the bytes that are there before anything depends on it, and nesting is bounded. Private
//! sequences and what is unknown are passed over: nothing here reads them. A sequence that is damaged loses its content, and its place
//! says why; it costs an image only where its content is asked for.

use dicom_core::dictionary::VirtualVr;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use super::error::DecodeError;
use super::format::Format;
use super::header::{
    Encoding, Header, ITEM, ITEM_END, Reader, SEQUENCE_END, SHORTEST, UNDEFINED, virtual_vr,
};

/// Real objects nest below ten levels.
const MAX_DEPTH: usize = 32;
const MAX_LOSSES: usize = 16;
/// Of file meta information: what is below is no part of a data set.
const FIRST_GROUP: u16 = 8;
pub(super) const PIXELS: [Tag; 3] = [
    tags::PIXEL_DATA,
    tags::FLOAT_PIXEL_DATA,
    tags::DOUBLE_FLOAT_PIXEL_DATA,
];

pub(super) struct Element<'a> {
    pub tag: Tag,
    /// As written, or that of the dictionary where none or UN is written.
    pub vr: VR,
    pub content: Content<'a>,
    pub big_endian: bool,
}

pub(super) enum Content<'a> {
    Value(&'a [u8]),
    Items(Vec<Vec<Element<'a>>>),
    /// Of encapsulated pixel data: the offset table and what follows it.
    Fragments(Vec<&'a [u8]>),
    /// A sequence that cannot be read.
    Damaged(Damage),
}

/// What is wrong with the element of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    tag: Tag,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The bytes end before it does.
    Cut,
    /// It is cut, but pixels stand behind its header.
    PastPixels,
    LongerThanItem,
    NoItem,
    NoHeader,
    Deep,
}

impl From<Damage> for DecodeError {
    fn from(Damage { tag, fault }: Damage) -> Self {
        let problem = match fault {
            Fault::Cut => {
                let format = Format::Dicom;
                return Self::Truncated { format };
            }
            Fault::PastPixels => "has a length that runs past the end of the file",
            Fault::LongerThanItem => "has a length that runs past the end of what holds it",
            Fault::NoItem => "holds something else where an item is due",
            Fault::NoHeader => "is followed by something that is no element",
            Fault::Deep => "nests deeper than 32 sequences",
        };
        Self::Element { tag, problem }
    }
}

/// All elements of a data set. What is damaged behind the pixels is no loss, and the pixels themselves are none where
/// `with_pixels` says that they are not asked for.
pub(super) fn read(
    bytes: &[u8],
    encoding: Encoding,
    with_pixels: bool,
) -> Result<Vec<Element<'_>>, DecodeError> {
    let mut walk = Walk::new(bytes, encoding);
    let mut found = Vec::new();
    let walked = walk.elements(bytes.len(), 0, &mut found);
    let has_pixels = found.iter().any(|element| PIXELS.contains(&element.tag));
    match walked {
        Err(damage) if has_pixels || !with_pixels && PIXELS.contains(&damage.tag) => {}
        walked => walked?,
    }
    Ok(found)
}

pub(super) struct Walk<'a> {
    pub reader: Reader<'a>,
    /// Damaged sequences behind which the walk may go on: each may have been walked to the end of the file.
    n_losses: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], encoding: Encoding) -> Self {
        let reader = Reader {
            bytes,
            position: 0,
            encoding,
        };
        Self {
            reader,
            n_losses: MAX_LOSSES,
        }
    }

    fn elements(
        &mut self,
        end: usize,
        depth: usize,
        found: &mut Vec<Element<'a>>,
    ) -> Result<(), Damage> {
        let mut last = Tag(0, 0);
        while end.saturating_sub(self.reader.position) >= SHORTEST {
            let start = self.reader.position;
            let Some(header) = self.reader.header(end) else {
                let rest = &self.reader.bytes[start..end];
                if rest.iter().all(|byte| *byte == rest[0]) {
                    return Ok(());
                }
                // The longest header has twelve bytes.
                let fault = if end == self.reader.bytes.len() && rest.len() < 12 {
                    Fault::Cut
                } else {
                    Fault::NoHeader
                };
                return Err(Damage { tag: last, fault });
            };
            match header.tag {
                ITEM_END if depth > 0 => return Ok(()),
                // The end of the item is missing.
                SEQUENCE_END | ITEM if depth > 0 => {
                    self.reader.position = start;
                    return Ok(());
                }
                SEQUENCE_END | ITEM_END | ITEM => continue,
                _ => last = header.tag,
            }
            let big_endian = self.reader.encoding.big_endian;
            let (vr, content) = self.content(&header, end, depth)?;
            if let Some(vr) = vr {
                found.push(Element {
                    tag: header.tag,
                    vr,
                    content,
                    big_endian,
                });
            }
        }
        Ok(())
    }

    /// The element's VR, or `None` where nothing reads it, and its content.
    pub(super) fn content(
        &mut self,
        header: &Header,
        end: usize,
        depth: usize,
    ) -> Result<(Option<VR>, Content<'a>), Damage> {
        let vr = known_vr(header);
        if PIXELS.contains(&header.tag) && header.length == UNDEFINED {
            return Ok((vr, Content::Fragments(self.fragments(header.tag, end)?)));
        }
        if header.length == UNDEFINED {
            return Ok((vr, self.open_sequence(header, end, depth)?));
        }
        let value = self.value(header, end, depth)?;
        if vr != Some(VR::SQ) {
            return Ok((vr, Content::Value(value)));
        }
        if !value.is_empty() && value.len() < SHORTEST {
            let fault = Fault::NoItem;
            let tag = header.tag;
            return Ok((vr, Content::Damaged(Damage { tag, fault })));
        }
        let mut inner = Self::new(self.reader.bytes, self.within(header));
        inner.reader.position = self.reader.position - value.len();
        let items = inner.items(header.tag, self.reader.position, depth + 1);
        Ok((vr, items.map_or_else(Content::Damaged, Content::Items)))
    }

    fn value(&mut self, header: &Header, end: usize, depth: usize) -> Result<&'a [u8], Damage> {
        let tag = header.tag;
        let (start, length) = (self.reader.position, header.length as usize);
        let bytes = self.reader.bytes;
        let mut stop = start.saturating_add(length);
        // An odd length may be rounded up where no byte is.
        if depth == 0 && PIXELS.contains(&tag) && stop == end + 1 {
            stop = end;
        }
        if stop > end {
            let is_before_pixels = || {
                let mut words = bytes[start..end].windows(4);
                words.any(|word| word == [0xe0, 0x7f, 0x10, 0] || word == [0x7f, 0xe0, 0, 0x10])
            };
            let is_of_pixels = tag == ITEM || PIXELS.contains(&tag);
            let fault = if end != bytes.len() {
                Fault::LongerThanItem
            } else if !is_of_pixels && is_before_pixels() {
                Fault::PastPixels
            } else {
                Fault::Cut
            };
            return Err(Damage { tag, fault });
        }
        self.reader.position = stop;
        Ok(&bytes[start..stop])
    }

    /// How the items of a sequence are encoded, unless they look otherwise.
    fn within(&self, header: &Header) -> Encoding {
        match header.vr {
            Some(VR::UN) => Encoding::IMPLICIT,
            _ => self.reader.encoding,
        }
    }

    /// A sequence of undefined length.
    fn open_sequence(
        &mut self,
        header: &Header,
        end: usize,
        depth: usize,
    ) -> Result<Content<'a>, Damage> {
        let (start, outer) = (self.reader.position, self.reader.encoding);
        self.reader.encoding = self.within(header);
        let items = self.items(header.tag, end, depth + 1);
        self.reader.encoding = outer;
        match items {
            Ok(items) => Ok(Content::Items(items)),
            Err(damage)
                if depth == 0
                    && self.n_losses > 0
                    && self.is_found_again(start, header.tag, end) =>
            {
                self.n_losses -= 1;
                Ok(Content::Damaged(damage))
            }
            Err(damage) => Err(damage),
        }
    }

    /// Moves behind the first delimiter after `start` that another element of the data set follows.
    fn is_found_again(&mut self, start: usize, tag: Tag, end: usize) -> bool {
        let big = [0xff, 0xfe, 0xe0, 0xdd, 0, 0, 0, 0];
        let little = [0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0];
        let delimiters = self.reader.bytes[start..end].windows(8).enumerate();
        let behind = delimiters
            .filter(|(_, bytes)| *bytes == little || *bytes == big)
            .map(|(at, _)| start + at + 8);
        for position in behind {
            self.reader.position = position;
            if self.reader.is_element(tag, end) {
                return true;
            }
        }
        false
    }

    fn items(
        &mut self,
        tag: Tag,
        end: usize,
        depth: usize,
    ) -> Result<Vec<Vec<Element<'a>>>, Damage> {
        let mut items = Vec::new();
        let damage = |fault| Damage { tag, fault };
        if depth > MAX_DEPTH {
            return Err(damage(Fault::Deep));
        }
        while end.saturating_sub(self.reader.position) >= SHORTEST {
            let start = self.reader.position;
            let header = self.reader.header(end).ok_or(damage(Fault::NoItem))?;
            match header.tag {
                SEQUENCE_END => break,
                // Of an item whose length is known as well.
                ITEM_END => {}
                ITEM => items.push(self.item(tag, &header, end, depth)?),
                // The end of the sequence is missing.
                next if next > tag && !items.is_empty() => {
                    self.reader.position = start;
                    break;
                }
                _ => return Err(damage(Fault::NoItem)),
            }
        }
        Ok(items)
    }

    fn item(
        &mut self,
        tag: Tag,
        header: &Header,
        end: usize,
        depth: usize,
    ) -> Result<Vec<Element<'a>>, Damage> {
        let start = self.reader.position;
        let item_end = match header.length {
            UNDEFINED => end,
            length => start.saturating_add(length as usize),
        };
        if item_end > end {
            let fault = if end == self.reader.bytes.len() {
                Fault::Cut
            } else {
                Fault::LongerThanItem
            };
            return Err(Damage { tag, fault });
        }
        let bytes = self.reader.bytes;
        let outer = self.reader.encoding;
        let encoding = Encoding {
            big_endian: bytes[start - SHORTEST] == 0xff,
            ..outer
        };
        self.reader.encoding = encoding.of_item(&bytes[start..item_end]);
        let mut elements = Vec::new();
        let walked = self.elements(item_end, depth, &mut elements);
        self.reader.encoding = outer;
        walked?;
        if header.length != UNDEFINED {
            self.reader.position = item_end;
        }
        Ok(elements)
    }

    fn fragments(&mut self, tag: Tag, end: usize) -> Result<Vec<&'a [u8]>, Damage> {
        let mut fragments = Vec::new();
        while end.saturating_sub(self.reader.position) >= SHORTEST {
            let start = self.reader.position;
            let header = self.reader.header(end);
            match header {
                Some(header) if header.tag == SEQUENCE_END => break,
                Some(header) if header.tag == ITEM => {
                    let value = self.value(&header, end, 1);
                    fragments.push(value.map_err(|damage| Damage { tag, ..damage })?);
                }
                _ => {
                    // The end of the sequence may be missing, but only where something else plainly begins.
                    self.reader.position = start;
                    let rest = &self.reader.bytes[start..end];
                    let is_padding = rest.iter().all(|byte| *byte == rest[0]);
                    if fragments.len() > 1 && (is_padding || self.reader.is_element(tag, end)) {
                        break;
                    }
                    let fault = Fault::NoItem;
                    return Err(Damage { tag, fault });
                }
            }
        }
        Ok(fragments)
    }
}

/// Longest value of a private element that is kept: a number, or the name of who made the block.
const PRIVATE_MAX_BYTES: u32 = 256;
/// Elements of a private group that say whose its blocks are (PS3.5 7.8.1).
const CREATORS: std::ops::RangeInclusive<u16> = 0x10..=0xff;

/// The VR by which a value is read. `None` for what nothing reads.
fn known_vr(header: &Header) -> Option<VR> {
    let group = header.tag.group();
    if group < FIRST_GROUP {
        return None;
    }
    if group % 2 == 1 {
        let is_short = header.length <= PRIVATE_MAX_BYTES && header.vr != Some(VR::SQ);
        return if CREATORS.contains(&header.tag.element()) {
            is_short.then_some(VR::LO)
        } else {
            is_short.then_some(header.vr.unwrap_or(VR::UN))
        };
    }
    match header.vr {
        // Bytes of any kind: the dictionary knows better what they are.
        None | Some(VR::UN | VR::OB | VR::OW) => match virtual_vr(header.tag) {
            Some(VirtualVr::Exact(vr)) => Some(vr),
            Some(VirtualVr::Xs) => Some(VR::US),
            Some(relaxed) => {
                let written = header.vr.filter(|vr| *vr != VR::UN);
                written.or(Some(relaxed.relaxed()))
            }
            None => None,
        },
        written => written,
    }
}
