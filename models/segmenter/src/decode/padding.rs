//! Pixels that are no part of the image (Pixel Padding Value, PS3.3 C.7.5.1.1.2): the corners outside of a round field of
//! view, often far below every real value. They are found among stored values, before rescale, and get the lowest real
//! value of their frame: to window and percentile they are its darkest tissue, and not a value of their own.

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attributes::present;
use super::error::DecodeError;
use super::pixels::Number;

/// Stored values from `low` to `high` are padding. Of floating-point pixels NaN can be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Padding {
    low: f64,
    high: f64,
}

impl Padding {
    pub(super) fn read(
        object: &InMemDicomObject,
        pixels: Tag,
        number: Number,
    ) -> Result<Option<Self>, DecodeError> {
        let (value, limit) = match pixels {
            tags::FLOAT_PIXEL_DATA => (
                tags::FLOAT_PIXEL_PADDING_VALUE,
                tags::FLOAT_PIXEL_PADDING_RANGE_LIMIT,
            ),
            tags::DOUBLE_FLOAT_PIXEL_DATA => (
                tags::DOUBLE_FLOAT_PIXEL_PADDING_VALUE,
                tags::DOUBLE_FLOAT_PIXEL_PADDING_RANGE_LIMIT,
            ),
            _ => (tags::PIXEL_PADDING_VALUE, tags::PIXEL_PADDING_RANGE_LIMIT),
        };
        let Some(value) = stored_value(object, value, "PixelPaddingValue", number)? else {
            return Ok(None);
        };
        let limit = stored_value(object, limit, "PixelPaddingRangeLimit", number)?;
        let limit = limit.unwrap_or(value);
        Ok(Some(Self {
            low: value.min(limit),
            high: value.max(limit),
        }))
    }

    /// Which of the stored values are padding; `None` when none is. Padding lies at an end of the values: a zero amid
    /// signed ones may be tissue as well as padding, and stays what it is.
    pub(super) fn find(&self, stored: &[f32]) -> Option<Vec<bool>> {
        // Stored values have single precision, so have these.
        let (low, high) = (self.low as f32, self.high as f32);
        if low.is_nan() {
            let padded: Vec<bool> = stored.iter().map(|value| value.is_nan()).collect();
            return padded.contains(&true).then_some(padded);
        }
        let lowest = extreme(
            stored,
            |lowest, value| if value < lowest { value } else { lowest },
        );
        let highest = extreme(
            stored,
            |highest, value| if value > highest { value } else { highest },
        );
        let is_below = lowest? >= low && lowest? <= high;
        let is_above = highest? <= high && highest? >= low;
        let is_padding = |value: &f32| (low..=high).contains(value);
        (is_below || is_above).then(|| stored.iter().map(is_padding).collect())
    }
}

/// The one of `values` that `better` prefers to all others; `None` of no number at all. Eight are compared at once.
fn extreme(values: &[f32], better: impl Fn(f32, f32) -> f32) -> Option<f32> {
    let first = *values.iter().find(|value| !value.is_nan())?;
    let (blocks, rest) = values.as_chunks::<8>();
    let mut best = [first; 8];
    for block in blocks {
        for (best, &value) in best.iter_mut().zip(block) {
            *best = better(*best, value);
        }
    }
    Some(
        best.iter()
            .chain(rest)
            .fold(first, |best, &value| better(best, value)),
    )
}

/// As a stored value. Whether 16 bits have a sign is what the pixels say: files have -2000 as US 63536 beside
/// signed pixels, and as SS beside unsigned ones.
fn stored_value(
    object: &InMemDicomObject,
    tag: Tag,
    name: &'static str,
    number: Number,
) -> Result<Option<f64>, DecodeError> {
    let Some(element) = present(object, tag) else {
        return Ok(None);
    };
    let bad = |_| DecodeError::Attribute {
        name,
        problem: "is no number",
    };
    if number == Number::Float {
        // Single precision, as the decoded values are.
        let value = element.to_float64().map_err(bad)?;
        return Ok(Some(f64::from(value as f32)));
    }
    let bits = match (element.vr(), element.to_bytes().as_deref()) {
        (VR::UN | VR::OB, Ok(&[low, high])) => u16::from_le_bytes([low, high]),
        _ => element.to_int::<i32>().map_err(bad)? as u16,
    };
    Ok(Some(match number {
        Number::Signed => f64::from(bits as i16),
        _ => f64::from(bits),
    }))
}

