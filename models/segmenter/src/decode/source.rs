//! What a DICOM Segmentation repeats of the image it was made from: whose it is, which object, and
//! where its frames lie.
//!
//! This is patient data. It is `Serialize`, unlike [`super::Identifiers`], because a segmentation is
//! written when its series is complete, perhaps after a restart; it belongs into the state directory
//! and into the segmentation, and nowhere else. `Debug` says nothing.

use std::fmt;

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde::{Deserialize, Serialize};

use super::acquisition::{self, Acquisition};
use super::attributes::{functional_group, integer, text, whole};
use super::dataset::{self, meta};
use super::error::{DecodeError, with_keyword};
use super::format::Format;
use super::limits::Limits;
use super::magic::sniff;
use super::object::Doubt;

/// Every element of these is text; what is empty or absent in the image is left out of [`Source`].
pub const COPIED: [(Tag, VR); 24] = [
    (tags::STUDY_DATE, VR::DA),
    (tags::STUDY_TIME, VR::TM),
    (tags::ACCESSION_NUMBER, VR::SH),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
    (tags::STUDY_DESCRIPTION, VR::LO),
    (tags::PATIENT_NAME, VR::PN),
    (tags::PATIENT_ID, VR::LO),
    (tags::ISSUER_OF_PATIENT_ID, VR::LO),
    (tags::PATIENT_BIRTH_DATE, VR::DA),
    (tags::PATIENT_SEX, VR::CS),
    (tags::PATIENT_AGE, VR::AS),
    (tags::PATIENT_SIZE, VR::DS),
    (tags::PATIENT_WEIGHT, VR::DS),
    (tags::PATIENT_IDENTITY_REMOVED, VR::CS),
    (tags::DEIDENTIFICATION_METHOD, VR::LO),
    (tags::CLINICAL_TRIAL_SPONSOR_NAME, VR::LO),
    (tags::CLINICAL_TRIAL_PROTOCOL_ID, VR::LO),
    (tags::CLINICAL_TRIAL_PROTOCOL_NAME, VR::LO),
    (tags::CLINICAL_TRIAL_SITE_ID, VR::LO),
    (tags::CLINICAL_TRIAL_SITE_NAME, VR::LO),
    (tags::CLINICAL_TRIAL_SUBJECT_ID, VR::LO),
    (tags::STUDY_ID, VR::SH),
    (tags::POSITION_REFERENCE_INDICATOR, VR::LO),
    (tags::TIMEZONE_OFFSET_FROM_UTC, VR::SH),
];

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub sop_class_uid: String,
    pub sop_instance_uid: String,
    pub study_instance_uid: String,
    pub series_instance_uid: String,
    pub frame_of_reference_uid: Option<String>,
    pub instance_number: i64,
    /// Frames of this object are referred to by their number.
    pub is_multi_frame: bool,
    /// One for each frame, or none: then the object does not say where each of its frames lies.
    pub planes: Vec<Plane>,
    /// Numbers of the tags of [`COPIED`] with their values.
    pub copied: Vec<(u32, String)>,
    /// By what methods the patient's identity was removed: value, scheme and meaning of each code.
    pub deidentified: Vec<[String; 3]>,
    /// Ratio and method of a lossy compression, as the image has them.
    pub lossy: Option<(String, String)>,
    /// One for each frame, or one for all.
    #[serde(default)]
    pub acquisitions: Vec<Acquisition>,
    /// One of its UIDs is none by PS3.5 section 9.1, and is repeated as it is.
    #[serde(default)]
    pub has_odd_uid: bool,
}

/// Why no segmentation can refer to an image.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("{0} is missing; let the sender write it")]
    Missing(&'static str),
    #[error(
        "{0} is no UID and cannot stand for one; let the sender write digits and dots, 64 at most"
    )]
    NoUid(&'static str),
}

impl SourceError {
    /// Stable word of `warnings` in a result.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decode(error) => error.kind(),
            Self::Missing(_) => "uid_missing",
            Self::NoUid(_) => "uid_invalid",
        }
    }
}

/// Where a frame lies, in the words of its image, so that no digit changes.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Plane {
    pub position: String,
    pub orientation: String,
    /// Between rows, between columns.
    pub spacing: String,
    pub thickness: Option<String>,
}

impl Source {
    /// Of a frame, from 0.
    pub fn acquisition(&self, frame: usize) -> Option<&Acquisition> {
        self.acquisitions.get(frame).or(self.acquisitions.first())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source(hidden)")
    }
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plane(hidden)")
    }
}

/// Reads everything but the pixels. `None` for what is no DICOM object.
pub fn read(bytes: &[u8], limits: &Limits) -> Result<Option<Source>, SourceError> {
    if sniff(bytes) != Some(Format::Dicom) {
        return Ok(None);
    }
    let read = std::panic::catch_unwind(|| {
        let object = dataset::read(bytes, limits, false)?.object;
        source(bytes, &object, limits).map(Some)
    });
    let panicked = DecodeError::DecoderPanicked {
        format: Format::Dicom,
    };
    read.unwrap_or(Err(panicked.into()))
}

