//! A tree of elements to values by tag: numbers in this machine's byte order, text as Unicode.
//!
//! A value that cannot be read is kept as something that is neither number nor text, so that whoever needs it learns
//! that it is there and unreadable, and nobody else does.

use dicom_core::dictionary::VirtualVr;
use dicom_core::value::{C, DataSetSequence, PixelFragmentSequence, PrimitiveValue, Value};
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::charset::{Charset, Text};
use super::elements::{Content, Element, PIXELS};
use super::error::DecodeError;
use super::header::virtual_vr;

/// What decides about pixels, where they lie and whose they are. Only these may cost an image: by a sequence that is
/// damaged, or by two values that differ.
const NEEDED: [Tag; 38] = [
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::MODALITY,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::IMAGE_POSITION_PATIENT,
    tags::IMAGE_ORIENTATION_PATIENT,
    tags::PLANE_POSITION_SEQUENCE,
    tags::PLANE_ORIENTATION_SEQUENCE,
    tags::SAMPLES_PER_PIXEL,
    tags::PHOTOMETRIC_INTERPRETATION,
    tags::PLANAR_CONFIGURATION,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::COLUMNS,
    tags::PIXEL_SPACING,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::RESCALE_INTERCEPT,
    tags::RESCALE_SLOPE,
    tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::MODALITY_LUT_SEQUENCE,
    tags::LUT_DESCRIPTOR,
    tags::LUT_DATA,
    tags::PIXEL_MEASURES_SEQUENCE,
    tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE,
    tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
    tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
    tags::PIXEL_DATA,
    tags::FLOAT_PIXEL_DATA,
    tags::DOUBLE_FLOAT_PIXEL_DATA,
    tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE,
];

/// Of look-up tables: beside the pixels and private ones, no other binary value is read.
const GROUP_OF_TABLES: u16 = 0x0028;

/// Why the text of an attribute is not what its writer meant for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    Guessed,
    Unreadable,
}

/// What holds for an item unless it says otherwise.
#[derive(Clone)]
struct Context {
    charset: Charset,
    is_signed: bool,
    /// Within what decides about pixels.
    is_needed: bool,
}

pub(super) struct Reading {
    pub with_pixels: bool,
    /// Texts whose character set did not say what they are.
    pub doubts: Vec<(Tag, Doubt)>,
}

