//! Is a DICOM object an image of a patient? What only describes one (segmentations, parametric maps, dose, plans,
//! presentation states, reports, documents, waveforms, raw data) may have pixels and still is none.
//!
//! Our own objects come first: a PACS that sends on everything it gets sends our segmentations back, and
//! a segmentation of a segmentation would go round for ever.

use dicom_core::Tag;
use dicom_core::dictionary::UidDictionary;
use dicom_dictionary_std::{StandardSopClassDictionary, tags, uids};
use dicom_object::InMemDicomObject;

use super::attributes::text;
use super::error::DecodeError;
use crate::warning::Warning;

/// What everything that this program writes has as Manufacturer and as Manufacturer's Model Name.
pub const MANUFACTURER: &str = "Scanside";
pub const MODEL_NAME: &str = "scansided";

/// Refuses what is no image of a patient. An SOP class that the standard does not have is taken for an image, with a
/// warning: vendors have classes of their own for images that they have no other place for.
pub(super) fn check(object: &InMemDicomObject) -> Result<Option<Warning>, DecodeError> {
    let class = text(object, tags::SOP_CLASS_UID);
    let known = class.as_deref().map(|uid| {
        let entry = StandardSopClassDictionary.by_uid(uid);
        entry.map(|entry| (entry.uid, entry.name))
    });
    if is_ours(object) {
        let what = known
            .flatten()
            .map_or("of no known SOP class", |known| known.1);
        return Err(DecodeError::OwnObject { what });
    }
    let refusal = |what| Err(DecodeError::NoPatientImage { what });
    if let Some(Some((uid, name))) = known
        && !is_image_class(uid, name)
    {
        return refusal(format!("its SOP class is {name}"));
    }
    if let Some((_, keyword)) = MARKS.iter().find(|(tag, _)| object.get(*tag).is_some()) {
        return refusal(format!("it has a {keyword}"));
    }
    let modality = text(object, tags::MODALITY).unwrap_or_default();
    if let Some(modality) = MODALITIES.iter().find(|known| **known == modality) {
        return refusal(format!("its Modality is {modality}"));
    }
    let image_type = text(object, tags::IMAGE_TYPE).unwrap_or_default();
    let mut words = image_type.split('\\').map(str::trim);
    if let Some(word) = words.find_map(|word| IMAGE_TYPES.iter().find(|known| **known == word)) {
        return refusal(format!("its ImageType says {word}"));
    }
    Ok((known == Some(None)).then_some(Warning::SopClassUnknown))
}

/// Image storage classes of the standard are called so, but for one.
fn is_image_class(uid: &str, name: &str) -> bool {
    name.contains("Image Storage") || uid == uids::ENHANCED_US_VOLUME_STORAGE
}

/// What only objects have that are no images, whatever class they claim.
const MARKS: [(Tag, &str); 4] = [
    (tags::SEGMENT_SEQUENCE, "SegmentSequence"),
    (tags::SEGMENTATION_TYPE, "SegmentationType"),
    (tags::DOSE_GRID_SCALING, "DoseGridScaling"),
    (tags::ENCAPSULATED_DOCUMENT, "EncapsulatedDocument"),
];

/// Modalities (PS3.3 C.7.3.1.1.1) of which no object is an image, so that an object of an image class which has one is
/// a picture of something else.
const MODALITIES: [&str; 19] = [
    "SEG",
    "RWV",
    "RTDOSE",
    "RTPLAN",
    "RTSTRUCT",
    "RTRECORD",
    "RTINTENT",
    "RTRAD",
    "PR",
    "KO",
    "SR",
    "DOC",
    "REG",
    "FID",
    "SMR",
    "PLAN",
    "ANN",
    "M3D",
    "TEXTUREMAP",
];

const IMAGE_TYPES: [&str; 3] = ["SEG", "SEGMENTATION", "LABELMAP"];

