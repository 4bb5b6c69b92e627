//! finetune-SAM's changes to a training image: torchvision's operations and ranges, our random numbers.
//!
//! Equalization and colours change 8-bit values, which are then normalized; crop and rotation move the normalized
//! pixels, so what turns in from outside is 0: the mean grey, and background.

use contract::geometry::InputRules;
use contract::{Image, LabelMap};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Frame, between, eight_bit};

const EQUALIZE_PROBABILITY: f32 = 0.1;
/// `ColorJitter`: factors in 1 +- this, the hue in +- this.
const JITTER: f32 = 0.3;
/// `RandomResizedCrop`: share of the area, sides' ratio, tries before the whole frame is taken.
const AREA: [f32; 2] = [0.5, 1.5];
const RATIO: [f32; 2] = [3.0 / 4.0, 4.0 / 3.0];
const TRIES: usize = 10;
const ROTATION_DEG: f32 = 45.0;

/// `frame` has the labels of `scaled`, which are the 8-bit values that [`InputRules::scaled`] makes.
pub(crate) fn augment(
    scaled: &Image,
    frame: &Frame,
    input: &InputRules,
    rng: &mut ChaCha8Rng,
) -> Frame {
    let mut pixels = to_rgb(scaled);
    if rng.random::<f32>() < EQUALIZE_PROBABILITY {
        eight_bit::equalize(&mut pixels);
    }
    jitter(&mut pixels, rng);
    let changed = Image {
        channels: 3,
        data: pixels
            .as_flattened()
            .iter()
            .copied()
            .map(f32::from)
            .collect(),
        ..*scaled
    };
    let crop = Crop::draw(frame.size, rng);
    let angle_deg = between(-ROTATION_DEG, ROTATION_DEG, rng);
    let pixels = input.normalized(changed);
    moved(&pixels, frame, &crop, angle_deg)
}

fn to_rgb(image: &Image) -> Vec<[u8; 3]> {
    let level = |x: &f32| *x as u8;
    if image.channels == 3 {
        let (pixels, _) = image.data.as_chunks::<3>();
        return pixels.iter().map(|pixel| pixel.map(|x| x as u8)).collect();
    }
    image.data.iter().map(|x| [level(x); 3]).collect()
}

fn jitter(pixels: &mut [[u8; 3]], rng: &mut ChaCha8Rng) {
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    let [brightness, contrast, saturation] =
        [(); 3].map(|()| between(1.0 - JITTER, 1.0 + JITTER, rng));
    let hue = between(-JITTER, JITTER, rng);
    for change in order {
        match change {
            0 => eight_bit::brightness(pixels, brightness),
            1 => eight_bit::contrast(pixels, contrast),
            2 => eight_bit::saturation(pixels, saturation),
            _ => eight_bit::hue(pixels, hue),
        }
    }
}

/// The part of a frame that is enlarged to all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crop {
    top: usize,
    left: usize,
    rows: usize,
    cols: usize,
}

impl Crop {
    /// Half of the areas drawn are larger than the frame; the sides decide.
    fn draw(size: usize, rng: &mut ChaCha8Rng) -> Self {
        for _ in 0..TRIES {
            let area = (size * size) as f32 * between(AREA[0], AREA[1], rng);
            let ratio = between(RATIO[0].ln(), RATIO[1].ln(), rng).exp();
            let cols = (area * ratio).sqrt().round_ties_even() as usize;
            let rows = (area / ratio).sqrt().round_ties_even() as usize;
            if (1..=size).contains(&cols) && (1..=size).contains(&rows) {
                return Self {
                    top: rng.random_range(0..=size - rows),
                    left: rng.random_range(0..=size - cols),
                    rows,
                    cols,
                };
            }
        }
        // torchvision's central crop of a fitting ratio, which of a square is the square.
        Self {
            top: 0,
            left: 0,
            rows: size,
            cols: size,
        }
    }
}

/// Crop, enlargement and rotation counter-clockwise about the middle. Each takes the nearest pixel, so one
/// look-up through both gives what one after the other would.
fn moved(pixels: &[f32], frame: &Frame, crop: &Crop, angle_deg: f32) -> Frame {
    let size = frame.size;
    let rows = nearest(crop.top, crop.rows, size);
    let cols = nearest(crop.left, crop.cols, size);
    let (sin, cos) = angle_deg.to_radians().sin_cos();
    let middle = (size as f32 - 1.0) / 2.0;
    let area = size * size;
    let mut result = Frame {
        size,
        pixels: vec![0.0; 3 * area],
        labels: LabelMap::new(size, size),
        placement: frame.placement,
    };
    let inside = |position: f32| {
        let index = (position + middle).round_ties_even();
        (index >= 0.0 && index < size as f32).then_some(index as usize)
    };
    for y in 0..size {
        for x in 0..size {
            let (dx, dy) = (x as f32 - middle, y as f32 - middle);
            let (Some(from_x), Some(from_y)) =
                (inside(cos * dx - sin * dy), inside(sin * dx + cos * dy))
            else {
                continue;
            };
            let from = rows[from_y] * size + cols[from_x];
            let to = y * size + x;
            result.labels.data[to] = frame.labels.data[from];
            for channel in 0..3 {
                result.pixels[channel * area + to] = pixels[channel * area + from];
            }
        }
    }
    result
}

