use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};

use super::*;

fn object(elements: Vec<DataElement<InMemDicomObject>>) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(elements)
}

fn text_of(tag: Tag, text: &str) -> DataElement<InMemDicomObject> {
    let values = text.split('\\').map(str::to_owned).collect();
    DataElement::new(tag, VR::DS, PrimitiveValue::Strs(values))
}

fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
}

/// An item with a functional group that has this attribute.
fn group(sequence_tag: Tag, tag: Tag, text: &str) -> InMemDicomObject {
    object(vec![sequence(
        sequence_tag,
        vec![object(vec![text_of(tag, text)])],
    )])
}

fn measures(text: &str) -> InMemDicomObject {
    group(tags::PIXEL_MEASURES_SEQUENCE, tags::PIXEL_SPACING, text)
}

struct Case {
    name: &'static str,
    object: &'static [(Tag, &'static str)],
    expected: Option<([f64; 2], SpacingFrom)>,
    warning: Option<&'static str>,
}

const IMAGER: (Tag, &str) = (tags::IMAGER_PIXEL_SPACING, "0.2\\0.1");
const MAGNIFIED: (Tag, &str) = (tags::ESTIMATED_RADIOGRAPHIC_MAGNIFICATION_FACTOR, "1.25");
const NOMINAL: (Tag, &str) = (tags::NOMINAL_SCANNED_PIXEL_SPACING, "0.5\\0.5");

#[test]
fn the_order_of_preference_holds() {
    use SpacingFrom::{
        ImagerPixelSpacing, ImagerPixelSpacingByMagnification, NominalScannedPixelSpacing,
        PixelSpacing, PixelSpacingCalibrated,
    };
    const AT_DETECTOR: Option<&str> = Some("spacing_at_detector");
    let cases = [
        Case {
            name: "of the patient",
            object: &[(tags::PIXEL_SPACING, "0.16\\0.08"), IMAGER, MAGNIFIED],
            expected: Some(([0.16, 0.08], PixelSpacing)),
            warning: None,
        },
        Case {
            name: "calibrated",
            object: &[
                (tags::PIXEL_SPACING, "0.2\\0.1"),
                (tags::PIXEL_SPACING_CALIBRATION_TYPE, "FIDUCIAL"),
                IMAGER,
            ],
            expected: Some(([0.2, 0.1], PixelSpacingCalibrated)),
            warning: None,
        },
        Case {
            name: "the detector's under another name",
            object: &[(tags::PIXEL_SPACING, "0.2000\\0.1"), IMAGER],
            expected: Some(([0.2, 0.1], ImagerPixelSpacing)),
            warning: AT_DETECTOR,
        },
        Case {
            name: "the detector's, with what corrects it",
            object: &[(tags::PIXEL_SPACING, "0.2\\0.1"), IMAGER, MAGNIFIED],
            expected: Some(([0.16, 0.08], ImagerPixelSpacingByMagnification)),
            warning: None,
        },
        Case {
            name: "magnified",
            object: &[IMAGER, MAGNIFIED, NOMINAL],
            expected: Some(([0.16, 0.08], ImagerPixelSpacingByMagnification)),
            warning: None,
        },
        Case {
            name: "no magnification makes smaller",
            object: &[
                IMAGER,
                (tags::ESTIMATED_RADIOGRAPHIC_MAGNIFICATION_FACTOR, "0"),
            ],
            expected: Some(([0.2, 0.1], ImagerPixelSpacing)),
            warning: AT_DETECTOR,
        },
        Case {
            name: "scanned",
            object: &[(tags::PIXEL_SPACING, "0\\0"), NOMINAL],
            expected: Some(([0.5, 0.5], NominalScannedPixelSpacing)),
            warning: Some("spacing_nominal"),
        },
        Case {
            name: "a ratio has no unit",
            object: &[(tags::PIXEL_ASPECT_RATIO, "1\\2")],
            expected: None,
            warning: Some("spacing_unknown"),
        },
        Case {
            name: "one number is no pair",
            object: &[(tags::PIXEL_SPACING, "0.5")],
            expected: None,
            warning: Some("spacing_unknown"),
        },
    ];
    for case in cases {
        let elements = case.object.iter();
        let object = object(elements.map(|(tag, text)| text_of(*tag, text)).collect());
        let found = Spacing::read(&object, 1);
        let warning = found.warning().map(Warning::code);
        let expected = case.expected.unzip();
        assert_eq!(found.from, expected.1, "{}", case.name);
        assert_eq!(warning, case.warning, "{}", case.name);
        match (found.common(), expected.0) {
            (Some(found), Some(expected)) => assert!(close(found, expected), "{}", case.name),
            (found, expected) => assert_eq!(found, expected, "{}", case.name),
        }
    }
}

