use dicom_core::Tag;
use dicom_object::DefaultDicomObject;

use super::super::element::{WORDS_MAX, decimal};
use super::super::stack::tests::{classes, slice};
use super::super::{encode, volumes};
use super::*;
use contract::manifest::Class;

fn about(classes: &[Class]) -> About<'_> {
    About {
        sop_instance_uid: "2.25.1".into(),
        series_instance_uid: "2.25.2".into(),
        dimension_organization_uid: "2.25.3".into(),
        instance_number: 7,
        volume: "b 400",
        classes,
        model_name: "cardiac",
        model_version: "1.0",
        software_version: "0.0.0",
        node: "box-1",
        made_at: "2026-11-24T00:40:05.123Z",
    }
}

fn all(slices: &[Slice]) -> Vec<(usize, usize)> {
    let frames = |(index, slice): (usize, &Slice)| (0..slice.frames).map(move |f| (index, f));
    slices.iter().enumerate().flat_map(frames).collect()
}

fn made(slices: &[Slice]) -> DefaultDicomObject {
    let bytes = encode(slices, &all(slices), &about(&classes())).unwrap();
    dicom_object::from_reader(&bytes[..]).unwrap()
}

fn word(object: &Object, tag: Tag) -> String {
    object.element(tag).unwrap().to_str().unwrap().into_owned()
}

fn items(object: &Object, tag: Tag) -> &[Object] {
    object.element(tag).unwrap().items().unwrap()
}

/// Number of the source and values of the dimensions of each frame.
fn frames(object: &Object) -> Vec<(String, Vec<u32>)> {
    let frame = |group: &Object| {
        let derivation = &items(group, tags::DERIVATION_IMAGE_SEQUENCE)[0];
        let source = &items(derivation, tags::SOURCE_IMAGE_SEQUENCE)[0];
        let content = &items(group, tags::FRAME_CONTENT_SEQUENCE)[0];
        let values = content.element(tags::DIMENSION_INDEX_VALUES).unwrap();
        (
            word(source, tags::REFERENCED_SOP_INSTANCE_UID),
            values.to_multi_int().unwrap(),
        )
    };
    items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
        .iter()
        .map(frame)
        .collect()
}

#[test]
fn every_plane_is_a_frame_in_the_order_of_space() {
    let object = made(&[
        slice(1, Some(8.0), 2),
        slice(2, Some(4.0), 0),
        slice(3, Some(0.0), 4),
    ]);
    assert_eq!(
        frames(&object),
        [
            ("2.25.3".to_owned(), vec![1, 1]),
            ("2.25.2".to_owned(), vec![1, 2]),
            ("2.25.1".to_owned(), vec![1, 3])
        ]
    );
    let pixels = object
        .element(tags::PIXEL_DATA)
        .unwrap()
        .to_bytes()
        .unwrap();
    // Four of six, none of six, two of six.
    assert_eq!(pixels[..], [0b1111, 0b11_0000, 0, 0]);
    assert_eq!(word(&object, tags::NUMBER_OF_FRAMES), "3");
    assert_eq!(word(&object, tags::INSTANCE_NUMBER), "7");
    assert_eq!(word(&object, tags::SERIES_DESCRIPTION), "cardiac b 400");
    assert_eq!(word(&object, tags::FRAME_OF_REFERENCE_UID), "2.25.1002");
    assert_eq!(word(&object, tags::PATIENT_NAME), "DOE^JANE");
    assert_eq!(word(&object, tags::CONTENT_TIME), "004005.123");
    let shared = &items(&object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE)[0];
    let measures = &items(shared, tags::PIXEL_MEASURES_SEQUENCE)[0];
    assert_eq!(word(measures, tags::PIXEL_SPACING), "2\\0.5");
    assert_eq!(word(measures, tags::SPACING_BETWEEN_SLICES), "4.000000");
    let series = &items(&object, tags::REFERENCED_SERIES_SEQUENCE)[0];
    let instances = items(series, tags::REFERENCED_INSTANCE_SEQUENCE).iter();
    let instances = instances.map(|item| word(item, tags::REFERENCED_SOP_INSTANCE_UID));
    let instances: Vec<String> = instances.collect();
    assert_eq!(instances, ["2.25.3", "2.25.2", "2.25.1"]);
}

#[test]
fn classes_have_a_frame_for_each_plane_or_the_first_one_has() {
    let mut both = classes();
    both.push(Class {
        id: 2,
        label: "myocardium".into(),
        ..both[0].clone()
    });
    let mut slices = [slice(1, Some(0.0), 1), slice(2, Some(4.0), 0)];
    let found = Found {
        class: 2,
        ..slices[0].masks[0].clone()
    };
    slices[0].masks.push(found);
    let segments = |slices: &[Slice]| {
        let places = super::super::stack::places(slices, &all(slices));
        let frames = super::frames(slices, &places, &both).unwrap();
        let frame = |frame: &Frame| (frame.segment, frame.place.slice);
        frames.iter().map(frame).collect::<Vec<_>>()
    };
    assert_eq!(segments(&slices), [(1, 0), (1, 1), (2, 0), (2, 1)]);
    for slice in &mut slices {
        slice.rows = 1 << 15;
        slice.cols = 1 << 15;
    }
    assert_eq!(segments(&slices), [(1, 0), (1, 1), (2, 0)]);
}

