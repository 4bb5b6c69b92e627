//! DICOM image objects to modality values: Modality LUT or rescale applied, window not.
//!
//! MONOCHROME1 (0 is white) is negated after that, so that bright tissue has high values in every
//! image. Padding has the lowest value of its frame. Colour is RGB as stored. 1-bit images are 0 and 1.

use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::time::Instant;

use contract::Image;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_encoding::transfer_syntax::{Codec, Endianness, TransferSyntax, TransferSyntaxIndex};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::{TransferSyntaxRegistry, entries};

use super::attributes::{integer, text};
use super::elements::{self, Encoding, Walk};
use super::lookup::{Modality, Palette};
use super::padding::{self, Padding};
use super::pixel_data::PixelData;
use super::pixels::{Layout, Number};
use super::spacing::Spacing;
use super::{DecodeError, Format, Identifiers, Limits, Scan, Shape, check, codecs, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Photometric {
    Monochrome1,
    Monochrome2,
    PaletteColor,
    Rgb,
    YbrFull,
    YbrFull422,
    /// JPEG 2000 with its own colour transform, which its decoder undoes.
    YbrOfCodec,
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

/// The data set's bytes, and how they are encoded.
fn split(bytes: &[u8]) -> Result<(&[u8], &'static TransferSyntax), DecodeError> {
    let start = match bytes {
        _ if bytes.get(128..132) == Some(b"DICM") => 132,
        _ if bytes.starts_with(b"DICM") => 4,
        _ => 0,
    };
    let rest = &bytes[start..];
    if !rest.starts_with(&[2, 0]) {
        let encoding = bare_encoding(rest).ok_or(DecodeError::Malformed {
            format: Format::Dicom,
            detail: "no file meta information".into(),
        })?;
        return Ok((rest, bare_transfer_syntax(encoding)));
    }
    let mut walk = Walk {
        bytes: rest,
        position: 0,
        encoding: Encoding {
            explicit: true,
            big_endian: false,
        },
    };
    let mut uid = None;
    while rest.get(walk.position..walk.position + 2) == Some(&[2, 0]) {
        let header = walk.header()?;
        let value = walk.skip(header.length)?;
        if header.tag == tags::TRANSFER_SYNTAX_UID {
            uid = Some(
                String::from_utf8_lossy(value)
                    .trim_matches(['\0', ' '])
                    .to_owned(),
            );
        }
    }
    let dataset = &rest[walk.position..];
    let Some(uid) = uid.filter(|uid| !uid.is_empty()) else {
        let encoding = bare_encoding(dataset).ok_or(DecodeError::Attribute {
            name: "TransferSyntaxUID",
            problem: "is missing",
        })?;
        return Ok((dataset, bare_transfer_syntax(encoding)));
    };
    let syntax = TransferSyntaxRegistry
        .get(&uid)
        .ok_or_else(|| codecs::unsupported(&uid))?;
    Ok((dataset, syntax))
}

/// An element of the file meta information, as text.
pub(super) fn meta(bytes: &[u8], tag: Tag) -> Option<String> {
    let rest = match bytes {
        _ if bytes.get(128..132) == Some(b"DICM") => &bytes[132..],
        _ if bytes.starts_with(b"DICM") => &bytes[4..],
        _ => bytes,
    };
    let mut walk = Walk {
        bytes: rest,
        position: 0,
        encoding: Encoding {
            explicit: true,
            big_endian: false,
        },
    };
    while rest.get(walk.position..walk.position + 2) == Some(&[2, 0]) {
        let header = walk.header().ok()?;
        let value = walk.skip(header.length).ok()?;
        if header.tag == tag {
            let value = String::from_utf8_lossy(value);
            let value = value.trim_matches(['\0', ' ']);
            return (!value.is_empty()).then(|| value.to_owned());
        }
    }
    None
}

fn bare_transfer_syntax(encoding: Encoding) -> &'static TransferSyntax {
    let uid = match (encoding.explicit, encoding.big_endian) {
        (_, true) => entries::EXPLICIT_VR_BIG_ENDIAN.uid(),
        (true, false) => uids::EXPLICIT_VR_LITTLE_ENDIAN,
        (false, false) => uids::IMPLICIT_VR_LITTLE_ENDIAN,
    };
    TransferSyntaxRegistry
        .get(uid)
        .expect("the three native syntaxes are always registered")
}

fn parse(
    dataset: &[u8],
    syntax: &TransferSyntax,
    limits: &Limits,
    before: Option<u16>,
) -> Result<InMemDicomObject, DecodeError> {
    let (dataset, syntax) = match syntax.codec() {
        Codec::Dataset(Some(adapter)) => {
            let mut inflated = Vec::new();
            let reader = adapter.adapt_reader(Box::new(Cursor::new(dataset)));
            let read = reader
                .take(limits.max_bytes.saturating_add(1))
                .read_to_end(&mut inflated);
            read.map_err(|_| DecodeError::Truncated {
                format: Format::Dicom,
            })?;
            check(
                "the inflated data set in bytes",
                inflated.len() as u64,
                limits.max_bytes,
            )?;
            (
                Cow::Owned(inflated),
                &entries::EXPLICIT_VR_LITTLE_ENDIAN.erased(),
            )
        }
        Codec::Dataset(None) => return Err(codecs::unsupported(syntax.uid())),
        _ => (Cow::Borrowed(dataset), syntax),
    };
    let encoding = Encoding {
        explicit: syntax.uid() != uids::IMPLICIT_VR_LITTLE_ENDIAN,
        big_endian: syntax.endianness() == Endianness::Big,
    };
    let dataset = match before {
        Some(group) => elements::before_group(&dataset, encoding, group)?,
        None => &dataset,
    };
    elements::check_lengths(dataset, encoding)?;
    InMemDicomObject::read_dataset_with_ts(dataset, syntax).map_err(|error| {
        // Only the outermost words: inner ones may repeat a value.
        DecodeError::Malformed {
            format: Format::Dicom,
            detail: error.to_string(),
        }
    })
}

/// The data set up to the first element of `group`.
pub(super) fn header(
    bytes: &[u8],
    limits: &Limits,
    group: u16,
) -> Result<InMemDicomObject, DecodeError> {
    let (dataset, syntax) = split(bytes)?;
    parse(dataset, syntax, limits, Some(group))
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Scan, DecodeError> {
    let start = Instant::now();
    let (dataset, syntax) = split(bytes)?;
    let object = parse(dataset, syntax, limits, None)?;
    let unknown_class = kind::check(&object)?;
    let frames = frames(&object, syntax, limits, start)?;
    Ok(Scan {
        spacing: Spacing::read(&object, frames.len()),
        frames,
        warnings: unknown_class.into_iter().collect(),
        modality: text(&object, tags::MODALITY).filter(|text| text.len() <= 16),
        format: Format::Dicom,
        identifiers: Identifiers {
            study_instance_uid: text(&object, tags::STUDY_INSTANCE_UID),
            sop_instance_uid: text(&object, tags::SOP_INSTANCE_UID),
            series_instance_uid: text(&object, tags::SERIES_INSTANCE_UID),
            patient_id: text(&object, tags::PATIENT_ID),
            instance_number: text(&object, tags::INSTANCE_NUMBER)
                .and_then(|number| number.parse().ok()),
        },
    })
}

fn frames(
    object: &InMemDicomObject,
    syntax: &TransferSyntax,
    limits: &Limits,
    start: Instant,
) -> Result<Vec<Image>, DecodeError> {
    let pixel_tags = [
        tags::PIXEL_DATA,
        tags::FLOAT_PIXEL_DATA,
        tags::DOUBLE_FLOAT_PIXEL_DATA,
    ];
    let Some(tag) = pixel_tags
        .into_iter()
        .find(|&tag| object.get(tag).is_some())
    else {
        return Err(DecodeError::NoPixelData);
    };
    let count = match integer(object, tags::NUMBER_OF_FRAMES, "NumberOfFrames")? {
        None | Some(0) => 1,
        Some(count) => count,
    };
    check_groups(object, count as usize)?;
    let (layout, photometric) = layout(object, tag)?;
    let palette = match photometric {
        Photometric::PaletteColor => Some(Palette::read(object)?),
        _ => None,
    };
    let channels = if palette.is_some() { 3 } else { layout.samples };
    let (rows, cols) = (layout.rows, layout.cols);
    let shape = Shape {
        rows: rows as u64,
        cols: cols as u64,
        channels: channels as u64,
        frames: count.into(),
    };
    shape.check(limits)?;
    let padding = Padding::read(object, tag, layout.number)?;
    let source = PixelData::open(object, tag, syntax, count as usize)?;
    let mut frames = Vec::new();
    for index in 0..count as usize {
        limits.check_time(start)?;
        let mut data = source.samples(index, layout, photometric)?;
        if let Some(palette) = &palette {
            data = palette.apply(&data);
        } else if channels == 1 {
            let padded = padding.and_then(|padding| padding.find(&data));
            let modality = Modality::read(object, index)?;
            modality.apply(&mut data);
            if photometric == Photometric::Monochrome1 {
                let [low, high] = modality.range(layout.range());
                for value in &mut data {
                    *value = low + high - *value;
                }
            }
            if let Some(padded) = padded {
                padding::fill(&mut data, &padded);
            }
        }
        frames.push(Image {
            rows,
            cols,
            channels,
            data,
        });
    }
    Ok(frames)
}

/// Frames without a group of their own would be read with the geometry and the rescale of nobody.
fn check_groups(object: &InMemDicomObject, n_frames: usize) -> Result<(), DecodeError> {
    let groups = object
        .get(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
        .and_then(|element| element.items())
        .unwrap_or_default();
    if groups.is_empty() || groups.len() == n_frames {
        return Ok(());
    }
    Err(DecodeError::Attribute {
        name: "PerFrameFunctionalGroupsSequence",
        problem: "has not one item for each frame",
    })
}

fn layout(object: &InMemDicomObject, tag: Tag) -> Result<(Layout, Photometric), DecodeError> {
    let number = |tag, name| integer(object, tag, name).map(|value| value.map(|n| n as usize));
    let required = |tag, name| {
        number(tag, name)?.ok_or(DecodeError::Attribute {
            name,
            problem: "is missing",
        })
    };
    let samples = number(tags::SAMPLES_PER_PIXEL, "SamplesPerPixel")?.unwrap_or(1);
    let photometric = photometric(object, samples)?;
    let allocated = match tag {
        tags::FLOAT_PIXEL_DATA => 32,
        tags::DOUBLE_FLOAT_PIXEL_DATA => 64,
        _ => required(tags::BITS_ALLOCATED, "BitsAllocated")?,
    };
    let is_float = tag != tags::PIXEL_DATA;
    if !(is_float || matches!(allocated, 1 | 8 | 16 | 32)) {
        return Err(DecodeError::Unsupported {
            what: format!("{allocated} bits allocated"),
        });
    }
    let stored = number(tags::BITS_STORED, "BitsStored")?.unwrap_or(allocated);
    let high_bit = number(tags::HIGH_BIT, "HighBit")?.unwrap_or(stored.saturating_sub(1));
    if stored == 0 || stored > allocated || high_bit >= allocated || high_bit + 1 < stored {
        let problem = "does not fit BitsAllocated and HighBit";
        return Err(DecodeError::Attribute {
            name: "BitsStored",
            problem,
        });
    }
    let layout = Layout {
        rows: required(tags::ROWS, "Rows")?,
        cols: required(tags::COLUMNS, "Columns")?,
        samples,
        allocated,
        stored,
        high_bit,
        number: match number(tags::PIXEL_REPRESENTATION, "PixelRepresentation")? {
            _ if is_float => Number::Float,
            Some(1) => Number::Signed,
            _ => Number::Unsigned,
        },
        planar: number(tags::PLANAR_CONFIGURATION, "PlanarConfiguration")? == Some(1),
        chroma_422: false,
    };
    Ok((layout, photometric))
}

fn photometric(object: &InMemDicomObject, samples: usize) -> Result<Photometric, DecodeError> {
    let name = text(object, tags::PHOTOMETRIC_INTERPRETATION);
    let photometric = match (name.as_deref(), samples) {
        (Some("MONOCHROME1"), 1) => Photometric::Monochrome1,
        (Some("MONOCHROME2") | None, 1) => Photometric::Monochrome2,
        (Some("PALETTE COLOR"), 1) => Photometric::PaletteColor,
        (Some("RGB"), 3) => Photometric::Rgb,
        (Some("YBR_FULL"), 3) => Photometric::YbrFull,
        (Some("YBR_FULL_422"), 3) => Photometric::YbrFull422,
        (Some("YBR_ICT" | "YBR_RCT"), 3) => Photometric::YbrOfCodec,
        _ => {
            let what = format!("this photometric interpretation with {samples} samples a pixel");
            return Err(DecodeError::Unsupported { what });
        }
    };
    Ok(photometric)
}
