//! Pictures whose metadata say how they stand.

use std::io::Cursor;

use ::tiff::encoder::{TiffEncoder, colortype};
use ::tiff::tags::Tag;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use segmenter::decode::{Limits, Scan, decode};

/// Two rows and three columns, far enough apart for JPEG.
const STORED: [u8; 6] = [0, 50, 100, 150, 200, 250];

/// EXIF with an orientation alone.
fn exif(orientation: u8, big_endian: bool) -> Vec<u8> {
    let number = orientation;
    if big_endian {
        let mut exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([number, 0, 0, 0, 0, 0, 0]);
        exif
    } else {
        let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([number, 0, 0, 0, 0, 0, 0, 0]);
        exif
    }
}

/// Each stored value fills a block of 8 x 8 px, so that JPEG keeps it.
fn blocks() -> (Vec<u8>, u32, u32) {
    let data = (0..16 * 24).map(|i| STORED[i / (24 * 8) * 3 + i % 24 / 8]);
    (data.collect(), 24, 16)
}

fn jpeg(exif: Vec<u8>) -> Vec<u8> {
    let (data, cols, rows) = blocks();
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(exif).unwrap();
    encoder
        .write_image(&data, cols, rows, ExtendedColorType::L8)
        .unwrap();
    bytes
}

fn png(exif: Vec<u8>) -> Vec<u8> {
    let (data, cols, rows) = blocks();
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new(&mut bytes);
    encoder.set_exif_metadata(exif).unwrap();
    encoder
        .write_image(&data, cols, rows, ExtendedColorType::L8)
        .unwrap();
    bytes
}

/// With the chunk behind the pixels, before the last one.
fn png_with_exif_at_the_end(exif: Vec<u8>) -> Vec<u8> {
    let mut bytes = png(exif);
    let at = bytes.windows(4).position(|it| it == b"eXIf").unwrap() - 4;
    let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let chunk: Vec<u8> = bytes.drain(at..at + 12 + length).collect();
    let end = bytes.len() - 12;
    bytes.splice(end..end, chunk);
    bytes
}

fn tiff(orientation: u8) -> Vec<u8> {
    let (data, cols, rows) = blocks();
    let mut bytes = Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut bytes).unwrap();
    let mut image = encoder.new_image::<colortype::Gray8>(cols, rows).unwrap();
    image
        .encoder()
        .write_tag(Tag::Orientation, u16::from(orientation))
        .unwrap();
    image.write_data(&data).unwrap();
    bytes.into_inner()
}

/// The middle of each block, row by row, and the number of rows of blocks.
fn shown(bytes: &[u8]) -> (Vec<u8>, usize) {
    let Scan { frames, .. } = decode(bytes, &Limits::STANDARD).unwrap();
    let image = &frames[0];
    let (rows, cols) = (image.rows / 8, image.cols / 8);
    let middle = |block: usize| {
        let (row, col) = (block / cols * 8 + 4, block % cols * 8 + 4);
        // To the next value that was stored.
        let value = image.data[(row * image.cols + col) * image.channels];
        ((value / 50.0).round() * 50.0) as u8
    };
    ((0..rows * cols).map(middle).collect(), rows)
}

/// What EXIF 2.3 says of tag 274: where the stored row 0 and column 0 are seen.
#[test]
fn pictures_are_seen_as_their_orientation_says() {
    let [a, b, c, d, e, f] = STORED;
    let cases = [
        (1, [a, b, c, d, e, f], 2),
        (2, [c, b, a, f, e, d], 2),
        (3, [f, e, d, c, b, a], 2),
        (4, [d, e, f, a, b, c], 2),
        (5, [a, d, b, e, c, f], 3),
        (6, [d, a, e, b, f, c], 3),
        (7, [f, c, e, b, d, a], 3),
        (8, [c, f, b, e, a, d], 3),
        (0, [a, b, c, d, e, f], 2),
        (9, [a, b, c, d, e, f], 2),
    ];
    for (orientation, wanted, rows) in cases {
        let little = exif(orientation, false);
        for (name, bytes) in [
            ("jpeg", jpeg(little.clone())),
            ("jpeg, big endian", jpeg(exif(orientation, true))),
            ("png", png(little.clone())),
            ("png, exif last", png_with_exif_at_the_end(little)),
            ("tiff", tiff(orientation)),
        ] {
            assert_eq!(
                shown(&bytes),
                (wanted.to_vec(), rows),
                "{name} {orientation}"
            );
        }
    }
}