/// Also what others made of an object of ours, and captures of our pictures.
fn is_ours(object: &InMemDicomObject) -> bool {
    let equipment = (tags::MANUFACTURER, tags::MANUFACTURER_MODEL_NAME);
    let capture = (
        tags::SECONDARY_CAPTURE_DEVICE_MANUFACTURER,
        tags::SECONDARY_CAPTURE_DEVICE_MANUFACTURER_MODEL_NAME,
    );
    let says = |object: &InMemDicomObject, (manufacturer, model)| {
        let is = |tag, word: &str| {
            text(object, tag).is_some_and(|text| text.trim().eq_ignore_ascii_case(word))
        };
        is(manufacturer, MANUFACTURER) && is(model, MODEL_NAME)
    };
    let contributors = object
        .get(tags::CONTRIBUTING_EQUIPMENT_SEQUENCE)
        .and_then(|element| element.items())
        .unwrap_or_default();
    says(object, equipment)
        || says(object, capture)
        || contributors.iter().any(|item| says(item, equipment))
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, PrimitiveValue, VR};

    use super::*;

    fn object(texts: &[(Tag, &str)]) -> InMemDicomObject {
        let elements = texts
            .iter()
            .map(|&(tag, text)| DataElement::new(tag, VR::LO, text));
        InMemDicomObject::from_element_iter(elements)
    }

    /// The code, or the warning's, or "image".
    fn verdict(object: &InMemDicomObject) -> &'static str {
        match check(object) {
            Ok(None) => "image",
            Ok(Some(warning)) => warning.code(),
            Err(error) => error.kind(),
        }
    }

    fn of_class(uid: &str) -> &'static str {
        verdict(&object(&[(tags::SOP_CLASS_UID, uid)]))
    }

    #[test]
    fn classes_are_images_or_they_are_not() {
        #[expect(deprecated, reason = "old archives have what was retired")]
        let images = [
            uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE,
            uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
            uids::DIGITAL_MAMMOGRAPHY_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
            uids::CT_IMAGE_STORAGE,
            uids::ENHANCED_CT_IMAGE_STORAGE,
            uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE,
            uids::MR_IMAGE_STORAGE,
            uids::ENHANCED_MR_IMAGE_STORAGE,
            uids::ENHANCED_MR_COLOR_IMAGE_STORAGE,
            uids::ULTRASOUND_IMAGE_STORAGE,
            uids::ULTRASOUND_IMAGE_STORAGE_RETIRED,
            uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE,
            uids::ENHANCED_US_VOLUME_STORAGE,
            uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
            uids::MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE_IMAGE_STORAGE,
            uids::X_RAY_ANGIOGRAPHIC_IMAGE_STORAGE,
            uids::BREAST_TOMOSYNTHESIS_IMAGE_STORAGE,
            uids::NUCLEAR_MEDICINE_IMAGE_STORAGE,
            uids::POSITRON_EMISSION_TOMOGRAPHY_IMAGE_STORAGE,
            uids::RT_IMAGE_STORAGE,
            uids::OPHTHALMIC_TOMOGRAPHY_IMAGE_STORAGE,
            uids::VL_WHOLE_SLIDE_MICROSCOPY_IMAGE_STORAGE,
            uids::VIDEO_ENDOSCOPIC_IMAGE_STORAGE,
        ];
        for uid in images {
            assert_eq!(of_class(uid), "image", "{uid}");
        }
        for uid in [
            uids::SEGMENTATION_STORAGE,
            uids::LABEL_MAP_SEGMENTATION_STORAGE,
            uids::HEIGHT_MAP_SEGMENTATION_STORAGE,
            uids::SURFACE_SEGMENTATION_STORAGE,
            uids::PARAMETRIC_MAP_STORAGE,
            uids::REAL_WORLD_VALUE_MAPPING_STORAGE,
            uids::RT_DOSE_STORAGE,
            uids::RT_PLAN_STORAGE,
            uids::RT_STRUCTURE_SET_STORAGE,
            uids::GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE,
            uids::COLOR_SOFTCOPY_PRESENTATION_STATE_STORAGE,
            uids::BLENDING_SOFTCOPY_PRESENTATION_STATE_STORAGE,
            uids::ENCAPSULATED_PDF_STORAGE,
            uids::ENCAPSULATED_CDA_STORAGE,
            uids::ENCAPSULATED_STL_STORAGE,
            uids::ENCAPSULATED_OBJ_STORAGE,
            uids::ENCAPSULATED_MTL_STORAGE,
            uids::COMPREHENSIVE_SR_STORAGE,
            uids::KEY_OBJECT_SELECTION_DOCUMENT_STORAGE,
            uids::TWELVE_LEAD_ECG_WAVEFORM_STORAGE,
            uids::RAW_DATA_STORAGE,
            uids::MR_SPECTROSCOPY_STORAGE,
            uids::SPATIAL_FIDUCIALS_STORAGE,
            uids::SPATIAL_REGISTRATION_STORAGE,
            uids::DEFORMABLE_SPATIAL_REGISTRATION_STORAGE,
            uids::TRACTOGRAPHY_RESULTS_STORAGE,
            uids::STEREOMETRIC_RELATIONSHIP_STORAGE,
            uids::OPHTHALMIC_THICKNESS_MAP_STORAGE,
            uids::CORNEAL_TOPOGRAPHY_MAP_STORAGE,
            uids::HANGING_PROTOCOL_STORAGE,
            uids::COLOR_PALETTE_STORAGE,
        ] {
            assert_eq!(of_class(uid), "no_patient_image", "{uid}");
        }
        // Philips' own, and one that the standard does not have yet.
        for uid in ["1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.9999"] {
            assert_eq!(of_class(uid), "sop_class_unknown", "{uid}");
        }
        assert_eq!(verdict(&object(&[])), "image", "nobody says what it is");
    }

    #[test]
    fn a_class_can_be_wrong_about_its_object() {
        let with =
            |tag, text| object(&[(tags::SOP_CLASS_UID, uids::MR_IMAGE_STORAGE), (tag, text)]);
        for (tag, text, expected) in [
            (tags::MODALITY, "MR", "image"),
            (tags::MODALITY, "SEG", "no_patient_image"),
            (tags::MODALITY, "RTDOSE", "no_patient_image"),
            (tags::MODALITY, "RTIMAGE", "image"),
            (
                tags::IMAGE_TYPE,
                "DERIVED\\PRIMARY\\SEGMENTATION",
                "no_patient_image",
            ),
            (tags::IMAGE_TYPE, "DERIVED\\SECONDARY\\MPR", "image"),
            (tags::DOSE_GRID_SCALING, "0.01", "no_patient_image"),
            (tags::MANUFACTURER, "Scanside", "image"),
        ] {
            assert_eq!(verdict(&with(tag, text)), expected, "{tag} {text}");
        }
        let mut unnamed = object(&[]);
        let segments = DataElement::new(tags::SEGMENT_SEQUENCE, VR::SQ, PrimitiveValue::Empty);
        unnamed.put(segments);
        assert_eq!(verdict(&unnamed), "no_patient_image");
    }

    #[test]
    fn what_is_ours_is_known_whatever_it_claims_to_be() {
        use dicom_core::value::DataSetSequence;
        let ours = [
            (tags::MANUFACTURER, "SCANSIDE "),
            (tags::MANUFACTURER_MODEL_NAME, " scansided"),
        ];
        let capture = [
            (tags::SOP_CLASS_UID, uids::SECONDARY_CAPTURE_IMAGE_STORAGE),
            (tags::SECONDARY_CAPTURE_DEVICE_MANUFACTURER, "Scanside"),
            (
                tags::SECONDARY_CAPTURE_DEVICE_MANUFACTURER_MODEL_NAME,
                "scansided",
            ),
        ];
        assert_eq!(verdict(&object(&ours)), "own_object");
        assert_eq!(verdict(&object(&capture)), "own_object");
        let mut derived = object(&[(tags::SOP_CLASS_UID, uids::MR_IMAGE_STORAGE)]);
        derived.put(DataElement::new(
            tags::CONTRIBUTING_EQUIPMENT_SEQUENCE,
            VR::SQ,
            DataSetSequence::from(vec![object(&ours)]),
        ));
        assert_eq!(verdict(&derived), "own_object");
        // The phantom's files are images.
        let phantom = [(tags::MANUFACTURER, "Scanside phantom")];
        assert_eq!(verdict(&object(&phantom)), "image");
    }
}
