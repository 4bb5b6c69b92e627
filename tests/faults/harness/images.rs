//! Images for the daemon's inbox and its other inputs. Each number gives a file with other bytes.

use std::io::Cursor;

use image::{GrayImage, ImageFormat, Luma};

const BRIGHT: u8 = 220;
const DARK: u8 = 10;

/// A bright rectangle on a dark background, as a PNG file.
pub(crate) fn png(number: usize) -> Vec<u8> {
    let side = 40;
    encode(&GrayImage::from_fn(side, side, |x, y| {
        let bright = x > 8 && x < 30 && y > 8 && y < 20 + (number % 16) as u32;
        // The last row spells the number.
        let bit = u8::from(y == side - 1 && number >> x & 1 == 1);
        Luma([if bright { BRIGHT } else { DARK + bit }])
    }))
}

/// Stripes, whose mask has many runs.
pub(crate) fn striped_png(number: usize, side: u32) -> Vec<u8> {
    encode(&GrayImage::from_fn(side, side, |x, y| {
        let bright = (y / (side / 8)).is_multiple_of(2);
        let bit = u8::from(y == side - 1 && number >> x.min(31) & 1 == 1);
        Luma([if bright { BRIGHT } else { DARK + bit }])
    }))
}

fn encode(image: &GrayImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}
