//! Look-up tables and rescale: stored values to modality values or to colours.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attributes::{float, functional_groups, item, present};
use super::error::DecodeError;

/// LUT Descriptor and LUT Data (PS3.3 C.11.1.1): values below the first index take the first entry,
/// values above the last one the last.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    first: f32,
    entries: Vec<f32>,
}

impl Table {
    fn read(object: &InMemDicomObject, descriptor: Tag, data: Tag) -> Result<Self, DecodeError> {
        let bad = |problem| DecodeError::Attribute {
            name: "look-up table",
            problem,
        };
        let numbers = present(object, descriptor)
            .and_then(|element| element.to_multi_int::<i32>().ok())
            .filter(|numbers| numbers.len() == 3)
            .ok_or_else(|| bad("has no descriptor of three numbers"))?;
        // The count is unsigned, and 0 stands for 65536.
        let count = match (numbers[0] & 0xffff) as usize {
            0 => 1 << 16,
            count => count,
        };
        let element = present(object, data).ok_or_else(|| bad("has no data"))?;
        let bytes = element.to_bytes().map_err(|_| bad("has no binary data"))?;
        let entries: Vec<f32> = if bytes.len() >= count * 2 {
            let words = bytes.chunks_exact(2).take(count);
            words
                .map(|word| f32::from(u16::from_le_bytes([word[0], word[1]])))
                .collect()
        } else if bytes.len() >= count {
            bytes[..count].iter().map(|&byte| f32::from(byte)).collect()
        } else {
            return Err(bad("has fewer entries than its descriptor says"));
        };
        Ok(Self {
            first: numbers[1] as f32,
            entries,
        })
    }

    fn get(&self, value: f32) -> f32 {
        let index = (value - self.first).max(0.0) as usize;
        self.entries[index.min(self.entries.len() - 1)]
    }
}

/// Stored values to modality values.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Modality {
    Linear { slope: f64, intercept: f64 },
    Table(Table),
}

impl Modality {
    /// Of one frame: what its functional group says, else the shared one, else the object.
    pub(super) fn read(object: &InMemDicomObject, frame: usize) -> Result<Self, DecodeError> {
        let place = tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE;
        for group in functional_groups(object, place, frame) {
            match rescale(group)? {
                (None, None) => {}
                (Some(slope), Some(intercept)) => return Ok(Self::Linear { slope, intercept }),
                // Both or none (PS3.3 C.7.6.16.2.9): half of another group's rescale is nobody's.
                (slope, _) => {
                    let name = match slope {
                        Some(_) => "RescaleIntercept",
                        None => "RescaleSlope",
                    };
                    let problem = "is missing in a PixelValueTransformationSequence";
                    return Err(DecodeError::Attribute { name, problem });
                }
            }
        }
        if let Some(table) = item(object, tags::MODALITY_LUT_SEQUENCE, 0) {
            return Table::read(table, tags::LUT_DESCRIPTOR, tags::LUT_DATA).map(Self::Table);
        }
        let (slope, intercept) = rescale(object)?;
        let (slope, intercept) = (slope.unwrap_or(1.0), intercept.unwrap_or(0.0));
        Ok(Self::Linear { slope, intercept })
    }

    /// Modality values of the lowest and the highest stored value.
    pub(super) fn range(&self, mut stored: [f32; 2]) -> [f32; 2] {
        match self {
            Self::Linear { .. } => self.apply(&mut stored),
            Self::Table(table) => {
                let entries = table.entries.iter().copied();
                stored = [
                    entries.clone().fold(f32::INFINITY, f32::min),
                    entries.fold(f32::NEG_INFINITY, f32::max),
                ];
            }
        }
        stored
    }

    pub(super) fn apply(&self, data: &mut [f32]) {
        match self {
            Self::Linear { slope, intercept } => {
                if (*slope, *intercept) == (1.0, 0.0) {
                    return;
                }
                for value in data {
                    *value = (f64::from(*value) * slope + intercept) as f32;
                }
            }
            Self::Table(table) => data.iter_mut().for_each(|value| *value = table.get(*value)),
        }
    }
}

/// Rescale Slope and Intercept.
fn rescale(object: &InMemDicomObject) -> Result<(Option<f64>, Option<f64>), DecodeError> {
    Ok((
        float(object, tags::RESCALE_SLOPE, "RescaleSlope")?,
        float(object, tags::RESCALE_INTERCEPT, "RescaleIntercept")?,
    ))
}

/// Red, green and blue of PALETTE COLOR, entries as stored (8 or 16 bits).
pub(super) struct Palette([Table; 3]);

impl Palette {
    pub(super) fn read(object: &InMemDicomObject) -> Result<Self, DecodeError> {
        if present(object, tags::SEGMENTED_RED_PALETTE_COLOR_LOOKUP_TABLE_DATA).is_some() {
            return Err(DecodeError::Unsupported {
                what: "a segmented palette".into(),
            });
        }
        Ok(Self([
            Table::read(
                object,
                tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
                tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            )?,
            Table::read(
                object,
                tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
                tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            )?,
            Table::read(
                object,
                tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
                tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            )?,
        ]))
    }

    pub(super) fn apply(&self, indices: &[f32]) -> Vec<f32> {
        indices
            .iter()
            .flat_map(|&index| self.0.each_ref().map(|table| table.get(index)))
            .collect()
    }
}
