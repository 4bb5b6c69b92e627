//! DICOM files of a few elements, byte by byte, so that each can be as a writer left it.

use std::collections::BTreeMap;

use segmenter::decode::{Limits, Scan, decode};

pub(crate) const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub(crate) const IMPLICIT: &str = "1.2.840.10008.1.2";
pub(crate) const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
pub(crate) const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
pub(crate) const OPEN: u32 = u32::MAX;

pub(crate) const ROWS: u32 = 0x0028_0010;
pub(crate) const INTERCEPT: u32 = 0x0028_1052;
pub(crate) const SLOPE: u32 = 0x0028_1053;
pub(crate) const PIXELS: u32 = 0x7fe0_0010;
/// A group whose elements nobody knows.
pub(crate) const PRIVATE: u32 = 0x0029_1010;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum As {
    Explicit,
    Implicit,
    BigEndian,
}

/// One element, its length as written.
pub(crate) fn claimed(how: As, tag: u32, vr: &[u8], length: u32, value: &[u8]) -> Vec<u8> {
    let big = how == As::BigEndian;
    let u16 = |number: u16| {
        if big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    };
    let u32 = |number: u32| {
        if big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    };
    let mut bytes = [u16((tag >> 16) as u16), u16(tag as u16)].concat();
    if how == As::Implicit || tag >> 16 == 0xfffe {
        bytes.extend(u32(length));
    } else if [&b"OB"[..], b"OW", b"SQ", b"UN", b"UT", b"OF"].contains(&vr) {
        bytes.extend([vr, &[0, 0], &u32(length)].concat());
    } else {
        bytes.extend([vr, &u16(length as u16)].concat());
    }
    bytes.extend(value);
    bytes
}

pub(crate) fn element(how: As, tag: u32, vr: &[u8], value: &[u8]) -> Vec<u8> {
    claimed(how, tag, vr, value.len() as u32, value)
}

pub(crate) fn item(content: &[u8]) -> Vec<u8> {
    element(As::Implicit, 0xfffe_e000, b"", content)
}

pub(crate) fn open_item(content: &[u8]) -> Vec<u8> {
    let end = claimed(As::Implicit, 0xfffe_e00d, b"", 0, b"");
    [claimed(As::Implicit, 0xfffe_e000, b"", OPEN, content), end].concat()
}

pub(crate) fn open_sequence(how: As, tag: u32, vr: &[u8], items: &[u8]) -> Vec<u8> {
    [claimed(how, tag, vr, OPEN, items), sequence_end()].concat()
}

pub(crate) fn sequence_end() -> Vec<u8> {
    claimed(As::Implicit, 0xfffe_e0dd, b"", 0, b"")
}

pub(crate) type Parts = Vec<(u32, &'static [u8; 2], Vec<u8>)>;

fn number(how: As, number: u16) -> Vec<u8> {
    match how {
        As::BigEndian => number.to_be_bytes().to_vec(),
        _ => number.to_le_bytes().to_vec(),
    }
}

/// An image of 2 x 3 px, its values 2 x stored - 10.
pub(crate) fn parts(how: As) -> Parts {
    let us = |value| number(how, value);
    let pixels = [0, 1, 2, 3, 4, 4095].map(us).concat();
    vec![
        (0x0008_0016, b"UI", b"1.2.840.10008.5.1.4.1.1.4\0".to_vec()),
        (0x0008_0018, b"UI", b"1.2.3.4\0".to_vec()),
        (0x0008_0060, b"CS", b"MR".to_vec()),
        (0x0010_0010, b"PN", b"Test^Unknown".to_vec()),
        (0x0010_0020, b"LO", b"T-0302".to_vec()),
        (0x0020_000d, b"UI", b"1.2.3\0".to_vec()),
        (0x0020_000e, b"UI", b"1.2.3.5\0".to_vec()),
        (0x0028_0002, b"US", us(1)),
        (0x0028_0004, b"CS", b"MONOCHROME2 ".to_vec()),
        (ROWS, b"US", us(2)),
        (0x0028_0011, b"US", us(3)),
        (0x0028_0030, b"DS", b"0.5\\0.75".to_vec()),
        (0x0028_0100, b"US", us(16)),
        (0x0028_0101, b"US", us(12)),
        (0x0028_0102, b"US", us(11)),
        (0x0028_0103, b"US", us(0)),
        (INTERCEPT, b"DS", b"-10 ".to_vec()),
        (SLOPE, b"DS", b"2 ".to_vec()),
        (PIXELS, b"OW", pixels),
    ]
}

/// The data set, some of its elements replaced or added; one of no bytes is left out.
pub(crate) fn data_set(how: As, changed: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut elements: BTreeMap<u32, Vec<u8>> = parts(how)
        .into_iter()
        .map(|(tag, vr, value)| (tag, element(how, tag, vr, &value)))
        .collect();
    elements.extend(changed.iter().cloned());
    elements.into_values().flatten().collect()
}

pub(crate) fn file(syntax: &str, data_set: &[u8]) -> Vec<u8> {
    let mut uid = syntax.as_bytes().to_vec();
    uid.resize(uid.len().next_multiple_of(2), 0);
    let meta = element(As::Explicit, 0x0002_0010, b"UI", &uid);
    [&[0; 128], &b"DICM"[..], &meta, data_set].concat()
}

pub(crate) fn image(changed: &[(u32, Vec<u8>)]) -> Vec<u8> {
    file(EXPLICIT, &data_set(As::Explicit, changed))
}

pub(crate) fn assert_same(name: &str, bytes: &[u8]) {
    let scan = decode(bytes, &Limits::STANDARD).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = [-10.0, -8.0, -6.0, -4.0, -2.0, 8180.0];
    assert_eq!(scan.frames[0].data, expected, "{name}");
    assert_eq!((scan.frames[0].rows, scan.frames[0].cols), (2, 3), "{name}");
    assert_eq!(scan.spacing.common(), Some([0.5, 0.75]), "{name}");
    assert_eq!(scan.modality.as_deref(), Some("MR"), "{name}");
    let patient = scan.identifiers.patient_id.as_deref();
    assert_eq!(patient, Some("T-0302"), "{name}");
}

pub(crate) fn scan(bytes: &[u8]) -> Scan {
    decode(bytes, &Limits::STANDARD).unwrap()
}

pub(crate) fn words(bytes: &[u8]) -> String {
    decode(bytes, &Limits::STANDARD).unwrap_err().to_string()
}