/// Which texts of [`COPIED`] are not what their writer meant for sure, and what to do. Without a value: it may name a
/// patient.
pub fn doubts(bytes: &[u8], limits: &Limits) -> Vec<String> {
    let read = std::panic::catch_unwind(|| dataset::read(bytes, limits, false));
    let Ok(Ok(found)) = read else {
        return Vec::new();
    };
    let is_copied = |tag: Tag| COPIED.iter().any(|copied| copied.0 == tag);
    let doubts = found.doubts.into_iter().filter(|(tag, _)| is_copied(*tag));
    let words = doubts.map(|(tag, doubt)| {
        let problem = match doubt {
            Doubt::Unreadable => {
                "is left out: its bytes are no text in the image's SpecificCharacterSet (0008,0005)"
            }
            Doubt::Guessed => {
                "may have other letters: SpecificCharacterSet (0008,0005) does not say what its bytes mean"
            }
        };
        format!("{} {problem}; correct the character set at the source", with_keyword(tag))
    });
    words.collect()
}

fn source(bytes: &[u8], object: &InMemDicomObject, limits: &Limits) -> Result<Source, SourceError> {
    let mut has_odd_uid = false;
    let mut uid = |tag, name, elsewhere: Option<Tag>| {
        let found = text(object, tag).or_else(|| elsewhere.and_then(|tag| meta(bytes, tag)));
        let found = found.ok_or(SourceError::Missing(name))?;
        has_odd_uid |= !is_uid(&found);
        let stands = stands_for_a_uid(&found);
        stands.then_some(found).ok_or(SourceError::NoUid(name))
    };
    let elsewhere = Some(tags::MEDIA_STORAGE_SOP_CLASS_UID);
    let sop_class_uid = uid(tags::SOP_CLASS_UID, "SOPClassUID", elsewhere)?;
    let elsewhere = Some(tags::MEDIA_STORAGE_SOP_INSTANCE_UID);
    let sop_instance_uid = uid(tags::SOP_INSTANCE_UID, "SOPInstanceUID", elsewhere)?;
    let study_instance_uid = uid(tags::STUDY_INSTANCE_UID, "StudyInstanceUID", None)?;
    let series_instance_uid = uid(tags::SERIES_INSTANCE_UID, "SeriesInstanceUID", None)?;
    let frame_of_reference_uid = uid(tags::FRAME_OF_REFERENCE_UID, "", None).ok();
    let count = integer(object, tags::NUMBER_OF_FRAMES, "NumberOfFrames")?;
    let n_frames = count.unwrap_or(1).clamp(1, limits.max_frames) as usize;
    let planes: Option<Vec<Plane>> = (0..n_frames)
        .map(|frame| Plane::read(object, frame, n_frames))
        .collect();
    let lossy = text(object, tags::LOSSY_IMAGE_COMPRESSION).filter(|word| word == "01");
    let copied = COPIED.iter().filter_map(|&(tag, _)| {
        let number = u32::from(tag.group()) << 16 | u32::from(tag.element());
        text(object, tag).map(|value| (number, value))
    });
    let methods = object
        .get(tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE)
        .and_then(|element| element.items());
    let deidentified = methods.into_iter().flatten().filter_map(|code| {
        let word = |tag| text(code, tag);
        let scheme = word(tags::CODING_SCHEME_DESIGNATOR)?;
        Some([word(tags::CODE_VALUE)?, scheme, word(tags::CODE_MEANING)?])
    });
    Ok(Source {
        sop_class_uid,
        sop_instance_uid,
        study_instance_uid,
        series_instance_uid,
        frame_of_reference_uid,
        instance_number: whole(object, tags::INSTANCE_NUMBER).unwrap_or_default(),
        is_multi_frame: count.is_some(),
        planes: planes.unwrap_or_default(),
        copied: copied.collect(),
        deidentified: deidentified.collect(),
        lossy: lossy.map(|_| {
            let words = |tag| text(object, tag).unwrap_or_default();
            (
                words(tags::LOSSY_IMAGE_COMPRESSION_RATIO),
                words(tags::LOSSY_IMAGE_COMPRESSION_METHOD),
            )
        }),
        acquisitions: acquisition::read(object, n_frames),
        has_odd_uid,
    })
}

const UID_MAX_LEN: usize = 64;

/// By PS3.5 section 9.1.
fn is_uid(text: &str) -> bool {
    let component = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0'))
    };
    text.len() <= UID_MAX_LEN && text.split('.').all(component)
}

/// Anonymizers write letters, and archives keep them: whoever reads the segmentation finds the image
/// by the same text. What UI cannot hold stands for nothing.
fn stands_for_a_uid(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    (1..=UID_MAX_LEN).contains(&text.len()) && text.bytes().all(allowed)
}

