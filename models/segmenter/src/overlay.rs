//! An 8-bit picture of an image with its masks drawn over it, for people.

use std::io::Cursor;

use contract::intensity::{Window, window};
use contract::manifest::Class;
use contract::{Image, LabelMap};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// Share of the class colour inside a mask; its contour is opaque.
const FILL: f32 = 0.4;

/// PNG of `image` (its own minimum and maximum as window) with each class at 40 % of its colour and a
/// contour at 100 %. `labels` has the image's size.
pub fn overlay_png(image: &Image, labels: &LabelMap, classes: &[Class]) -> Vec<u8> {
    assert_eq!(
        (image.rows, image.cols),
        (labels.rows, labels.cols),
        "one label a pixel"
    );
    let grey = window(image, Window::MinMax);
    let mut pixels = Vec::with_capacity(image.rows * image.cols * 3);
    for (at, &label) in labels.data.iter().enumerate() {
        let value = |channel: usize| grey.data[at * grey.channels + channel % grey.channels];
        let class = classes.iter().find(|class| class.id == label);
        let share = match class {
            None => 0.0,
            Some(_) if is_contour(labels, at) => 1.0,
            Some(_) => FILL,
        };
        let color = class.map_or([0; 3], |class| class.color);
        for (channel, &target) in color.iter().enumerate() {
            let mixed = value(channel) * (1.0 - share) + f32::from(target) * share;
            pixels.push(mixed.round() as u8);
        }
    }
    let mut png = Cursor::new(Vec::new());
    PngEncoder::new(&mut png)
        .write_image(
            &pixels,
            image.cols as u32,
            image.rows as u32,
            ExtendedColorType::Rgb8,
        )
        .expect("writing to memory cannot fail and the buffer has three bytes a pixel");
    png.into_inner()
}

/// Does a direct neighbour, or the outside of the image, carry another label?
fn is_contour(labels: &LabelMap, at: usize) -> bool {
    let (row, col) = (at / labels.cols, at % labels.cols);
    let same = |row: usize, col: usize| labels.data[row * labels.cols + col] == labels.data[at];
    row == 0
        || col == 0
        || row + 1 == labels.rows
        || col + 1 == labels.cols
        || !(same(row - 1, col) && same(row + 1, col) && same(row, col - 1) && same(row, col + 1))
}