#[test]
fn a_frame_has_its_own_before_the_shared_and_the_objects() {
    let frames = vec![measures("3\\3"), object(vec![]), measures("0.75\\0.5")];
    let mut enhanced = object(vec![
        sequence(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, frames),
        sequence(
            tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
            vec![measures("1.5\\1.5")],
        ),
        text_of(tags::PIXEL_SPACING, "9\\9"),
    ]);
    let by_frame = [Some([3.0; 2]), Some([1.5; 2]), Some([0.75, 0.5])];
    let spacing = Spacing::read(&enhanced, 3);
    assert_eq!(
        (spacing.common(), spacing.differing()),
        (None, Some(&by_frame[..]))
    );
    assert_eq!((spacing.of(2), spacing.of(3)), (by_frame[2], None));
    assert_eq!(spacing.from, Some(SpacingFrom::PixelSpacing));

    enhanced.remove_element(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    assert_eq!(Spacing::read(&enhanced, 3).of(1), Some([9.0; 2]));
    enhanced.remove_element(tags::PIXEL_SPACING);
    let spacing = Spacing::read(&enhanced, 3);
    assert_eq!((spacing.of(0), spacing.of(1)), (Some([3.0; 2]), None));
    assert_eq!(
        spacing.warning(),
        Some(Warning::SpacingUnknown),
        "of one frame"
    );

    let shared = vec![measures("2\\1")];
    let same = object(vec![sequence(
        tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
        shared,
    )]);
    let spacing = Spacing::read(&same, 4);
    assert_eq!(
        (spacing.common(), spacing.differing()),
        (Some([2.0, 1.0]), None)
    );
}

#[test]
fn enhanced_projections_have_groups_of_their_own() {
    let detector = group(
        tags::FRAME_PIXEL_DATA_PROPERTIES_SEQUENCE,
        tags::IMAGER_PIXEL_SPACING,
        "0.3\\0.3",
    );
    let calibrated = group(
        tags::PROJECTION_PIXEL_CALIBRATION_SEQUENCE,
        tags::OBJECT_PIXEL_SPACING_IN_CENTER_OF_BEAM,
        "0.2\\0.2",
    );
    for (group, expected) in [
        (detector, SpacingFrom::ImagerPixelSpacing),
        (calibrated, SpacingFrom::ObjectPixelSpacingInCenterOfBeam),
    ] {
        let shared = sequence(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![group]);
        assert_eq!(Spacing::read(&object(vec![shared]), 2).from, Some(expected));
    }
}

/// Format 1 is of two dimensions, unit 3 is cm.
fn region(format: u16, unit: u16, delta_y: f64) -> InMemDicomObject {
    let number = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let delta = |tag, value: f64| DataElement::new(tag, VR::FD, PrimitiveValue::from(value));
    object(vec![
        number(tags::REGION_SPATIAL_FORMAT, format),
        number(tags::PHYSICAL_UNITS_X_DIRECTION, unit),
        number(tags::PHYSICAL_UNITS_Y_DIRECTION, unit),
        delta(tags::PHYSICAL_DELTA_X, 0.02),
        delta(tags::PHYSICAL_DELTA_Y, delta_y),
    ])
}

#[test]
fn regions_of_ultrasound_have_to_agree() {
    const TRACE: u16 = 2;
    const SECONDS: u16 = 4;
    let cases = [
        (vec![region(1, 3, 0.03)], true),
        (vec![region(1, 3, -0.03)], true),
        (
            vec![
                region(1, 3, 0.03),
                region(1, 3, 0.03),
                region(TRACE, SECONDS, 1.0),
            ],
            true,
        ),
        (vec![region(1, 3, 0.03), region(1, 3, 0.04)], false),
        (vec![region(1, 3, 0.03), region(1, SECONDS, 0.03)], false),
        (vec![region(TRACE, 3, 0.03)], false),
        (vec![region(1, 3, 0.0)], false),
        (vec![], false),
    ];
    for (at, (regions, agree)) in cases.into_iter().enumerate() {
        let ultrasound = object(vec![sequence(
            tags::SEQUENCE_OF_ULTRASOUND_REGIONS,
            regions,
        )]);
        let spacing = Spacing::read(&ultrasound, 2);
        let from = agree.then_some(SpacingFrom::UltrasoundRegion);
        assert_eq!(spacing.from, from, "case {at}");
        if agree {
            let [row, column] = spacing.common().unwrap();
            assert!((row - 0.3).abs() < 1e-9 && (column - 0.2).abs() < 1e-9);
        }
    }
}
