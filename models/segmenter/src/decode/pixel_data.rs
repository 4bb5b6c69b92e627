//! PixelData to stored values, frame by frame: native, encapsulated or floating point.

use std::borrow::Cow;

use dicom_core::value::Value;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_encoding::transfer_syntax::{Codec, Endianness, TransferSyntax};
use dicom_object::InMemDicomObject;

use super::attributes::integer;
use super::error::DecodeError;
use super::format::Format;
use super::pixels::{Layout, Photometric, ybr_to_rgb};
use super::{codecs, fragments};

/// Where the frames' bytes come from.
pub(super) enum PixelData<'a> {
    Native {
        bytes: Cow<'a, [u8]>,
        count: usize,
    },
    Encapsulated {
        frames: Vec<Cow<'a, [u8]>>,
        transfer_syntax: &'a str,
    },
    Float {
        values: Vec<f32>,
        count: usize,
    },
}

impl<'a> PixelData<'a> {
    pub(super) fn open(
        object: &'a InMemDicomObject,
        tag: Tag,
        syntax: &'a TransferSyntax,
        count: usize,
    ) -> Result<Self, DecodeError> {
        let element = object.get(tag).ok_or(DecodeError::NoPixelData)?;
        let is_native = matches!(syntax.codec(), Codec::None | Codec::Dataset(_));
        match element.value() {
            Value::PixelSequence(_) if is_native => Err(DecodeError::Attribute {
                name: "TransferSyntaxUID",
                problem: "names uncompressed pixels, but PixelData is encapsulated (compressed)",
            }),
            Value::Primitive(_) if !is_native && tag == tags::PIXEL_DATA => {
                Err(DecodeError::Attribute {
                    name: "TransferSyntaxUID",
                    problem: "names compressed pixels, but PixelData is not encapsulated",
                })
            }
            Value::PixelSequence(sequence) => {
                let (parts, table) = (sequence.fragments(), sequence.offset_table());
                let frames = fragments::frames(parts, table, count)?;
                Ok(Self::Encapsulated {
                    frames,
                    transfer_syntax: syntax.uid(),
                })
            }
            Value::Primitive(value) if tag != tags::PIXEL_DATA => {
                let values = value
                    .to_multi_float32()
                    .map_err(|_| DecodeError::Attribute {
                        name: "FloatPixelData",
                        problem: "has no numbers",
                    })?;
                Ok(Self::Float { values, count })
            }
            Value::Primitive(value) => {
                let mut bytes = value.to_bytes();
                let is_word = element.vr() == VR::OW;
                let allocated = integer(object, tags::BITS_ALLOCATED, "BitsAllocated")?;
                if is_word && syntax.endianness() == Endianness::Big && allocated == Some(32) {
                    // OW was swapped in units of 16 bits; samples of 32 bits need their halves too.
                    bytes
                        .to_mut()
                        .chunks_exact_mut(4)
                        .for_each(|word| word.rotate_left(2));
                }
                Ok(Self::Native { bytes, count })
            }
            Value::Sequence(_) => Err(DecodeError::NoPixelData),
        }
    }

    /// Stored values of one frame, interleaved; colour as RGB.
    pub(super) fn samples(
        &self,
        index: usize,
        layout: Layout,
        photometric: Photometric,
    ) -> Result<Vec<f32>, DecodeError> {
        let truncated = DecodeError::Truncated {
            format: Format::Dicom,
        };
        let (mut data, is_ybr, bits) = match self {
            Self::Float { values, count } => {
                let size = layout.rows * layout.cols * layout.samples;
                // Values of 32 bits need no padding.
                if values.len() > count * size {
                    return Err(too_long("FloatPixelData"));
                }
                let frame = values
                    .get(index * size..(index + 1) * size)
                    .ok_or(truncated)?;
                return Ok(frame.to_vec());
            }
            Self::Native { bytes, count } => {
                // Some writers say 422 and store all three samples.
                let shared = Layout {
                    chroma_422: true,
                    ..layout
                };
                let chroma_422 = photometric == Photometric::YbrFull422
                    && bytes.len() < layout.bytes(*count)
                    && bytes.len() >= shared.bytes(*count);
                if chroma_422 && !layout.cols.is_multiple_of(2) {
                    let what = "YBR_FULL_422 with an odd number of columns".into();
                    return Err(DecodeError::Unsupported { what });
                }
                let layout = Layout {
                    chroma_422,
                    ..layout
                };
                if bytes.len() < layout.bytes(*count) {
                    return Err(truncated);
                }
                if index == 0 {
                    check_surplus(bytes, layout, *count)?;
                }
                let ybr = [Photometric::YbrFull, Photometric::YbrFull422];
                (
                    layout.samples(bytes, index)?,
                    ybr.contains(&photometric),
                    layout.stored,
                )
            }
            Self::Encapsulated {
                frames,
                transfer_syntax,
            } => {
                let frame = frames.get(index).ok_or(truncated)?;
                let values = codecs::decode(frame, transfer_syntax, layout, photometric)?;
                (values.data, values.is_ybr, values.bits)
            }
        };
        if is_ybr {
            ybr_to_rgb(&mut data, bits);
        }
        Ok(data)
    }
}

/// What lies behind the last frame is padding where it is less than a row and a column, or zeros. More says that an
/// attribute is wrong and then perhaps every pixel, as zeros do that would make each row or column of them longer by one.
fn check_surplus(bytes: &[u8], layout: Layout, count: usize) -> Result<(), DecodeError> {
    let surplus = &bytes[layout.bytes(count)..];
    let pixel = layout.bytes(1) / (layout.rows * layout.cols);
    let line = count * layout.rows.min(layout.cols) * pixel.max(1);
    let is_line = surplus.len() >= line.min(layout.bytes(1)).max(2);
    let is_zero = surplus.iter().all(|&byte| byte == 0);
    let is_one_line = |side: usize| surplus.len() == count * side * pixel;
    let is_larger = is_one_line(layout.rows) || is_one_line(layout.cols);
    if is_line && (!is_zero || is_larger) {
        return Err(too_long("PixelData"));
    }
    Ok(())
}

fn too_long(name: &'static str) -> DecodeError {
    DecodeError::Attribute {
        name,
        problem: "is longer than Rows, Columns, BitsAllocated and NumberOfFrames say",
    }
}
