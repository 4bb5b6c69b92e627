//! What holds frame by frame (spacing, rescale), and pixels that are padding.

use std::path::Path;

use segmenter::Segmenter;
use segmenter::decode::{Limits, Scan, SpacingFrom, decode};
use segmenter::result::{Warning, instances};

use crate::decode::{small_dicom, us};
use crate::elements::{Element, data_set};
use crate::pile::shared;

const SPACING: u32 = 0x0028_0030;
const INTERCEPT: u32 = 0x0028_1052;
const SLOPE: u32 = 0x0028_1053;
const PIXEL_MEASURES: u32 = 0x0028_9110;
const TRANSFORMATION: u32 = 0x0028_9145;
const SHARED_GROUPS: u32 = 0x5200_9229;
const FRAME_GROUPS: u32 = 0x5200_9230;

fn ok(bytes: &[u8]) -> Scan {
    decode(bytes, &Limits::STANDARD).unwrap()
}

fn values(changed: &[Element]) -> Vec<f32> {
    ok(&small_dicom(changed)).frames.remove(0).data
}

fn number(tag: u32, text: &str) -> Element {
    let padding = if text.len().is_multiple_of(2) {
        ""
    } else {
        " "
    };
    (tag, b"DS", format!("{text}{padding}").into_bytes())
}

fn sequence(tag: u32, items: &[Vec<u8>]) -> Element {
    let item = |item: &Vec<u8>| {
        let length = (item.len() as u32).to_le_bytes();
        [&[0xfe, 0xff, 0, 0xe0], &length[..], item].concat()
    };
    (tag, b"SQ", items.iter().flat_map(item).collect())
}

/// An item with one functional group of these elements.
fn group(tag: u32, elements: &[Element]) -> Vec<u8> {
    data_set(&[sequence(tag, &[data_set(elements)])])
}

/// Frames of 2 x 3 px, each 0 to 5.
fn enhanced(n_frames: u8, changed: &[Element]) -> Vec<u8> {
    let pixels = (0..n_frames).flat_map(|_| (0..6).flat_map(|value: u16| value.to_le_bytes()));
    let mut elements = vec![
        (0x0028_0008, b"IS", format!("{n_frames} ").into_bytes()),
        (SPACING, b"DS", vec![]),
        (0x7fe0_0010, b"OW", pixels.collect()),
    ];
    elements.extend_from_slice(changed);
    small_dicom(&elements)
}

fn rescale(slope: &str, intercept: &str) -> Vec<u8> {
    group(
        TRANSFORMATION,
        &[number(INTERCEPT, intercept), number(SLOPE, slope)],
    )
}

#[test]
fn every_frame_has_the_rescale_of_its_own_group_before_others() {
    let nothing = data_set(&[]);
    let frames = sequence(
        FRAME_GROUPS,
        &[rescale("-1", "100"), nothing.clone(), nothing],
    );
    let shared = sequence(SHARED_GROUPS, &[rescale("2", "10")]);
    let top = [number(INTERCEPT, "7"), number(SLOPE, "3")];
    let second = |scan: &Scan| -> Vec<f32> { scan.frames.iter().map(|it| it.data[1]).collect() };
    let all = [&[shared, frames.clone()], &top[..]].concat();
    assert_eq!(second(&ok(&enhanced(3, &all))), [99.0, 12.0, 12.0]);
    let unshared = [&[frames], &top[..]].concat();
    assert_eq!(second(&ok(&enhanced(3, &unshared))), [99.0, 10.0, 10.0]);
}

#[test]
fn half_a_group_and_too_few_groups_are_refused() {
    let slope = group(TRANSFORMATION, &[number(SLOPE, "2")]);
    let intercept = group(TRANSFORMATION, &[number(INTERCEPT, "2")]);
    let shared = sequence(SHARED_GROUPS, std::slice::from_ref(&intercept));
    let whole = rescale("1", "0");
    for (name, changed) in [
        (
            "a half",
            vec![sequence(FRAME_GROUPS, &[slope.clone(), whole.clone()])],
        ),
        (
            "two halves",
            vec![shared, sequence(FRAME_GROUPS, &[slope, whole.clone()])],
        ),
        (
            "one group for two",
            vec![sequence(FRAME_GROUPS, std::slice::from_ref(&whole))],
        ),
        (
            "three for two",
            vec![sequence(
                FRAME_GROUPS,
                &[whole.clone(), whole.clone(), whole],
            )],
        ),
    ] {
        let error = decode(&enhanced(2, &changed), &Limits::STANDARD).unwrap_err();
        assert_eq!(error.kind(), "bad_attribute", "{name}: {error}");
    }
}

