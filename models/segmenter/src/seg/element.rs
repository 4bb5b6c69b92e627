//! Elements of a data set, and values in the form that DICOM gives them.

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

pub(super) type Object = InMemDicomObject;

/// LO.
pub(super) const WORDS_MAX: usize = 64;

pub(super) fn text(object: &mut Object, tag: Tag, vr: VR, value: &str) {
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
}

pub(super) fn number(object: &mut Object, tag: Tag, value: u16) {
    object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
}

pub(super) fn put_items(object: &mut Object, tag: Tag, items: impl IntoIterator<Item = Object>) {
    let items: Vec<Object> = items.into_iter().collect();
    object.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
}

pub(super) fn code(value: &str, scheme: &str, meaning: &str) -> Object {
    let mut item = Object::new_empty();
    text(&mut item, tags::CODE_VALUE, VR::SH, value);
    text(&mut item, tags::CODING_SCHEME_DESIGNATOR, VR::SH, scheme);
    text(&mut item, tags::CODE_MEANING, VR::LO, meaning);
    item
}

/// A label is its own code, wherever it is used; 16 characters are all that a code may have, so it is
/// the FNV-1a hash of the label.
pub(super) fn local_code(label: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{hash:016X}")
}

/// A text of a manifest as LO, which has no backslash and 64 characters.
pub(super) fn cut(words: &str) -> String {
    let plain = |c: char| if c == '\\' || c.is_control() { ' ' } else { c };
    words
        .chars()
        .map(plain)
        .take(WORDS_MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// DS has 16 characters.
pub(super) fn decimal(value: f64) -> String {
    let text = format!("{value:.6}");
    text.chars().take(16).collect()
}

/// DA and TM of an RFC 3339 time.
pub(super) fn date_and_time(made_at: &str) -> (String, String) {
    let (date, time) = made_at.split_once('T').unwrap_or((made_at, ""));
    let plain = |text: &str| text.replace(['-', ':', 'Z'], "");
    (plain(date), plain(time))
}

/// Linear sRGB to XYZ, Bradford-adapted to D50 (Lindbloom).
const TO_XYZ: [[f64; 3]; 3] = [
    [0.436_074_7, 0.385_064_9, 0.143_080_4],
    [0.222_504_5, 0.716_878_6, 0.060_616_9],
    [0.013_932_2, 0.097_104_5, 0.714_173_3],
];
const WHITE: [f64; 3] = [0.964_22, 1.0, 0.825_21];

/// sRGB to CIELab of a D50 white, as PS3.3 C.10.7.1.1 encodes it.
pub(super) fn cie_lab(color: [u8; 3]) -> [u16; 3] {
    let linear = color.map(|value| {
        let value = f64::from(value) / 255.0;
        if value <= 0.040_45 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    });
    let [x, y, z]: [f64; 3] = std::array::from_fn(|row| {
        let sum: f64 = TO_XYZ[row].iter().zip(linear).map(|(a, b)| a * b).sum();
        let value = sum / WHITE[row];
        if value > 216.0 / 24_389.0 {
            value.cbrt()
        } else {
            (24_389.0 / 27.0 * value + 16.0) / 116.0
        }
    });
    let lightness = 116.0 * y - 16.0;
    let sign = |value: f64| ((value + 128.0) / 255.0 * 65_535.0).round() as u16;
    [
        (lightness / 100.0 * 65_535.0).round() as u16,
        sign(500.0 * (x - y)),
        sign(200.0 * (y - z)),
    ]
}