/// PyTorch's `nearest`, which is not Pillow's: index times scale, cut off.
fn nearest(first: usize, length: usize, size: usize) -> Vec<usize> {
    let scale = length as f32 / size as f32;
    (0..size)
        .map(|index| first + ((index as f32 * scale) as usize).min(length - 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use contract::geometry::Fit;
    use contract::intensity::{Normalize, Window};
    use rand::SeedableRng;

    use super::*;

    const INPUT: InputRules = InputRules {
        size: 64,
        fit: Fit::Stretch,
        window: Window::None,
        normalize: Normalize::Sam,
    };

    /// Colours whose green is 40 more where the label is 1.
    fn image_and_frame() -> (Image, Frame) {
        let mut labels = LabelMap::new(64, 64);
        let mut data = Vec::new();
        for y in 0..64 {
            for x in 0..64 {
                let inside = (20..50).contains(&y) && (12..40).contains(&x);
                labels.data[y * 64 + x] = u8::from(inside);
                data.extend([60, 70 + 40 * u8::from(inside), 80 + x as u8].map(f32::from));
            }
        }
        let image = Image {
            rows: 64,
            cols: 64,
            channels: 3,
            data,
        };
        let (pixels, placement) = INPUT.prepare(&image);
        let frame = Frame {
            size: 64,
            pixels,
            labels,
            placement,
        };
        (image, frame)
    }

    #[test]
    fn a_rotation_takes_the_pixels_that_pillow_takes() {
        let json = include_str!("../../../tests/golden/augment.json");
        let golden: serde_json::Value = serde_json::from_str(json).unwrap();
        let wanted: Vec<u8> = serde_json::from_value(golden["rotate 30"]["first"].clone()).unwrap();
        let (_, mut frame) = image_and_frame();
        frame.size = 8;
        frame.labels = LabelMap {
            rows: 8,
            cols: 8,
            data: (1..=64).collect(),
        };
        let numbered: Vec<f32> = (0..192).map(|x| (x % 64 + 1) as f32).collect();
        let whole = Crop {
            top: 0,
            left: 0,
            rows: 8,
            cols: 8,
        };
        let turned = moved(&numbered, &frame, &whole, 30.0);
        assert_eq!(turned.labels.data, wanted);
        let pixels: Vec<u8> = turned.pixels.iter().map(|&x| x as u8).collect();
        assert_eq!(pixels, wanted.repeat(3));
        let still = moved(&numbered, &frame, &whole, 0.0);
        assert_eq!(still.labels, frame.labels);
    }

    #[test]
    fn a_crop_is_enlarged_as_pytorch_does() {
        assert_eq!(nearest(2, 5, 8), [2, 2, 3, 3, 4, 5, 5, 6]);
        assert_eq!(nearest(0, 3, 3), [0, 1, 2]);
    }

    #[test]
    fn crops_have_the_references_distribution() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let n = 50_000;
        let crops: Vec<Crop> = (0..n).map(|_| Crop::draw(1024, &mut rng)).collect();
        let whole = crops.iter().filter(|it| it.rows * it.cols == 1 << 20);
        // The reference's code gives the whole image for 1.2 % of its draws.
        let share = whole.count() as f64 / f64::from(n);
        assert!((0.010..0.014).contains(&share), "{share}");
        for crop in crops {
            let ratio = crop.cols as f64 / crop.rows as f64;
            assert!((0.748..1.336).contains(&ratio), "{crop:?}");
            assert!(crop.rows * crop.cols >= (1 << 19) - 1024, "{crop:?}");
            assert!(crop.top + crop.rows <= 1024 && crop.left + crop.cols <= 1024);
        }
    }

    #[test]
    fn labels_follow_and_the_outside_is_zero() {
        let (_, frame) = image_and_frame();
        let area = 64 * 64;
        let green = |frame: &Frame, at: usize| frame.pixels[area + at];
        let (low, high) = (green(&frame, 0), green(&frame, 30 * 64 + 30));
        let mut outside = 0;
        for seed in 0..20 {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let crop = Crop::draw(64, rng);
            let changed = moved(&frame.pixels, &frame, &crop, 9.0 * seed as f32 - 90.0);
            for (at, &label) in changed.labels.data.iter().enumerate() {
                let value = green(&changed, at);
                outside += usize::from(value == 0.0);
                let wanted = if label == 1 { high } else { low };
                assert!((value - wanted).abs() < 1e-6 || value == 0.0 && label == 0);
            }
        }
        assert!(outside > 0);
    }

    #[test]
    fn the_seed_decides() {
        let (image, frame) = image_and_frame();
        let changed = |seed| {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            augment(&image, &frame, &INPUT, rng)
        };
        assert_eq!(changed(1), changed(1));
        assert_ne!(changed(1), changed(2));
    }

    #[test]
    fn a_grey_image_has_three_channels_of_one_grey() {
        let (_, frame) = image_and_frame();
        let grey = Image {
            rows: 64,
            cols: 64,
            channels: 1,
            data: (0..64 * 64).map(|at| f32::from((at % 251) as u8)).collect(),
        };
        let input = InputRules {
            normalize: Normalize::MinMax,
            ..INPUT
        };
        let changed = augment(&grey, &frame, &input, &mut ChaCha8Rng::seed_from_u64(4));
        assert_eq!(changed.pixels[..64 * 64], changed.pixels[2 * 64 * 64..]);
    }
}