impl Plane {
    fn read(object: &InMemDicomObject, frame: usize, n_frames: usize) -> Option<Self> {
        let words = |group: Tag, tag: Tag, count: usize| {
            let group = functional_group(object, group, frame);
            // One position at the top of many frames is not the position of each.
            let group = group.or((n_frames == 1).then_some(object))?;
            let text = text(group, tag)?;
            numbers(&text).filter(|numbers| numbers.len() == count)?;
            Some(text)
        };
        let measures = tags::PIXEL_MEASURES_SEQUENCE;
        let plane = Self {
            position: words(
                tags::PLANE_POSITION_SEQUENCE,
                tags::IMAGE_POSITION_PATIENT,
                3,
            )?,
            orientation: words(
                tags::PLANE_ORIENTATION_SEQUENCE,
                tags::IMAGE_ORIENTATION_PATIENT,
                6,
            )?,
            spacing: words(measures, tags::PIXEL_SPACING, 2)?,
            thickness: words(measures, tags::SLICE_THICKNESS, 1)
                .filter(|text| numbers(text).is_some_and(|value| value[0] > 0.0)),
        };
        let orientation = numbers(&plane.orientation)?;
        let length = |axis: &[f64]| axis.iter().map(|value| value * value).sum::<f64>().sqrt();
        let unit = |axis: &[f64]| (length(axis) - 1.0).abs() < 1e-2;
        let dot: f64 = (0..3).map(|i| orientation[i] * orientation[i + 3]).sum();
        let flat = unit(&orientation[..3]) && unit(&orientation[3..]) && dot.abs() < 1e-2;
        let spaced = numbers(&plane.spacing)?.iter().all(|value| *value > 0.0);
        (flat && spaced).then_some(plane)
    }
}

/// Values of a decimal string, all of them finite.
pub fn numbers(text: &str) -> Option<Vec<f64>> {
    let number = |word: &str| {
        let value: f64 = word.trim().parse().ok()?;
        value.is_finite().then_some(value)
    };
    text.split('\\').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_strings_are_read_strictly() {
        assert_eq!(numbers("1\\ -2.5 \\3e-1"), Some(vec![1.0, -2.5, 0.3]));
        for text in ["", "1\\\\2", "nan", "1\\inf", "one"] {
            assert_eq!(numbers(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_dicom_has_no_source() {
        let png = b"\x89PNG\r\n\x1a\n";
        assert!(read(png, &Limits::STANDARD).unwrap().is_none());
        assert!(read(b"", &Limits::STANDARD).unwrap().is_none());
    }

    #[test]
    fn uids_are_told_from_what_is_none() {
        for uid in ["2.25.7", "1.0.840", "0"] {
            assert!(is_uid(uid) && stands_for_a_uid(uid), "{uid}");
        }
        for odd in ["2.25.ANON-1", "1.02.3", "1..2", "1.", "x"] {
            assert!(!is_uid(odd) && stands_for_a_uid(odd), "{odd}");
        }
        let long = "1".repeat(65);
        for none in ["", "1 2", "1\\2", "é", long.as_str()] {
            assert!(!is_uid(none) && !stands_for_a_uid(none), "{none}");
        }
    }

    /// A file of one frame with these UIDs of class, instance and series.
    fn file(uids: [Option<&str>; 3]) -> Vec<u8> {
        let mut object = InMemDicomObject::new_empty();
        let tags = [
            tags::SOP_CLASS_UID,
            tags::SOP_INSTANCE_UID,
            tags::SERIES_INSTANCE_UID,
        ];
        let uids = tags.into_iter().zip(uids);
        let known = [(tags::STUDY_INSTANCE_UID, Some("2.25.1"))];
        for (tag, uid) in uids.chain(known) {
            if let Some(uid) = uid {
                let value = dicom_core::PrimitiveValue::from(uid);
                object.put(dicom_core::DataElement::new(tag, VR::UI, value));
            }
        }
        let meta = dicom_object::FileMetaTableBuilder::new()
            .transfer_syntax("1.2.840.10008.1.2.1")
            .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.4")
            .media_storage_sop_instance_uid("2.25.3");
        let mut bytes = Vec::new();
        let file = object.with_meta(meta).unwrap();
        file.write_all(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_names_an_image_is_used_and_what_does_not_is_said() {
        let read = |uids| read(&file(uids), &Limits::STANDARD);
        let source = read([Some("1.2"), Some("2.25.9"), Some("2.25.8")]).unwrap();
        assert!(!source.unwrap().has_odd_uid);
        // Of the file meta information.
        let source = read([None, None, Some("ANON-8")]).unwrap().unwrap();
        assert_eq!(source.sop_class_uid, "1.2.840.10008.5.1.4.1.1.4");
        assert_eq!(source.sop_instance_uid, "2.25.3");
        assert!(source.has_odd_uid);
        let error = read([Some("1.2"), Some("2.25.9"), None]).unwrap_err();
        assert_eq!(error.kind(), "uid_missing");
        assert!(error.to_string().contains("SeriesInstanceUID"), "{error}");
        let long = "1".repeat(65);
        let error = read([Some("1.2"), Some(&long), Some("2.25.8")]).unwrap_err();
        assert_eq!(error.kind(), "uid_invalid");
    }
}
