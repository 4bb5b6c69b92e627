//! Files that cannot be segmented, and what is said of each.

use phantom::dicom::{Ids, to_bytes};

/// File name, content, code of the reason, and what its words have to say.
pub(crate) fn bad_files() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let phantom = phantom::Heart::new(1).slice_sized(3, 9, 0.0, 64);
    let dicom = to_bytes(&phantom, &Ids::new(&phantom, 1, 1)).unwrap();
    let tag = b"\xe0\x7f\x10\x00OW";
    let pixels = dicom
        .windows(tag.len())
        .position(|bytes| bytes == tag)
        .unwrap();
    vec![
        (
            "truncated.dcm",
            dicom[..pixels + 1000].to_vec(),
            "truncated",
            "ends too early",
        ),
        (
            "no-pixels.dcm",
            dicom[..pixels].to_vec(),
            "no_pixel_data",
            "no pixel data",
        ),
        (
            "presentation.dcm",
            with_modality(&dicom, *b"PR"),
            "no_patient_image",
            "its Modality is PR",
        ),
        (
            "text.dcm",
            b"not an image at all\n".to_vec(),
            "not_an_image",
            "neither PNG",
        ),
        ("empty.png", Vec::new(), "empty", "the file is empty"),
        (
            "huge.png",
            png_header(40_000, 40_000),
            "too_large",
            "1600000000",
        ),
    ]
}

fn with_modality(dicom: &[u8], modality: [u8; 2]) -> Vec<u8> {
    let header = b"\x08\0\x60\0CS\x02\0";
    let mut bytes = dicom.to_vec();
    let found = bytes.windows(header.len()).position(|it| it == header);
    let value = found.unwrap() + header.len();
    bytes[value..value + 2].copy_from_slice(&modality);
    bytes
}

/// Signature and IHDR, 8-bit grey, and the start of pixel data that never comes.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut ihdr = b"IHDR".to_vec();
    ihdr.extend(width.to_be_bytes());
    ihdr.extend(height.to_be_bytes());
    ihdr.extend([8, 0, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&ihdr);
    png.extend(crc(&ihdr).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    png
}

/// CRC-32 of ISO 3309, as PNG's annex D defines it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
