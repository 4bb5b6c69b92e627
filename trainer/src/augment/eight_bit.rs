//! Changes of 8-bit RGB pixels, to the last bit as Pillow computes them and torchvision calls it.

/// Spreads each channel's histogram (`ImageOps.equalize`).
pub(super) fn equalize(pixels: &mut [[u8; 3]]) {
    for channel in 0..3 {
        let mut histogram = [0_usize; 256];
        for pixel in &*pixels {
            histogram[usize::from(pixel[channel])] += 1;
        }
        let highest = histogram.iter().rev().find(|&&n| n > 0);
        let step = (pixels.len() - highest.copied().unwrap_or(0)) / 255;
        // Too few pixels below the highest value to fill the range.
        if step == 0 {
            continue;
        }
        let mut sum = step / 2;
        let table = histogram.map(|n| {
            let level = (sum / step).min(255) as u8;
            sum += n;
            level
        });
        for pixel in &mut *pixels {
            pixel[channel] = table[usize::from(pixel[channel])];
        }
    }
}

pub(super) fn brightness(pixels: &mut [[u8; 3]], factor: f32) {
    for pixel in pixels {
        *pixel = pixel.map(|x| blend(0, x, factor));
    }
}

/// Stretches about the mean grey, which is rounded.
pub(super) fn contrast(pixels: &mut [[u8; 3]], factor: f32) {
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8;
    for pixel in pixels {
        *pixel = pixel.map(|x| blend(mean, x, factor));
    }
}

/// Grey pixels stay as they are.
pub(super) fn saturation(pixels: &mut [[u8; 3]], factor: f32) {
    for pixel in pixels {
        let grey = grey(*pixel);
        *pixel = pixel.map(|x| blend(grey, x, factor));
    }
}

/// Turns the hue by `factor` of the circle, in 8-bit HSV. Grey pixels stay as they are.
pub(super) fn hue(pixels: &mut [[u8; 3]], factor: f32) {
    let turn = (f64::from(factor) * 255.0) as i32 as u8;
    for pixel in pixels {
        let [hue, saturation, value] = hsv(*pixel);
        *pixel = rgb([hue.wrapping_add(turn), saturation, value]);
    }
}

/// From `base` through `x` and, above 1, beyond it; cut off, not rounded.
fn blend(base: u8, x: u8, factor: f32) -> u8 {
    (f32::from(base) + factor * (f32::from(x) - f32::from(base))) as u8
}

/// ITU-R 601-2 luma.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471;
    ((sum + 0x8000) >> 16) as u8
}

/// Pillow's `rgb2hsv_row`, with its single and double precision.
fn hsv(pixel: [u8; 3]) -> [u8; 3] {
    let [red, green, blue] = pixel;
    let (low, high) = (red.min(green).min(blue), red.max(green).max(blue));
    if low == high {
        return [0, 0, high];
    }
    let range = f32::from(high - low);
    let [r, g, b] = pixel.map(|x| f32::from(high - x) / range);
    let hue = if red == high {
        b - g
    } else if green == high {
        (2.0 + f64::from(r) - f64::from(b)) as f32
    } else {
        (4.0 + f64::from(g) - f64::from(r)) as f32
    };
    let hue = ((f64::from(hue) / 6.0 + 1.0) % 1.0) as f32;
    let saturation = range / f32::from(high);
    let level = |x: f32| (f64::from(x) * 255.0) as u8;
    [level(hue), level(saturation), high]
}

/// Pillow's `hsv2rgb`.
fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixths = f64::from(hue) * 6.0 / 255.0;
    let sector = sixths.floor();
    let rest = f64::from((sixths - sector) as f32);
    let saturation = f64::from((f64::from(saturation) / 255.0) as f32);
    let level = |share: f64| (f64::from(value) * (1.0 - share)).round() as u8;
    let p = level(saturation);
    let q = level(saturation * rest);
    let t = level(saturation * (1.0 - rest));
    match sector as u8 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Numbers {
        first: Vec<u8>,
        sum: u64,
    }

    /// tests/golden/make_augment.py has the same formula.
    fn picture() -> Vec<[u8; 3]> {
        let value =
            |i: usize, c: usize| ((i * i * (7 + 2 * c) + i * 3 + c * 41) % 157 + i % 5 * 24) as u8;
        (0..15 * 18)
            .map(|i| [0, 1, 2].map(|c| value(i, c)))
            .collect()
    }

    #[test]
    fn every_change_is_pillows() {
        let json = include_str!("../../../tests/golden/augment.json");
        let golden: BTreeMap<String, Numbers> = serde_json::from_str(json).unwrap();
        let mut checked = 0;
        for (name, numbers) in golden {
            let mut pixels = picture();
            let (what, factor) = name.split_once(' ').unwrap_or((&name, "0"));
            let factor: f32 = factor.parse().unwrap();
            match what {
                "equalize" => equalize(&mut pixels),
                "brightness" => brightness(&mut pixels, factor),
                "contrast" => contrast(&mut pixels, factor),
                "saturation" => saturation(&mut pixels, factor),
                "hue" => hue(&mut pixels, factor),
                _ => continue,
            }
            checked += 1;
            let ours = pixels.as_flattened();
            assert_eq!(ours[..120], numbers.first[..], "{name}");
            let sum: u64 = ours.iter().map(|&x| u64::from(x)).sum();
            assert_eq!(sum, numbers.sum, "{name}");
        }
        assert_eq!(checked, 13);
    }

    #[test]
    fn grey_stays_grey() {
        let greys: Vec<[u8; 3]> = (0..=255).map(|x| [x; 3]).collect();
        let mut pixels = greys.clone();
        saturation(&mut pixels, 1.3);
        hue(&mut pixels, 0.3);
        assert_eq!(pixels, greys);
        equalize(&mut pixels);
        contrast(&mut pixels, 0.8);
        assert!(
            pixels
                .iter()
                .all(|[red, green, blue]| red == green && green == blue)
        );
        equalize(&mut []);
        contrast(&mut [], 1.0);
    }
}
