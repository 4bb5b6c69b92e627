use std::io::Cursor;
use std::time::{Duration, Instant};

use image::{DynamicImage, ImageFormat};
use segmenter::decode::{DecodeError, Format, Limits, Scan, decode};
use segmenter::result::Warning;

use crate::elements::{Element, data_set};

fn kind(bytes: &[u8]) -> &'static str {
    match decode(bytes, &Limits::STANDARD) {
        Ok(_) => "ok",
        Err(error) => error.kind(),
    }
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn ok(bytes: &[u8]) -> Scan {
    decode(bytes, &Limits::STANDARD).unwrap()
}

/// An explicit VR little endian object of these elements, with preamble.
fn dicom(elements: &[Element]) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes.extend(b"DICM");
    let syntax = (0x0002_0010, b"UI", b"1.2.840.10008.1.2.1\0".to_vec());
    bytes.extend(data_set(&[syntax]));
    bytes.extend(data_set(elements));
    bytes
}

pub(crate) fn us(value: u16) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// A 2 x 3 image of 12 bits; `changed` replaces or adds elements, an empty value removes one.
pub(crate) fn small_dicom(changed: &[Element]) -> Vec<u8> {
    let pixels = [0u16, 1, 2, 3, 4, 4095]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let mut elements: Vec<Element> = vec![
        (0x0008_0018, b"UI", b"1.2.3.4\0".to_vec()),
        (0x0008_0060, b"CS", b"MR".to_vec()),
        (0x0010_0020, b"LO", b"SECRET".to_vec()),
        (0x0028_0002, b"US", us(1)),
        (0x0028_0004, b"CS", b"MONOCHROME2 ".to_vec()),
        (0x0028_0010, b"US", us(2)),
        (0x0028_0011, b"US", us(3)),
        (0x0028_0030, b"DS", b"0.5\\0.75".to_vec()),
        (0x0028_0100, b"US", us(16)),
        (0x0028_0101, b"US", us(12)),
        (0x0028_0102, b"US", us(11)),
        (0x0028_0103, b"US", us(0)),
        (0x7fe0_0010, b"OW", pixels),
    ];
    for change in changed {
        elements.retain(|(tag, ..)| *tag != change.0);
        if !change.2.is_empty() {
            elements.push(change.clone());
        }
    }
    elements.sort_by_key(|(tag, ..)| *tag);
    dicom(&elements)
}

