//! The attributes of a Segmentation object, module by module (PS3.3 A.51.3).

use std::collections::BTreeSet;

use contract::LabelMap;
use contract::manifest::Class;
use contract::mask::RleError;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_object::FileMetaTableBuilder;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::about::About;
use super::bits::Bits;
use super::element::{
    Object, cie_lab, code, cut, date_and_time, local_code, number, put_items, text,
};
use super::groups::{Dimensions, Frame, Layout, reference};
use super::slice::{Found, Slice};
use super::stack::Place;
use crate::decode::kind::{MANUFACTURER, MODEL_NAME};
use crate::decode::source::COPIED;

pub const SOP_CLASS_UID: &str = uids::SEGMENTATION_STORAGE;

#[derive(Debug, thiserror::Error)]
pub enum SegError {
    #[error("a segmentation needs at least one image")]
    NoImage,
    #[error(
        "the images differ in size, in what they say of their planes, or in frame of reference"
    )]
    Mixed,
    #[error("{0} frames are more than DICOM counts")]
    TooManyFrames(usize),
    #[error("a mask does not fit its image: {0}")]
    Mask(#[from] RleError),
    #[error("cannot encode the segmentation: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
}

pub(super) fn encode(
    slices: &[Slice],
    places: &[Place],
    about: &About,
) -> Result<Vec<u8>, SegError> {
    let frames = frames(slices, places, about.classes)?;
    let mut object = Object::new_empty();
    patient_and_study(&mut object, slices);
    series_and_equipment(&mut object, slices, about);
    image(&mut object, slices, about);
    put_items(
        &mut object,
        tags::SEGMENT_SEQUENCE,
        (1..)
            .zip(about.classes)
            .map(|(n, class)| segment(n, class, about)),
    );
    references(&mut object, slices, places);
    let has_planes = slices.iter().all(Slice::has_planes);
    let dimensions = Dimensions {
        by_position: has_planes,
    };
    dimensions.put(&mut object, about);
    let layout = Layout::of(slices, places, has_planes);
    let groups = frames.iter().map(|frame| layout.group(frame, &dimensions));
    put_items(
        &mut object,
        tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
        groups,
    );
    put_items(
        &mut object,
        tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
        [layout.shared()],
    );
    text(
        &mut object,
        tags::NUMBER_OF_FRAMES,
        VR::IS,
        &frames.len().to_string(),
    );
    let mut bits = Bits::default();
    for frame in &frames {
        let mut labels = LabelMap::new(slices[0].rows, slices[0].cols);
        if let Some(found) = frame.found {
            found.mask.paint(&mut labels, 1)?;
        }
        bits.push(&labels);
    }
    let pixels = PrimitiveValue::U8(bits.finish().into());
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, pixels));
    write(object, about)
}

fn write(object: Object, about: &About) -> Result<Vec<u8>, SegError> {
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .media_storage_sop_class_uid(SOP_CLASS_UID)
        .media_storage_sop_instance_uid(&about.sop_instance_uid);
    let file = object
        .with_meta(meta)
        .map_err(|error| SegError::Encode(error.into()))?;
    let mut bytes = Vec::new();
    file.write_all(&mut bytes)
        .map_err(|error| SegError::Encode(error.into()))?;
    Ok(bytes)
}

/// Why a file is no segmentation that can be sent.
#[derive(Debug, thiserror::Error)]
#[error("the file is no DICOM object: {0}")]
pub struct DataSetError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The data set of a file that [`super::encode`] made, in implicit or explicit VR little endian.
pub fn data_set(file: &[u8], implicit: bool) -> Result<Vec<u8>, DataSetError> {
    let object = dicom_object::from_reader(file).map_err(|error| DataSetError(error.into()))?;
    let syntax = if implicit {
        uids::IMPLICIT_VR_LITTLE_ENDIAN
    } else {
        uids::EXPLICIT_VR_LITTLE_ENDIAN
    };
    let syntax = TransferSyntaxRegistry
        .get(syntax)
        .expect("the native syntaxes are always registered");
    let mut bytes = Vec::with_capacity(file.len());
    object
        .write_dataset_with_ts(&mut bytes, syntax)
        .map_err(|error| DataSetError(error.into()))?;
    Ok(bytes)
}

