//! What tells the volumes of a series apart: b-values, echoes, phases, dynamics, reconstructions.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use serde::{Deserialize, Serialize};

use super::attributes::{self, functional_group, item};

/// How a frame was acquired.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Acquisition {
    /// Keyword and value of each attribute of [`keywords`] that the frame has.
    pub values: Vec<(String, String)>,
    /// Date and time, so that they sort as text.
    pub at: String,
}

impl Acquisition {
    pub fn value(&self, keyword: &str) -> Option<&str> {
        let found = self.values.iter().find(|(name, _)| name == keyword);
        found.map(|(_, value)| value.as_str())
    }
}

/// An attribute of images of one frame, or of a functional group of each frame.
struct Attribute {
    keyword: &'static str,
    single: Option<Tag>,
    /// Functional group, and the attribute in it.
    grouped: &'static [(Tag, Tag)],
}

const fn attribute(
    keyword: &'static str,
    single: Option<Tag>,
    grouped: &'static [(Tag, Tag)],
) -> Attribute {
    Attribute {
        keyword,
        single,
        grouped,
    }
}

/// The one that says most of a volume first.
const ATTRIBUTES: [Attribute; 17] = [
    attribute(
        "DiffusionBValue",
        Some(tags::DIFFUSION_B_VALUE),
        &[(tags::MR_DIFFUSION_SEQUENCE, tags::DIFFUSION_B_VALUE)],
    ),
    attribute(
        "DiffusionGradientOrientation",
        Some(tags::DIFFUSION_GRADIENT_ORIENTATION),
        &[],
    ),
    attribute(
        "EchoTime",
        Some(tags::ECHO_TIME),
        &[(tags::MR_ECHO_SEQUENCE, tags::EFFECTIVE_ECHO_TIME)],
    ),
    attribute("EchoNumbers", Some(tags::ECHO_NUMBERS), &[]),
    attribute(
        "TemporalPositionIdentifier",
        Some(tags::TEMPORAL_POSITION_IDENTIFIER),
        &[(tags::FRAME_CONTENT_SEQUENCE, tags::TEMPORAL_POSITION_INDEX)],
    ),
    attribute(
        "NominalPercentageOfCardiacPhase",
        Some(tags::NOMINAL_PERCENTAGE_OF_CARDIAC_PHASE),
        &[(
            tags::CARDIAC_SYNCHRONIZATION_SEQUENCE,
            tags::NOMINAL_PERCENTAGE_OF_CARDIAC_PHASE,
        )],
    ),
    attribute(
        TRIGGER_TIME,
        Some(tags::TRIGGER_TIME),
        &[(
            tags::CARDIAC_SYNCHRONIZATION_SEQUENCE,
            tags::NOMINAL_CARDIAC_TRIGGER_DELAY_TIME,
        )],
    ),
    attribute(
        "NominalPercentageOfRespiratoryPhase",
        Some(tags::NOMINAL_PERCENTAGE_OF_RESPIRATORY_PHASE),
        &[(
            tags::RESPIRATORY_SYNCHRONIZATION_SEQUENCE,
            tags::NOMINAL_PERCENTAGE_OF_RESPIRATORY_PHASE,
        )],
    ),
    attribute(
        "InversionTime",
        Some(tags::INVERSION_TIME),
        &[(tags::MR_MODIFIER_SEQUENCE, tags::INVERSION_TIMES)],
    ),
    attribute(
        "FlipAngle",
        Some(tags::FLIP_ANGLE),
        &[(
            tags::MR_TIMING_AND_RELATED_PARAMETERS_SEQUENCE,
            tags::FLIP_ANGLE,
        )],
    ),
    attribute(
        "RepetitionTime",
        Some(tags::REPETITION_TIME),
        &[(
            tags::MR_TIMING_AND_RELATED_PARAMETERS_SEQUENCE,
            tags::REPETITION_TIME,
        )],
    ),
    attribute(
        "ImageType",
        Some(tags::IMAGE_TYPE),
        &[
            (tags::MR_IMAGE_FRAME_TYPE_SEQUENCE, tags::FRAME_TYPE),
            (tags::CT_IMAGE_FRAME_TYPE_SEQUENCE, tags::FRAME_TYPE),
        ],
    ),
    attribute("KVP", Some(tags::KVP), &[]),
    attribute(
        "ConvolutionKernel",
        Some(tags::CONVOLUTION_KERNEL),
        &[(tags::CT_RECONSTRUCTION_SEQUENCE, tags::CONVOLUTION_KERNEL)],
    ),
    attribute(
        "StackID",
        None,
        &[(tags::FRAME_CONTENT_SEQUENCE, tags::STACK_ID)],
    ),
    attribute("SequenceName", Some(tags::SEQUENCE_NAME), &[]),
    attribute(
        "AcquisitionNumber",
        Some(tags::ACQUISITION_NUMBER),
        &[(tags::FRAME_CONTENT_SEQUENCE, tags::FRAME_ACQUISITION_NUMBER)],
    ),
];

pub const TRIGGER_TIME: &str = "TriggerTime";

/// Of the attributes, in the order of how much they say.
pub fn keywords() -> impl Iterator<Item = &'static str> {
    ATTRIBUTES.iter().map(|attribute| attribute.keyword)
}

/// What tells frames apart is short, and each of them has its own.
const TEXT_MAX_BYTES: usize = 1024;

fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    attributes::text(object, tag).filter(|text| text.len() <= TEXT_MAX_BYTES)
}

/// Of each frame; one for all of them where they do not differ.
pub(super) fn read(object: &InMemDicomObject, n_frames: usize) -> Vec<Acquisition> {
    let mut frames: Vec<Acquisition> = (0..n_frames).map(|frame| of(object, frame)).collect();
    if frames.iter().all(|frame| frame == &frames[0]) {
        frames.truncate(1);
    }
    frames
}