fn png_header(cols: u32, rows: u32) -> Vec<u8> {
    let mut bytes = encoded(&DynamicImage::new_luma8(1, 1), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&cols.to_be_bytes());
    bytes[20..24].copy_from_slice(&rows.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[test]
fn hopeless_files_get_a_code() {
    let jpeg = encoded(&DynamicImage::new_luma8(64, 64), ImageFormat::Jpeg);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "empty"),
        (
            "text",
            b"Dear radiologist, please find attached".to_vec(),
            "not_an_image",
        ),
        ("zeros", vec![0; 4096], "not_an_image"),
        (
            "png header of 40000 x 40000",
            png_header(40_000, 40_000),
            "too_large",
        ),
        ("cut jpeg", jpeg[..jpeg.len() - 2].to_vec(), "truncated"),
        (
            "no pixels",
            small_dicom(&[(0x7fe0_0010, b"OW", vec![])]),
            "no_pixel_data",
        ),
        (
            "rows 0",
            small_dicom(&[(0x0028_0010, b"US", us(0))]),
            "no_pixels",
        ),
        (
            "rows missing",
            small_dicom(&[(0x0028_0010, b"US", vec![])]),
            "bad_attribute",
        ),
        (
            "rows as text",
            small_dicom(&[(0x0028_0010, b"LO", b"many".to_vec())]),
            "bad_attribute",
        ),
        (
            "rows x columns",
            small_dicom(&[(0x0028_0010, b"US", us(9))]),
            "truncated",
        ),
        (
            "65535 x 65535",
            small_dicom(&[
                (0x0028_0010, b"US", us(65535)),
                (0x0028_0011, b"US", us(65535)),
            ]),
            "too_large",
        ),
        (
            "2e9 frames",
            small_dicom(&[(0x0028_0008, b"IS", b"2000000000".to_vec())]),
            "too_large",
        ),
        (
            "5000 frames",
            small_dicom(&[(0x0028_0008, b"IS", b"5000".to_vec())]),
            "too_large",
        ),
        (
            "4000 frames of 1",
            small_dicom(&[(0x0028_0008, b"IS", b"4000".to_vec())]),
            "truncated",
        ),
        (
            "slope nan",
            small_dicom(&[(0x0028_1053, b"DS", b"nan ".to_vec())]),
            "bad_attribute",
        ),
        (
            "slope text",
            small_dicom(&[(0x0028_1053, b"DS", b"one ".to_vec())]),
            "bad_attribute",
        ),
        (
            "17 bits stored",
            small_dicom(&[(0x0028_0101, b"US", us(17))]),
            "bad_attribute",
        ),
        (
            "24 bits allocated",
            small_dicom(&[(0x0028_0100, b"US", us(24))]),
            "unsupported",
        ),
        (
            "cmyk",
            small_dicom(&[(0x0028_0004, b"CS", b"CMYK".to_vec())]),
            "unsupported",
        ),
    ];
    for (name, bytes, expected) in cases {
        let start = Instant::now();
        assert_eq!(kind(&bytes), expected, "{name}");
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{name} took {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn lengths_and_nesting_that_lie_are_refused_before_they_cost_memory() {
    let mut long = small_dicom(&[]);
    let at = long.len() - 12 - 4;
    long[at..at + 4].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    assert_eq!(kind(&long), "truncated");

    // (0040,A730) SQ of undefined length, item of undefined length, and so on.
    let level = [0x40, 0, 0x30, 0xa7, b'S', b'Q', 0, 0, 255, 255, 255, 255];
    let item = [0xfe, 0xff, 0, 0xe0, 255, 255, 255, 255];
    let mut deep = dicom(&[]);
    for _ in 0..100_000 {
        deep.extend(level);
        deep.extend(item);
    }
    assert_eq!(kind(&deep), "malformed");
}

#[test]
fn every_cut_of_a_file_gives_an_answer() {
    let picture = DynamicImage::ImageRgb8(image::RgbImage::from_fn(40, 30, |x, y| {
        image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8])
    }));
    let files = [
        encoded(&picture, ImageFormat::Png),
        encoded(&picture, ImageFormat::Jpeg),
        encoded(&picture, ImageFormat::Tiff),
        small_dicom(&[(0x0028_1053, b"DS", b"2 ".to_vec())]),
    ];
    for (index, bytes) in files.iter().enumerate() {
        assert_eq!(kind(bytes), "ok", "file {index}");
        for length in 1..bytes.len() {
            let kind = kind(&bytes[..length]);
            assert_ne!(kind, "decoder_panicked", "file {index} cut to {length}");
            // A PNG may lack its trailer, and a TIFF the end of its tags.
            let trailer = bytes.len().min(if index == 0 { 16 } else { 2 });
            if length + trailer < bytes.len() {
                assert_ne!(
                    kind,
                    "ok",
                    "file {index} cut to {length} of {}",
                    bytes.len()
                );
            }
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let picture = DynamicImage::new_rgb8(9, 7);
    let files = [
        encoded(&picture, ImageFormat::Png),
        encoded(&picture, ImageFormat::Jpeg),
        encoded(&picture, ImageFormat::Tiff),
        small_dicom(&[]),
    ];
    for (index, bytes) in files.iter().enumerate() {
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                assert_ne!(
                    kind(&bytes),
                    "decoder_panicked",
                    "file {index} byte {at} = {value}"
                );
            }
        }
    }
}

#[test]
fn rasters_keep_their_stored_values() {
    let grey = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(2, 1, vec![7u16, 40_000]);
    let grey = DynamicImage::ImageLuma16(grey.unwrap());
    let alpha = image::RgbaImage::from_raw(1, 1, vec![10, 20, 30, 40]).unwrap();
    let alpha = DynamicImage::ImageRgba8(alpha);
    for (format, expected) in [
        (ImageFormat::Png, Format::Png),
        (ImageFormat::Tiff, Format::Tiff),
    ] {
        let scan = ok(&encoded(&grey, format));
        assert_eq!(scan.format, expected);
        assert_eq!((scan.frames[0].rows, scan.frames[0].cols), (1, 2));
        assert_eq!(scan.frames[0].data, [7.0, 40_000.0]);
        let scan = ok(&encoded(&alpha, format));
        assert_eq!(
            (scan.frames[0].channels, scan.frames[0].data.as_slice()),
            (3, &[10., 20., 30.][..])
        );
    }
    let jpeg = ok(&encoded(&DynamicImage::new_luma8(8, 4), ImageFormat::Jpeg));
    assert_eq!((jpeg.frames[0].rows, jpeg.frames[0].channels), (4, 1));
    assert_eq!(jpeg.spacing.common(), None);
    assert_eq!(jpeg.warnings, [Warning::SpacingUnknown]);
}

#[test]
fn dicom_gives_modality_values_and_hides_the_patient() {
    let scan = ok(&small_dicom(&[
        (0x0028_1052, b"DS", b"-10 ".to_vec()),
        (0x0028_1053, b"DS", b"2 ".to_vec()),
    ]));
    assert_eq!(scan.frames[0].data, [-10.0, -8.0, -6.0, -4.0, -2.0, 8180.0]);
    assert_eq!((scan.frames[0].rows, scan.frames[0].cols), (2, 3));
    assert_eq!(scan.spacing.common(), Some([0.5, 0.75]));
    assert_eq!(scan.warnings, []);
    assert_eq!(scan.modality.as_deref(), Some("MR"));
    assert_eq!(
        scan.identifiers.sop_instance_uid.as_deref(),
        Some("1.2.3.4")
    );
    assert_eq!(scan.identifiers.patient_id.as_deref(), Some("SECRET"));
    let printed = format!("{:?}", scan.identifiers);
    assert!(
        !printed.contains("SECRET") && !printed.contains("1.2.3.4"),
        "{printed}"
    );
    assert!(
        printed.contains("hidden") && printed.contains("absent"),
        "{printed}"
    );

    let inverted = ok(&small_dicom(&[(
        0x0028_0004,
        b"CS",
        b"MONOCHROME1 ".to_vec(),
    )]));
    assert_eq!(
        inverted.frames[0].data,
        [4095.0, 4094.0, 4093.0, 4092.0, 4091.0, 0.0],
        "mirrored in its 12 bits"
    );
    let signed = ok(&small_dicom(&[(0x0028_0103, b"US", us(1))]));
    assert_eq!(signed.frames[0].data, [0.0, 1.0, 2.0, 3.0, 4.0, -1.0]);
}

#[test]
fn dicom_without_preamble_and_without_meta_is_found_by_content() {
    let whole = small_dicom(&[]);
    let expected = ok(&whole).frames;
    for (name, bytes) in [("no preamble", &whole[128..]), ("no magic", &whole[132..])] {
        assert_eq!(ok(bytes).frames, expected, "{name}");
    }
    let dataset = &whole[132 + 8 + 20..];
    assert_eq!(ok(dataset).frames, expected, "no meta");
}

#[test]
fn limits_hold() {
    let bytes = small_dicom(&[]);
    let standard = Limits::STANDARD;
    assert!(
        decode(
            &bytes,
            &Limits {
                max_pixels_per_frame: 6,
                ..standard
            }
        )
        .is_ok()
    );
    let error = |limits| decode(&bytes, &limits).unwrap_err();
    let what = "the image in px";
    assert_eq!(
        error(Limits {
            max_pixels_per_frame: 5,
            ..standard
        }),
        DecodeError::TooLarge {
            what,
            found: 6,
            limit: 5
        }
    );
    assert_eq!(
        error(Limits {
            max_frames: 0,
            ..standard
        })
        .kind(),
        "too_large"
    );
    assert_eq!(
        error(Limits {
            max_bytes: 100,
            ..standard
        })
        .kind(),
        "too_large"
    );
    let limit = Duration::ZERO;
    let too_slow = error(Limits {
        max_time: Some(limit),
        ..standard
    });
    assert_eq!(too_slow, DecodeError::TooSlow { limit });
    assert_eq!(too_slow.kind(), "too_slow");
}