/// Gives padded pixels the lowest finite value of the others; where there is no other, finite ones stay as they are.
pub(super) fn fill(data: &mut [f32], padded: &[bool]) {
    let lowest = lowest_real(data, padded);
    if lowest.is_finite() {
        for (value, padded) in data.iter_mut().zip(padded) {
            *value = if *padded { lowest } else { *value };
        }
    } else {
        for (value, _) in data.iter_mut().zip(padded).filter(|(_, padded)| **padded) {
            *value = if value.is_finite() { *value } else { 0.0 };
        }
    }
}

/// Infinity where nothing is left. Eight values are compared at once.
fn lowest_real(data: &[f32], padded: &[bool]) -> f32 {
    let lower = |lowest: f32, value: f32, padded: bool| {
        // What is padded or no number is as good as infinite.
        let value = if padded || value == f32::NEG_INFINITY {
            f32::INFINITY
        } else {
            value
        };
        if value < lowest { value } else { lowest }
    };
    let ((blocks, rest), (marks, rest_marks)) = (data.as_chunks::<8>(), padded.as_chunks::<8>());
    let mut best = [f32::INFINITY; 8];
    for (block, marks) in blocks.iter().zip(marks) {
        for lane in 0..8 {
            best[lane] = lower(best[lane], block[lane], marks[lane]);
        }
    }
    let best = best
        .iter()
        .fold(f32::INFINITY, |best, &value| lower(best, value, false));
    let rest = rest.iter().zip(rest_marks);
    rest.fold(best, |best, (&value, &padded)| lower(best, value, padded))
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, PrimitiveValue};

    use super::*;

    fn read(number: Number, elements: &[(Tag, VR, PrimitiveValue)]) -> Option<Padding> {
        let elements = elements.iter();
        let elements = elements.map(|(tag, vr, value)| DataElement::new(*tag, *vr, value.clone()));
        let object = InMemDicomObject::from_element_iter(elements);
        let pixels = match number {
            Number::Float => tags::FLOAT_PIXEL_DATA,
            _ => tags::PIXEL_DATA,
        };
        Padding::read(&object, pixels, number).unwrap()
    }

    fn range(low: f64, high: f64) -> Padding {
        Padding { low, high }
    }

    #[test]
    fn the_pixels_say_whether_it_has_a_sign() {
        let value = tags::PIXEL_PADDING_VALUE;
        let limit = tags::PIXEL_PADDING_RANGE_LIMIT;
        let unsigned = (value, VR::US, PrimitiveValue::from(63_536_u16));
        let signed = (value, VR::SS, PrimitiveValue::from(-2000_i16));
        let bytes = PrimitiveValue::from(63_536_u16.to_le_bytes().to_vec());
        for padding in [unsigned, signed.clone(), (value, VR::UN, bytes)] {
            let padding = [padding];
            assert_eq!(
                read(Number::Signed, &padding),
                Some(range(-2000.0, -2000.0))
            );
            assert_eq!(
                read(Number::Unsigned, &padding),
                Some(range(63_536.0, 63_536.0))
            );
        }
        let upper = (limit, VR::US, PrimitiveValue::from(64_512_u16));
        let both = [signed, upper];
        assert_eq!(read(Number::Signed, &both), Some(range(-2000.0, -1024.0)));
        assert_eq!(
            read(Number::Unsigned, &both),
            Some(range(63_536.0, 64_512.0))
        );
        assert_eq!(read(Number::Unsigned, &[]), None);
        let float = (
            tags::FLOAT_PIXEL_PADDING_VALUE,
            VR::FL,
            PrimitiveValue::from(-1e30_f32),
        );
        assert_eq!(
            read(Number::Float, &[float]),
            Some(range(f64::from(-1e30_f32), f64::from(-1e30_f32)))
        );
    }

    #[test]
    fn padding_gets_the_lowest_real_value() {
        let padding = range(-2000.0, -1000.0);
        // Values on both sides: it cannot be told from tissue.
        assert_eq!(padding.find(&[-2001.0, -1500.0, 3.0]), None);
        let mut data = [-2000.0, 3.0, -999.0, f32::NAN, -1500.0];
        let padded = padding.find(&data).unwrap();
        fill(&mut data, &padded);
        assert_eq!(data[..3], [-999.0, 3.0, -999.0]);
        assert!(data[3].is_nan());
        assert_eq!(data[4..], [-999.0]);
        assert_eq!(padding.find(&data), None);
        let mut all = [-1100.0; 2];
        let padded = padding.find(&all).unwrap();
        fill(&mut all, &padded);
        assert_eq!(all.to_vec(), [-1100.0; 2]);
        let nan = range(f64::NAN, f64::NAN);
        assert_eq!(nan.find(&[f32::NAN, 0.0]), Some(vec![true, false]));
    }
}