#[test]
fn every_frame_has_its_spacing() {
    let measures = |text| group(PIXEL_MEASURES, &[number(SPACING, text)]);
    let frames = sequence(FRAME_GROUPS, &[measures("3\\3"), measures("0.75\\0.75")]);
    let scan = ok(&enhanced(2, &[frames]));
    assert_eq!(
        (scan.spacing.of(0), scan.spacing.of(1)),
        (Some([3.0; 2]), Some([0.75; 2]))
    );
    assert_eq!(scan.spacing.common(), None);
    assert_eq!(
        (scan.spacing.from, scan.warnings),
        (Some(SpacingFrom::PixelSpacing), vec![])
    );
}

#[test]
fn areas_are_those_of_their_frames() {
    let Some(reports) = shared("reports") else {
        return;
    };
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/cardiac-lv-vit_t-256");
    let segmenter = Segmenter::open(&bundle).unwrap();
    let scan = ok(&std::fs::read(reports.join("r09_spacing_by_frame.dcm")).unwrap());
    let labels = scan
        .frames
        .iter()
        .map(|frame| segmenter.segment(frame).unwrap().0);
    let labels: Vec<_> = labels.collect();
    let found = instances(&labels, segmenter.manifest(), &scan.spacing);
    let areas: Vec<_> = found
        .iter()
        .map(|it| (it.area_px, it.area_mm2.unwrap()))
        .collect();
    assert_eq!(areas, [(671, 671.0 * 2.25), (509, 4581.0), (384, 216.0)]);
}

#[test]
fn padding_is_as_dark_as_the_darkest_real_pixel() {
    // Stored: 0 1 2 3 4 4095, of 12 bits.
    let padding = |bits: u16, vr| (0x0028_0120, vr, us(bits));
    let limit = (0x0028_0121, b"US", us(4095));
    let inverted = (0x0028_0004, b"CS", b"MONOCHROME1 ".to_vec());
    let signed = (0x0028_0103, b"US", us(1));
    for (name, changed, expected) in [
        (
            "none",
            vec![padding(9, b"US")],
            [0.0, 1.0, 2.0, 3.0, 4.0, 4095.0],
        ),
        (
            "brightest",
            vec![padding(4095, b"US")],
            [0.0, 1.0, 2.0, 3.0, 4.0, 0.0],
        ),
        (
            "a range",
            vec![padding(3, b"US"), limit],
            [0.0, 1.0, 2.0, 0.0, 0.0, 0.0],
        ),
        (
            "inverted",
            vec![padding(0, b"US"), inverted],
            [0.0, 4094.0, 4093.0, 4092.0, 4091.0, 0.0],
        ),
        (
            "negative, said as unsigned",
            vec![padding(0xffff, b"US"), signed.clone()],
            [0.0, 1.0, 2.0, 3.0, 4.0, 0.0],
        ),
        (
            "rescaled",
            vec![
                padding(0xffff, b"SS"),
                signed,
                number(SLOPE, "-2"),
                number(INTERCEPT, "1"),
            ],
            [1.0, -1.0, -3.0, -5.0, -7.0, -7.0],
        ),
    ] {
        assert_eq!(values(&changed), expected, "{name}");
    }
    let all = [padding(0, b"US"), (0x0028_0121, b"US", us(4095))];
    assert_eq!(values(&all), [0.0, 1.0, 2.0, 3.0, 4.0, 4095.0]);
}

#[test]
fn padding_of_floats_may_be_nan_and_other_nan_is_told() {
    let floats = |values: [f32; 6]| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        (0x7fe0_0008, b"OF", bytes.collect())
    };
    let stored = [f32::NAN, 1.5, 2.5, f32::NAN, 4.0, -3.0];
    let none = (0x7fe0_0010, b"OW", vec![]);
    let padding = (0x0028_0122, b"FL", f32::NAN.to_le_bytes().to_vec());
    let scan = ok(&small_dicom(&[floats(stored), none.clone(), padding]));
    assert_eq!(scan.frames[0].data, [-3.0, 1.5, 2.5, -3.0, 4.0, -3.0]);
    assert_eq!(scan.warnings, []);
    let scan = ok(&small_dicom(&[floats(stored), none]));
    assert_eq!(scan.warnings, [Warning::ValuesNotFinite]);
}