/// Below it every class has a frame in every place.
const ALL_FRAMES_MAX_BITS: usize = 1 << 30;

/// Classes first, then places. Readers take the outermost frames for the ends of the volume, so each
/// place has a frame, also where nothing was found: one for each class, or for the first one where
/// these would be too many.
fn frames<'a>(
    slices: &'a [Slice],
    places: &'a [Place],
    classes: &[Class],
) -> Result<Vec<Frame<'a>>, SegError> {
    let (rows, cols) = (slices[0].rows, slices[0].cols);
    let all = rows * cols * places.len() * classes.len() <= ALL_FRAMES_MAX_BITS;
    let mut frames = Vec::new();
    for (segment, class) in (1..).zip(classes) {
        for place in places {
            let slice = &slices[place.slice];
            let here = |found: &&Found| found.frame == place.frame && found.class == class.id;
            let found = slice.masks.iter().find(here);
            if found.is_none() && segment > 1 && !all {
                continue;
            }
            frames.push(Frame {
                segment,
                place,
                found,
            });
        }
    }
    match i32::try_from(frames.len()) {
        Ok(1..) => Ok(frames),
        Ok(_) => Err(SegError::NoImage),
        Err(_) => Err(SegError::TooManyFrames(frames.len())),
    }
}

fn patient_and_study(object: &mut Object, slices: &[Slice]) {
    // Type 2: present, even without a value.
    for (tag, vr) in [
        (tags::PATIENT_NAME, VR::PN),
        (tags::PATIENT_ID, VR::LO),
        (tags::PATIENT_BIRTH_DATE, VR::DA),
        (tags::PATIENT_SEX, VR::CS),
        (tags::STUDY_DATE, VR::DA),
        (tags::STUDY_TIME, VR::TM),
        (tags::STUDY_ID, VR::SH),
        (tags::ACCESSION_NUMBER, VR::SH),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
    ] {
        object.put(DataElement::new(tag, vr, PrimitiveValue::Empty));
    }
    let source = &slices[0].source;
    for (tag, vr) in COPIED {
        let number = u32::from(tag.group()) << 16 | u32::from(tag.element());
        let value = source.copied.iter().find(|(tag, _)| *tag == number);
        if let Some((_, value)) = value {
            text(object, tag, vr, value);
        }
    }
    if !source.deidentified.is_empty() {
        let codes = source.deidentified.iter();
        let codes = codes.map(|[value, scheme, meaning]| code(value, scheme, meaning));
        put_items(object, tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE, codes);
    }
    text(
        object,
        tags::STUDY_INSTANCE_UID,
        VR::UI,
        &source.study_instance_uid,
    );
}

