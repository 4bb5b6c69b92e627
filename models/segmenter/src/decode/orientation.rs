//! EXIF orientation of photographs and scans: the picture is turned until it stands as every viewer shows it
//! and as its labels were drawn.

use contract::Image;
pub use image::metadata::Orientation;

use super::format::Format;
use super::magic::sniff;

/// How a PNG, JPEG or TIFF file (its first page) wants to be turned. What names no orientation, or an unknown one,
/// stays as it is.
pub fn orientation(bytes: &[u8]) -> Orientation {
    let exif = match sniff(bytes) {
        Some(Format::Png) => png_exif(bytes),
        Some(Format::Jpeg) => jpeg_exif(bytes),
        // EXIF is written as a TIFF file.
        Some(Format::Tiff) => Some(bytes),
        _ => None,
    };
    exif.and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// Rows of pixels with `channels` values each, turned; with their number of rows and columns afterwards.
pub fn turned<T: Copy>(
    data: &[T],
    (rows, cols): (usize, usize),
    channels: usize,
    orientation: Orientation,
) -> (Vec<T>, usize, usize) {
    use Orientation as O;
    let on_its_side = matches!(
        orientation,
        O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH
    );
    let (to_rows, to_cols) = if on_its_side {
        (cols, rows)
    } else {
        (rows, cols)
    };
    let mut turned = Vec::with_capacity(data.len());
    for row in 0..to_rows {
        for col in 0..to_cols {
            let (row, col) = match orientation {
                O::NoTransforms => (row, col),
                O::FlipHorizontal => (row, cols - 1 - col),
                O::Rotate180 => (rows - 1 - row, cols - 1 - col),
                O::FlipVertical => (rows - 1 - row, col),
                O::Rotate90FlipH => (col, row),
                O::Rotate90 => (rows - 1 - col, row),
                O::Rotate270FlipH => (rows - 1 - col, cols - 1 - row),
                O::Rotate270 => (col, cols - 1 - row),
            };
            let pixel = (row * cols + col) * channels;
            turned.extend_from_slice(&data[pixel..pixel + channels]);
        }
    }
    (turned, to_rows, to_cols)
}

pub(super) fn upright(image: Image, orientation: Orientation) -> Image {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let size = (image.rows, image.cols);
    let (data, rows, cols) = turned(&image.data, size, image.channels, orientation);
    Image {
        rows,
        cols,
        data,
        ..image
    }
}

/// The chunk may stand behind the pixels, too.
fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (head, behind) = rest.split_at_checked(8)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if &head[4..] == b"eXIf" {
            return behind.get(..length);
        }
        // A checksum of four bytes ends each chunk.
        rest = behind.get(length.checked_add(4)?..)?;
    }
}

/// Out of the segments before the pixels.
fn jpeg_exif(bytes: &[u8]) -> Option<&[u8]> {
    const START_OF_SCAN: u8 = 0xda;
    const APP1: u8 = 0xe1;
    let mut rest = bytes.get(2..)?;
    loop {
        // Any number of 0xff may come before a marker.
        let marker = rest.iter().position(|&byte| byte != 0xff)?;
        let (&code, behind) = rest[marker..].split_first()?;
        if marker == 0 || code == START_OF_SCAN {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*behind.first()?, *behind.get(1)?]));
        let content = behind.get(2..length)?;
        if code == APP1
            && let Some(exif) = content.strip_prefix(b"Exif\0\0")
        {
            return Some(exif);
        }
        rest = &behind[length..];
    }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GrayImage};

    use super::*;

    /// Every orientation of EXIF against the image crate's own turning of a picture of 2 x 3 px.
    #[test]
    fn pictures_are_turned_as_the_image_crate_turns_them() {
        let stored = GrayImage::from_raw(3, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        for number in 1..=8 {
            let orientation = Orientation::from_exif(number).unwrap();
            let mut wanted = DynamicImage::ImageLuma8(stored.clone());
            wanted.apply_orientation(orientation);
            let (data, rows, cols) = turned(stored.as_raw(), (2, 3), 1, orientation);
            assert_eq!(data, wanted.as_bytes(), "orientation {number}");
            assert_eq!(
                (rows, cols),
                (wanted.height() as usize, wanted.width() as usize)
            );
        }
    }

    #[test]
    fn the_channels_of_a_pixel_stay_together() {
        let (data, rows, cols) = turned(&[1, 2, 3, 4, 5, 6], (1, 2), 3, Orientation::Rotate90);
        assert_eq!((data, rows, cols), (vec![1, 2, 3, 4, 5, 6], 2, 1));
        let (data, ..) = turned(&[1, 2, 3, 4, 5, 6], (1, 2), 3, Orientation::Rotate180);
        assert_eq!(data, [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn what_is_damaged_has_no_orientation() {
        for bytes in [
            &b"\xff\xd8\xff\xe1\0"[..],
            b"\xff\xd8\xff\xe1\0\x01Exif",
            b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0",
            b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffeXIf",
            b"II*\0\xff\xff\xff\xff",
            b"",
        ] {
            assert_eq!(orientation(bytes), Orientation::NoTransforms, "{bytes:?}");
        }
    }
}
