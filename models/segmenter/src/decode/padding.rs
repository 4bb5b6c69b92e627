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
    #[expect(
        clippy::needless_bitwise_bool,
        reason = "without branches several values are compared at once"
    )]
    pub(super) fn find(&self, stored: &[f32]) -> Option<Vec<bool>> {
        // Stored values have single precision, so have these.
        let (low, high) = (self.low as f32, self.high as f32);
        let is_nan = low.is_nan();
        let is_padding = |value: f32| (value >= low) & (value <= high) | (is_nan & value.is_nan());
        let (mut below, mut above, mut any) = (false, false, false);
        for &value in stored {
            below |= value < low;
            above |= value > high;
            any |= is_padding(value);
        }
        (any && !(below && above)).then(|| stored.iter().map(|value| is_padding(*value)).collect())
    }
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
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches several values are compared at once"
)]
pub(super) fn fill(data: &mut [f32], padded: &[bool]) {
    let mut lowest = f32::INFINITY;
    for (&value, &padded) in data.iter().zip(padded) {
        let lower = (value < lowest) & value.is_finite() & !padded;
        lowest = if lower { value } else { lowest };
    }
    let lowest = lowest.is_finite().then_some(lowest);
    for (value, padded) in data.iter_mut().zip(padded) {
        if *padded && (lowest.is_some() || !value.is_finite()) {
            *value = lowest.unwrap_or_default();
        }
    }
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