fn series_and_equipment(object: &mut Object, slices: &[Slice], about: &About) {
    let (date, time) = date_and_time(about.made_at);
    let version = format!(
        "{}\\{}",
        cut(about.software_version),
        cut(about.model_version)
    );
    let description = format!("{} {}", about.model_name, about.volume);
    for (tag, vr, value) in [
        (tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
        (tags::MODALITY, VR::CS, "SEG"),
        (
            tags::SERIES_INSTANCE_UID,
            VR::UI,
            &*about.series_instance_uid,
        ),
        (tags::SERIES_NUMBER, VR::IS, "1"),
        (tags::SERIES_DESCRIPTION, VR::LO, &cut(&description)),
        (tags::MANUFACTURER, VR::LO, MANUFACTURER),
        (tags::MANUFACTURER_MODEL_NAME, VR::LO, MODEL_NAME),
        (tags::DEVICE_SERIAL_NUMBER, VR::LO, about.node),
        (tags::SOFTWARE_VERSIONS, VR::LO, &version),
        (tags::SOP_CLASS_UID, VR::UI, SOP_CLASS_UID),
        (tags::SOP_INSTANCE_UID, VR::UI, &about.sop_instance_uid),
        (tags::INSTANCE_CREATION_DATE, VR::DA, &date),
        (tags::INSTANCE_CREATION_TIME, VR::TM, &time),
        (tags::CONTENT_DATE, VR::DA, &date),
        (tags::CONTENT_TIME, VR::TM, &time),
    ] {
        text(object, tag, vr, value);
    }
    let source = &slices[0].source;
    if let (true, Some(uid)) = (slices[0].has_planes(), &source.frame_of_reference_uid) {
        text(object, tags::FRAME_OF_REFERENCE_UID, VR::UI, uid);
        if object.get(tags::POSITION_REFERENCE_INDICATOR).is_none() {
            text(object, tags::POSITION_REFERENCE_INDICATOR, VR::LO, "");
        }
    }
}

fn image(object: &mut Object, slices: &[Slice], about: &About) {
    let description = format!("{}; for research, not a medical device", about.model_name);
    for (tag, vr, value) in [
        (tags::IMAGE_TYPE, VR::CS, "DERIVED\\PRIMARY"),
        (
            tags::INSTANCE_NUMBER,
            VR::IS,
            &*about.instance_number.to_string(),
        ),
        (tags::CONTENT_LABEL, VR::CS, "SCANSIDE"),
        (tags::CONTENT_DESCRIPTION, VR::LO, &cut(&description)),
        (tags::CONTENT_CREATOR_NAME, VR::PN, MANUFACTURER),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        (tags::SEGMENTATION_TYPE, VR::CS, "BINARY"),
        (tags::SEGMENTS_OVERLAP, VR::CS, "NO"),
    ] {
        text(object, tag, vr, value);
    }
    if !slices.iter().all(Slice::has_planes) {
        // Required where there are no planes, and each image may have another.
        text(object, tags::PATIENT_ORIENTATION, VR::CS, "");
    }
    let lossy = slices.iter().find_map(|slice| slice.source.lossy.as_ref());
    let word = if lossy.is_some() { "01" } else { "00" };
    text(object, tags::LOSSY_IMAGE_COMPRESSION, VR::CS, word);
    if let Some((ratio, method)) = lossy {
        text(object, tags::LOSSY_IMAGE_COMPRESSION_RATIO, VR::DS, ratio);
        text(object, tags::LOSSY_IMAGE_COMPRESSION_METHOD, VR::CS, method);
    }
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, slices[0].rows),
        (tags::COLUMNS, slices[0].cols),
        (tags::BITS_ALLOCATED, 1),
        (tags::BITS_STORED, 1),
        (tags::HIGH_BIT, 0),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        number(object, tag, value as u16);
    }
}

fn segment(n: u16, class: &Class, about: &About) -> Object {
    let mut item = Object::new_empty();
    number(&mut item, tags::SEGMENT_NUMBER, n);
    let label = cut(&class.label);
    text(&mut item, tags::SEGMENT_LABEL, VR::LO, &label);
    text(&mut item, tags::SEGMENT_ALGORITHM_TYPE, VR::CS, "AUTOMATIC");
    let algorithm = format!("{} {}", about.model_name, about.model_version);
    text(
        &mut item,
        tags::SEGMENT_ALGORITHM_NAME,
        VR::LO,
        &cut(&algorithm),
    );
    let (category, kind) = match &class.snomed {
        Some(value) => (
            code("123037004", "SCT", "Anatomical Structure"),
            code(value, "SCT", &label),
        ),
        // Nobody said what it is, so it is a place.
        None => (
            code("309825002", "SCT", "Spatial and Relational Concept"),
            code(&local_code(&class.label), "99SCANSIDE", &label),
        ),
    };
    let sequence = tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE;
    put_items(&mut item, sequence, [category]);
    put_items(
        &mut item,
        tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE,
        [kind],
    );
    let color = PrimitiveValue::U16(cie_lab(class.color).as_slice().into());
    let tag = tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE;
    item.put(DataElement::new(tag, VR::US, color));
    item
}

/// In the order of the frames: there are readers that go by it.
fn references(object: &mut Object, slices: &[Slice], places: &[Place]) {
    let mut series = Object::new_empty();
    let uid = &slices[0].source.series_instance_uid;
    text(&mut series, tags::SERIES_INSTANCE_UID, VR::UI, uid);
    let mut seen = BTreeSet::new();
    let objects = places.iter().map(|place| place.slice);
    let objects = objects.filter(|slice| seen.insert(*slice));
    let instances: Vec<Object> = objects.map(|slice| reference(&slices[slice])).collect();
    put_items(&mut series, tags::REFERENCED_INSTANCE_SEQUENCE, instances);
    put_items(object, tags::REFERENCED_SERIES_SEQUENCE, [series]);
}

#[cfg(test)]
mod tests;
