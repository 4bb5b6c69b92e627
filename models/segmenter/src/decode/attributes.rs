//! Attributes of a data set, read strictly: absent and empty are `None`, unreadable is an error.

use dicom_core::Tag;
use dicom_core::value::PrimitiveValue;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::error::DecodeError;

/// The element, if it is there and not empty.
pub(super) fn present(object: &InMemDicomObject, tag: Tag) -> Option<&InMemElement> {
    let element = object.get(tag)?;
    let blank = element
        .to_str()
        .is_ok_and(|text| text.trim_matches(['\0', ' ']).is_empty());
    (!blank).then_some(element)
}

/// The number that an attribute of one value holds. Some writers store a number as text, or repeat it.
fn single(element: &InMemElement) -> Result<f64, &'static str> {
    let numbers = match element.value().primitive() {
        Some(PrimitiveValue::Strs(words)) => words
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().ok())
            .collect(),
        Some(_) => element.to_multi_float64().ok(),
        None => None,
    };
    let numbers: Vec<f64> = numbers.ok_or("is no number")?;
    match numbers[..] {
        [first, ref others @ ..] if others.iter().all(|other| other.total_cmp(&first).is_eq()) => {
            Ok(first)
        }
        _ => Err("has several values, where one is due"),
    }
}

pub(super) fn integer(
    object: &InMemDicomObject,
    tag: Tag,
    name: &'static str,
) -> Result<Option<u32>, DecodeError> {
    let read = |element: &InMemElement| {
        let number = single(element)?;
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_whole
            .then_some(number as u32)
            .ok_or("is no whole number above zero")
    };
    let read = |element| read(element).map_err(|problem| DecodeError::Attribute { name, problem });
    present(object, tag).map(read).transpose()
}

pub(super) fn float(
    object: &InMemDicomObject,
    tag: Tag,
    name: &'static str,
) -> Result<Option<f64>, DecodeError> {
    let read = |element: &InMemElement| {
        let number = single(element)?;
        let finite = number.is_finite().then_some(number);
        finite.ok_or("is no finite number")
    };
    let read = |element| read(element).map_err(|problem| DecodeError::Attribute { name, problem });
    present(object, tag).map(read).transpose()
}

/// An integer that costs nothing where it is unreadable.
pub(super) fn whole(object: &InMemDicomObject, tag: Tag) -> Option<i64> {
    let number = single(present(object, tag)?).ok()?;
    let is_exact = number.fract() == 0.0 && number.abs() < 1e15;
    is_exact.then_some(number as i64)
}

pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let text = present(object, tag)?.to_str().ok()?;
    Some(text.trim_matches(['\0', ' ']).to_owned())
}

pub(super) fn item(object: &InMemDicomObject, tag: Tag, index: usize) -> Option<&InMemDicomObject> {
    object.get(tag)?.items()?.get(index)
}

/// The functional group `tag` of a frame of an enhanced object, or the one all frames share.
pub(super) fn functional_group(
    object: &InMemDicomObject,
    tag: Tag,
    frame: usize,
) -> Option<&InMemDicomObject> {
    functional_groups(object, tag, frame).next()
}

/// The functional group `tag` of a frame, then the one all frames share; the standard allows one of them.
pub(super) fn functional_groups(
    object: &InMemDicomObject,
    tag: Tag,
    frame: usize,
) -> impl Iterator<Item = &InMemDicomObject> {
    let of_frame = item(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, frame);
    let shared = item(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, 0);
    let groups = [of_frame, shared].into_iter().flatten();
    groups.filter_map(move |group| item(group, tag, 0))
}