impl Reading {
    pub(super) fn object(
        &mut self,
        elements: &[Element<'_>],
    ) -> Result<InMemDicomObject, DecodeError> {
        let outer = Context {
            charset: Charset::Absent,
            is_signed: false,
            is_needed: true,
        };
        self.level(elements, &outer)
    }

    fn level(
        &mut self,
        elements: &[Element<'_>],
        outer: &Context,
    ) -> Result<InMemDicomObject, DecodeError> {
        let mut context = outer.clone();
        for element in elements {
            match (element.tag, &element.content) {
                (tags::SPECIFIC_CHARACTER_SET, Content::Value(bytes)) => {
                    context.charset = Charset::named(bytes);
                }
                (tags::PIXEL_REPRESENTATION, Content::Value(bytes)) => {
                    context.is_signed = bytes.iter().any(|byte| matches!(byte, 1 | b'1'));
                }
                _ => {}
            }
        }
        let mut object = InMemDicomObject::new_empty();
        let mut needed: Vec<&Element<'_>> = Vec::new();
        for element in elements {
            let tag = element.tag;
            let is_needed = context.is_needed && NEEDED.contains(&tag);
            let first = needed.iter().find(|first| first.tag == tag);
            if first.is_some_and(|first| !same(first, element)) {
                let problem = "stands twice, with different values";
                return Err(DecodeError::Element { tag, problem });
            }
            if object.get(tag).is_some() {
                continue;
            }
            if is_needed {
                needed.push(element);
            }
            let context = Context {
                is_needed,
                ..context.clone()
            };
            if let Some(element) = self.element(element, &context)? {
                object.put(element);
            }
        }
        Ok(object)
    }

    fn element(
        &mut self,
        element: &Element<'_>,
        context: &Context,
    ) -> Result<Option<InMemElement>, DecodeError> {
        let tag = element.tag;
        let mut vr = element.vr;
        let value = match &element.content {
            Content::Damaged(damage) if context.is_needed => return Err((*damage).into()),
            Content::Damaged(_) => unreadable(),
            Content::Items(items) => {
                let items: Result<Vec<_>, _> =
                    items.iter().map(|item| self.level(item, context)).collect();
                DataSetSequence::from(items?).into()
            }
            Content::Fragments(parts) => {
                let table: &[u8] = parts.first().copied().unwrap_or_default();
                let fragments = parts.get(1..).unwrap_or_default();
                let table = match table.as_chunks::<4>() {
                    (offsets, []) => offsets.iter().copied().map(u32::from_le_bytes).collect(),
                    _ => Vec::new(),
                };
                let wanted = if self.with_pixels { fragments } else { &[] };
                let fragments: Vec<Vec<u8>> = wanted.iter().map(|part| part.to_vec()).collect();
                PixelFragmentSequence::new(table, fragments).into()
            }
            Content::Value(bytes) => {
                if PIXELS.contains(&tag) && !self.with_pixels {
                    return Ok(None);
                }
                vr = signed_as_pixels(element, context.is_signed);
                self.value(element, vr, bytes, context)
            }
        };
        Ok(Some(DataElement::new(tag, vr, value)))
    }

    fn value(
        &mut self,
        element: &Element<'_>,
        vr: VR,
        bytes: &[u8],
        context: &Context,
    ) -> Value<InMemDicomObject, Vec<u8>> {
        let big = element.big_endian;
        let group = element.tag.group();
        if bytes.is_empty() {
            return PrimitiveValue::Empty.into();
        }
        let number = match vr {
            VR::US => numbers(bytes, big, u16::from_le_bytes).map(PrimitiveValue::U16),
            VR::SS => numbers(bytes, big, i16::from_le_bytes).map(PrimitiveValue::I16),
            VR::UL => numbers(bytes, big, u32::from_le_bytes).map(PrimitiveValue::U32),
            VR::SL => numbers(bytes, big, i32::from_le_bytes).map(PrimitiveValue::I32),
            VR::UV | VR::OV => numbers(bytes, big, u64::from_le_bytes).map(PrimitiveValue::U64),
            VR::SV => numbers(bytes, big, i64::from_le_bytes).map(PrimitiveValue::I64),
            VR::FL => numbers(bytes, big, f32::from_le_bytes).map(PrimitiveValue::F32),
            VR::FD => numbers(bytes, big, f64::from_le_bytes).map(PrimitiveValue::F64),
            VR::AT => {
                let tag = |four: [u8; 4]| {
                    let number = u32::from_le_bytes(four);
                    if big {
                        Tag((number >> 16) as u16, number as u16)
                    } else {
                        Tag(number as u16, (number >> 16) as u16)
                    }
                };
                numbers(bytes, big, tag).map(PrimitiveValue::Tags)
            }
            VR::OF if PIXELS.contains(&element.tag) => {
                numbers(bytes, big, f32::from_le_bytes).map(PrimitiveValue::F32)
            }
            VR::OD if PIXELS.contains(&element.tag) => {
                numbers(bytes, big, f64::from_le_bytes).map(PrimitiveValue::F64)
            }
            VR::OB | VR::OW | VR::OL | VR::OD | VR::OF | VR::UN => {
                let is_read =
                    group == GROUP_OF_TABLES || group % 2 == 1 || PIXELS.contains(&element.tag);
                // That it is there may count.
                return if is_read {
                    words(bytes, big && vr == VR::OW).into()
                } else {
                    PrimitiveValue::Empty.into()
                };
            }
            VR::SQ => None,
            _ => return self.text(element.tag, vr, bytes, context),
        };
        number.map_or_else(unreadable, Value::from)
    }

    fn text(
        &mut self,
        tag: Tag,
        vr: VR,
        bytes: &[u8],
        context: &Context,
    ) -> Value<InMemDicomObject, Vec<u8>> {
        if bytes.len() > TEXT_MAX_BYTES {
            self.doubts.push((tag, Doubt::Unreadable));
            return unreadable();
        }
        let text = match context.charset.decode(bytes, vr == VR::PN) {
            Text::Known(text) => text,
            Text::Guessed(text) => {
                self.doubts.push((tag, Doubt::Guessed));
                text
            }
            Text::Unreadable => {
                self.doubts.push((tag, Doubt::Unreadable));
                return unreadable();
            }
        };
        if matches!(vr, VR::LT | VR::ST | VR::UT | VR::UR) {
            let text = text.trim_end_matches(['\0', ' ']);
            return PrimitiveValue::Str(text.to_owned()).into();
        }
        let values = text.split('\\');
        let values: C<String> = values
            .map(|value| value.trim_matches(['\0', ' ']).to_owned())
            .collect();
        PrimitiveValue::Strs(values).into()
    }
}

/// Nothing that is read is longer; each value of a list takes many times its bytes.
const TEXT_MAX_BYTES: usize = 1 << 16;

/// What is no number, no text and no sequence.
fn unreadable() -> Value<InMemDicomObject, Vec<u8>> {
    PixelFragmentSequence::new(Vec::new(), Vec::<Vec<u8>>::new()).into()
}

fn same(one: &Element<'_>, other: &Element<'_>) -> bool {
    match (&one.content, &other.content) {
        (Content::Value(one), Content::Value(other)) => one == other,
        _ => false,
    }
}

/// US or SS, where the dictionary leaves it to PixelRepresentation, and writers to chance.
fn signed_as_pixels(element: &Element<'_>, is_signed: bool) -> VR {
    let vr = element.vr;
    let is_open = matches!(vr, VR::US | VR::SS)
        && element.tag.group() == GROUP_OF_TABLES
        && virtual_vr(element.tag) == Some(VirtualVr::Xs);
    if !is_open {
        vr
    } else if is_signed {
        VR::SS
    } else {
        VR::US
    }
}

/// `None` where the bytes end within a number.
fn numbers<const N: usize, T>(
    bytes: &[u8],
    big: bool,
    from: impl Fn([u8; N]) -> T,
) -> Option<C<T>> {
    let (numbers, []) = bytes.as_chunks::<N>() else {
        return None;
    };
    let number = |&(mut number): &[u8; N]| {
        if big {
            number.reverse();
        }
        from(number)
    };
    Some(numbers.iter().map(number).collect())
}

/// Bytes, or words of two bytes as little endian.
fn words(bytes: &[u8], is_swapped: bool) -> PrimitiveValue {
    let mut bytes = bytes.to_vec();
    if is_swapped {
        for word in bytes.as_chunks_mut::<2>().0 {
            word.reverse();
        }
    }
    PrimitiveValue::U8(C::from_vec(bytes))
}
