//! Attributes of a data set, read strictly: absent and empty are `None`, unreadable is an error.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::DecodeError;

/// The element, if it is there and not empty.
pub(super) fn present(object: &InMemDicomObject, tag: Tag) -> Option<&InMemElement> {
    let element = object.get(tag)?;
    let blank = element
        .to_str()
        .is_ok_and(|text| text.trim_matches(['\0', ' ']).is_empty());
    (!blank).then_some(element)
}

pub(super) fn integer(
    object: &InMemDicomObject,
    tag: Tag,
    name: &'static str,
) -> Result<Option<u32>, DecodeError> {
    let read = |element: &InMemElement| {
        let problem = "is no whole number above zero";
        element
            .to_int::<u32>()
            .map_err(|_| DecodeError::Attribute { name, problem })
    };
    present(object, tag).map(read).transpose()
}

pub(super) fn float(
    object: &InMemDicomObject,
    tag: Tag,
    name: &'static str,
) -> Result<Option<f64>, DecodeError> {
    let read = |element: &InMemElement| match element.to_float64() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(DecodeError::Attribute {
            name,
            problem: "is no finite number",
        }),
    };
    present(object, tag).map(read).transpose()
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
