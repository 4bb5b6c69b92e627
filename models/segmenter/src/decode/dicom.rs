//! DICOM image objects to modality values: Modality LUT or rescale applied, window not.
//!
//! MONOCHROME1 (0 is white) is negated after that, so that bright tissue has high values in every
//! image. Padding has the lowest value of its frame. Colour is RGB as stored. 1-bit images are 0 and 1.

use std::time::Instant;

use contract::Image;
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_encoding::transfer_syntax::TransferSyntax;
use dicom_object::InMemDicomObject;

use super::attributes::{integer, present, text, whole};
use super::dataset::{self, DataSet};
use super::elements::PIXELS;
use super::error::DecodeError;
use super::format::Format;
use super::kind;
use super::limits::{Limits, Shape};
use super::lookup::{Modality, Palette};
use super::padding::{self, Padding};
use super::pixel_data::PixelData;
use super::pixels::{Layout, Number, Photometric};
use super::scan::{Identifiers, Scan};
use super::spacing::Spacing;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Scan, DecodeError> {
    let start = Instant::now();
    let DataSet { object, syntax, .. } = dataset::read(bytes, limits, true)?;
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
            instance_number: whole(&object, tags::INSTANCE_NUMBER),
        },
    })
}

fn frames(
    object: &InMemDicomObject,
    syntax: &TransferSyntax,
    limits: &Limits,
    start: Instant,
) -> Result<Vec<Image>, DecodeError> {
    let Some(tag) = PIXELS.into_iter().find(|&tag| object.get(tag).is_some()) else {
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
    // What says nothing of these pixels is not read.
    let if_integer = |tag, name| {
        if is_float {
            Ok(None)
        } else {
            number(tag, name)
        }
    };
    let stored = if_integer(tags::BITS_STORED, "BitsStored")?.unwrap_or(allocated);
    let high_bit = if_integer(tags::HIGH_BIT, "HighBit")?.unwrap_or(stored.saturating_sub(1));
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
        number: match if_integer(tags::PIXEL_REPRESENTATION, "PixelRepresentation")? {
            _ if is_float => Number::Float,
            Some(1) => Number::Signed,
            _ => Number::Unsigned,
        },
        planar: samples > 1
            && number(tags::PLANAR_CONFIGURATION, "PlanarConfiguration")? == Some(1),
        chroma_422: false,
    };
    Ok((layout, photometric))
}

fn photometric(object: &InMemDicomObject, samples: usize) -> Result<Photometric, DecodeError> {
    let tag = tags::PHOTOMETRIC_INTERPRETATION;
    let name = text(object, tag).map(|name| name.to_uppercase());
    if name.is_none() && present(object, tag).is_some() {
        return Err(DecodeError::Attribute {
            name: "PhotometricInterpretation",
            problem: "is no text",
        });
    }
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