fn of(object: &InMemDicomObject, frame: usize) -> Acquisition {
    let value = |attribute: &Attribute| {
        let grouped = attribute.grouped.iter().find_map(|(group, tag)| {
            functional_group(object, *group, frame).and_then(|group| text(group, *tag))
        });
        let single = || attribute.single.and_then(|tag| text(object, tag));
        let private = || match attribute.keyword {
            "DiffusionBValue" => b_value(object),
            "DiffusionGradientOrientation" => direction(object, frame),
            _ => None,
        };
        let value = grouped.or_else(single).or_else(private)?;
        Some((attribute.keyword.to_owned(), value))
    };
    let time = functional_group(object, tags::FRAME_CONTENT_SEQUENCE, frame)
        .and_then(|group| text(group, tags::FRAME_ACQUISITION_DATE_TIME));
    let date_and_time = || {
        let date = text(object, tags::ACQUISITION_DATE).unwrap_or_default();
        Some(date + &text(object, tags::ACQUISITION_TIME)?)
    };
    Acquisition {
        values: ATTRIBUTES.iter().filter_map(value).collect(),
        at: time
            .or_else(|| text(object, tags::ACQUISITION_DATE_TIME))
            .or_else(date_and_time)
            .unwrap_or_default(),
    }
}

fn direction(object: &InMemDicomObject, frame: usize) -> Option<String> {
    let diffusion = functional_group(object, tags::MR_DIFFUSION_SEQUENCE, frame)?;
    let direction = item(diffusion, tags::DIFFUSION_GRADIENT_DIRECTION_SEQUENCE, 0)?;
    text(direction, tags::DIFFUSION_GRADIENT_ORIENTATION)
}

/// Where scanners wrote it before the standard had an attribute: Siemens, GE, Philips.
const PRIVATE_B_VALUES: [(u16, &str, u8); 3] = [
    (0x0019, "SIEMENS MR HEADER", 0x0c),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
];

fn b_value(object: &InMemDicomObject) -> Option<String> {
    PRIVATE_B_VALUES
        .iter()
        .find_map(|(group, creator, element)| {
            let element = object.private_element(*group, creator, *element).ok()?;
            first_number(element)
        })
}

/// As text, as a number, or as the bytes of a text whose representation is not known.
fn first_number(element: &InMemElement) -> Option<String> {
    let is_number = |word: &str| word.parse::<f64>().is_ok_and(f64::is_finite);
    let bytes = element.to_bytes().ok()?;
    let text = std::str::from_utf8(&bytes).ok();
    let word = text.and_then(|text| {
        let word = text.split('\\').next()?.trim_matches(['\0', ' ']);
        is_number(word).then(|| word.to_owned())
    });
    word.or_else(|| {
        let value = element.to_float64().ok()?;
        value.is_finite().then(|| value.to_string())
    })
}

#[cfg(test)]
mod tests {
    use dicom_core::value::DataSetSequence;
    use dicom_core::{DataElement, PrimitiveValue, VR};

    use super::*;

    fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: PrimitiveValue) {
        object.put(DataElement::new(tag, vr, value));
    }

    fn nested(object: &mut InMemDicomObject, tag: Tag, items: Vec<InMemDicomObject>) {
        let items = DataSetSequence::from(items);
        object.put(DataElement::new(tag, VR::SQ, items));
    }

    #[test]
    fn a_private_b_value_is_read_whatever_its_representation() {
        for (vr, value) in [
            (VR::IS, PrimitiveValue::from("400")),
            (VR::UN, PrimitiveValue::from(*b"400 ")),
        ] {
            let mut object = InMemDicomObject::new_empty();
            let creator = PrimitiveValue::from("SIEMENS MR HEADER");
            put(&mut object, Tag(0x0019, 0x0011), VR::LO, creator);
            put(&mut object, Tag(0x0019, 0x110c), vr, value);
            let read = read(&object, 1);
            assert_eq!(read[0].value("DiffusionBValue"), Some("400"));
        }
        let mut object = InMemDicomObject::new_empty();
        put(&mut object, Tag(0x0019, 0x110c), VR::IS, "400".into());
        assert_eq!(read(&object, 1)[0].value("DiffusionBValue"), None);
    }

    #[test]
    fn frames_have_the_values_of_their_groups() {
        let mut object = InMemDicomObject::new_empty();
        put(&mut object, tags::ECHO_TIME, VR::DS, "63".into());
        let frame = |b: f64| {
            let mut diffusion = InMemDicomObject::new_empty();
            let value = PrimitiveValue::from(b);
            put(&mut diffusion, tags::DIFFUSION_B_VALUE, VR::FD, value);
            let mut group = InMemDicomObject::new_empty();
            nested(&mut group, tags::MR_DIFFUSION_SEQUENCE, vec![diffusion]);
            group
        };
        let groups = vec![frame(50.0), frame(800.0)];
        nested(
            &mut object,
            tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
            groups,
        );
        let found = read(&object, 2);
        let values: Vec<_> = found.iter().map(|f| f.value("DiffusionBValue")).collect();
        assert_eq!(values, [Some("50"), Some("800")]);
        assert_eq!(found[1].value("EchoTime"), Some("63"));
    }

    #[test]
    fn frames_that_do_not_differ_are_said_once() {
        let mut object = InMemDicomObject::new_empty();
        put(
            &mut object,
            tags::ACQUISITION_DATE,
            VR::DA,
            "20260101".into(),
        );
        put(
            &mut object,
            tags::ACQUISITION_TIME,
            VR::TM,
            "120000.5".into(),
        );
        let found = read(&object, 3);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].at, "20260101120000.5");
    }
}