#[test]
fn images_without_planes_are_told_apart_by_a_label() {
    let flat = made(&[slice(1, None, 1), slice(2, None, 1)]);
    assert_eq!(
        frames(&flat),
        [
            ("2.25.1".to_owned(), vec![1, 1]),
            ("2.25.2".to_owned(), vec![1, 2])
        ]
    );
    assert!(flat.get(tags::FRAME_OF_REFERENCE_UID).is_none());
    assert!(flat.get(tags::PATIENT_ORIENTATION).is_some());
    let group = &items(&flat, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)[0];
    assert!(group.get(tags::PLANE_POSITION_SEQUENCE).is_none());
}

#[test]
fn frames_of_one_object_are_named_by_number() {
    let (mut cine, other) = (slice(1, Some(0.0), 1), slice(2, Some(5.0), 2));
    cine.frames = 2;
    cine.source.is_multi_frame = true;
    cine.source.planes.extend(other.source.planes);
    let second = Found {
        frame: 1,
        ..other.masks[0].clone()
    };
    cine.masks.push(second);
    let object = made(&[cine]);
    let numbers: Vec<String> = items(&object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
        .iter()
        .map(|group| {
            let derivation = &items(group, tags::DERIVATION_IMAGE_SEQUENCE)[0];
            let source = &items(derivation, tags::SOURCE_IMAGE_SEQUENCE)[0];
            word(source, tags::REFERENCED_FRAME_NUMBER)
        })
        .collect();
    assert_eq!(numbers, ["1", "2"]);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let mixed = [slice(1, Some(0.0), 1), slice(2, None, 1)];
    let classes = classes();
    assert!(matches!(
        encode(&mixed, &all(&mixed), &about(&classes)),
        Err(SegError::Mixed)
    ));
    assert!(matches!(
        encode(&[], &[], &about(&classes)),
        Err(SegError::NoImage)
    ));
    assert!(volumes(&[], &[], &classes).volumes.is_empty());
    let mut broken = slice(1, Some(0.0), 1);
    broken.cols = 4;
    assert!(matches!(
        encode(&[broken], &[(0, 0)], &about(&classes)),
        Err(SegError::Mask(_))
    ));
}

#[test]
fn the_data_set_is_sent_in_either_syntax() {
    let file = encode(&[slice(1, Some(0.0), 2)], &[(0, 0)], &about(&classes())).unwrap();
    let explicit = data_set(&file, false).unwrap();
    assert_eq!(&explicit[..8], b"\x08\0\x05\0CS\x0a\0");
    let implicit = data_set(&file, true).unwrap();
    assert_eq!(&implicit[..8], b"\x08\0\x05\0\x0a\0\0\0");
    assert!(data_set(b"no object", false).is_err());
}

/// White and black are what they are in every colour space; red as Bruce Lindbloom's calculator has it
/// for D50: L 54.29, a 80.80, b 69.89.
#[test]
fn colors_are_lab() {
    assert_eq!(cie_lab([0, 0, 0]), [0, 32_896, 32_896]);
    let white = cie_lab([255, 255, 255]);
    assert_eq!(white[0], 65_535);
    let red = cie_lab([255, 0, 0]);
    let near = |found: u16, expected: f64| (f64::from(found) - expected).abs() < 30.0;
    assert!(near(red[0], 54.29 / 100.0 * 65_535.0), "{red:?}");
    assert!(near(red[1], (80.80 + 128.0) / 255.0 * 65_535.0), "{red:?}");
    assert!(near(red[2], (69.89 + 128.0) / 255.0 * 65_535.0), "{red:?}");
}

#[test]
fn texts_fit_their_attributes() {
    assert_eq!(cut("a\\b\nc "), "a b c");
    assert_eq!(cut(&"x".repeat(80)).len(), WORDS_MAX);
    assert_eq!(local_code("left ventricle cavity").len(), 16);
    assert!(decimal(-12_345_678.123_456).len() <= 16);
}

/// As tests/peers/seg.py finds with the readers themselves.
#[test]
fn sizes_that_readers_do_not_know_are_said() {
    for (rows, cols, n_frames, misread) in [
        (512, 512, 7, false),
        (181, 217, 3, true),
        (181, 217, 1, false),
        (250, 250, 1, true),
        (250, 250, 2, true),
        (250, 250, 4, false),
        (255, 255, 3, true),
        (255, 255, 9, false),
        (12, 10, 3, true),
        (53, 9, 9, true),
    ] {
        let found = super::super::is_misread(rows * cols, n_frames);
        assert_eq!(found, misread, "{rows} x {cols} x {n_frames}");
    }
}
