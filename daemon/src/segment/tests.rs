use std::path::Path;

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use segmenter::decode::{Limits, SpacingFrom};

use super::*;

fn heart() -> DefaultDicomObject {
    let phantom = phantom::Heart::new(3).slice_sized(4, 9, 0.0, 128);
    let ids = phantom::dicom::Ids::new(&phantom, 1, 1);
    let bytes = phantom::dicom::to_bytes(&phantom, &ids).unwrap();
    dicom_object::from_reader(&*bytes).unwrap()
}

fn pixels(object: &DefaultDicomObject) -> Vec<u8> {
    let element = object.element(tags::PIXEL_DATA).unwrap();
    element.to_bytes().unwrap().into_owned()
}

fn set_pixels(object: &mut DefaultDicomObject, pixels: Vec<u8>) {
    let words = PrimitiveValue::U8(pixels.into());
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, words));
}

fn found(object: &DefaultDicomObject) -> Findings {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR"));
    let zoo = zoo.join("../models/zoo/cardiac-lv-vit_t-256");
    let segmenter = Segmenter::open(&zoo).unwrap();
    let mut bytes = Vec::new();
    object.write_all(&mut bytes).unwrap();
    let mut decoder = Decoder::new(Limits::STANDARD);
    segment(&segmenter, &mut decoder, &Arc::new(bytes)).unwrap()
}

#[test]
fn areas_are_those_of_their_frames() {
    let mut object = heart();
    let frame = pixels(&object);
    set_pixels(&mut object, frame.repeat(2));
    let frames = DataElement::new(tags::NUMBER_OF_FRAMES, VR::IS, PrimitiveValue::from("2"));
    object.put(frames);
    let sequence = |tag, items: Vec<InMemDicomObject>| {
        DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
    };
    let group = |mm: &str| {
        let values = PrimitiveValue::Strs([mm.to_owned(), mm.to_owned()].into());
        let spacing = DataElement::new(tags::PIXEL_SPACING, VR::DS, values);
        let measures = InMemDicomObject::from_element_iter([spacing]);
        let measures = sequence(tags::PIXEL_MEASURES_SEQUENCE, vec![measures]);
        InMemDicomObject::from_element_iter([measures])
    };
    let groups = vec![group("3"), group("0.75")];
    object.put(sequence(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, groups));
    let found = found(&object);
    let image = &found.image;
    assert_eq!(image.spacing_mm, None);
    assert_eq!(
        image.spacings_mm,
        Some(vec![Some([3.0; 2]), Some([0.75; 2])])
    );
    assert_eq!(image.spacing_from, Some(SpacingFrom::PixelSpacing));
    assert_eq!(found.warnings, [""; 0]);
    let areas = found
        .instances
        .iter()
        .map(|it| it.area_mm2.unwrap() / it.area_px as f64);
    assert_eq!(areas.collect::<Vec<_>>(), [9.0, 0.5625]);
}

#[test]
fn an_image_of_one_value_is_told() {
    let mut object = heart();
    let n_bytes = pixels(&object).len();
    set_pixels(&mut object, vec![1; n_bytes]);
    assert_eq!(found(&object).warnings, ["image_flat"]);
    // So is one whose window has nothing: a few bright pixels are above every percentile.
    let mut nearly = vec![0; n_bytes];
    nearly[..8].fill(1);
    set_pixels(&mut object, nearly);
    assert_eq!(found(&object).warnings, ["image_flat"]);
}

/// 16 rows and 32 columns of 8 bits, uncompressed.
fn tiff(orientation: u32) -> Arc<Vec<u8>> {
    // Width, height, bits, no compression, black is 0, the strip's place, orientation, rows in it, its length.
    let tags: [(u16, u32); 9] = [
        (256, 32),
        (257, 16),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 122),
        (274, orientation),
        (278, 16),
        (279, 512),
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, value) in tags {
        bytes.extend(tag.to_le_bytes());
        bytes.extend([3, 0, 1, 0, 0, 0]);
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    assert_eq!(bytes.len(), 122);
    bytes.extend((0..512_u32).map(|i| (i % 251) as u8));
    Arc::new(bytes)
}

/// The mask lies on the picture as viewers show it, and the result says so.
#[test]
fn a_picture_that_was_turned_has_its_shown_size_and_a_warning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bundle = root.join("models/zoo/cardiac-lv-vit_t-256");
    let segmenter = Segmenter::open(&bundle).unwrap();
    let mut decoder = Decoder::new(Limits::STANDARD);
    for (orientation, size, turned) in [
        (1, (16, 32), false),
        (3, (16, 32), true),
        (6, (32, 16), true),
    ] {
        let found = segment(&segmenter, &mut decoder, &tiff(orientation)).unwrap();
        assert_eq!((found.image.rows, found.image.cols), size);
        assert_eq!((found.labels[0].rows, found.labels[0].cols), size);
        let said = found.warnings.iter().any(|it| it == "orientation_applied");
        assert_eq!(said, turned, "{:?}", found.warnings);
    }
}
