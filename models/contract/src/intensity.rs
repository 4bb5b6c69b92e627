//! Scanner values to network values: a window to 0..=255, then a normalization after resizing.

use serde::{Deserialize, Serialize};

use crate::Image;

/// How scanner values become 0..=255 before resizing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Window {
    /// Values are 0..=255 already.
    None,
    /// The image's own minimum and maximum.
    MinMax,
    /// Clip to two percentiles of the image, in percent, e.g. 0.5 and 99.5.
    Percentile { low: f32, high: f32 },
    /// DICOM window center and width (PS3.3 C.11.2.1.2).
    Level { center: f32, width: f32 },
}

/// How 0..=255 becomes what the network reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// x / 255, then ImageNet mean and standard deviation per channel (SAM as the reference trains it).
    Sam,
    /// (x - min) / (max - min) over the whole image (MedSAM, LiteMedSAM).
    MinMax,
    /// (x - mean) / standard deviation over the whole image.
    ZScore,
    /// x / 255.
    Unit,
}

/// ImageNet statistics of red, green and blue in 0..=1.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Smallest divisor: keeps a flat image finite.
const EPSILON: f32 = 1e-8;

/// `image` with its values mapped to 0..=255 (f32, not rounded), clipped.
/// An image without contrast becomes 0. NaN and infinities count as the finite minimum.
pub fn window(image: &Image, window: Window) -> Image {
    let mut result = image.clone();
    let Some((low, high)) = replace_non_finite(&mut result.data) else {
        result.data.fill(0.0);
        return result;
    };
    match window {
        Window::None => result
            .data
            .iter_mut()
            .for_each(|x| *x = x.clamp(0.0, 255.0)),
        Window::MinMax => stretch(&mut result.data, low, high),
        Window::Percentile { low, high } => {
            let (low, high) = percentiles(&result.data, low, high);
            stretch(&mut result.data, low, high);
        }
        Window::Level { center, width } => level(&mut result.data, center, width),
    }
    result
}

/// Normalizes interleaved RGB or grey pixels in place; statistics are over all of `image`.
/// [`Normalize::Sam`] has three means, so it makes a grey image an RGB one.
pub fn normalize(image: &mut Image, rule: Normalize) {
    match rule {
        Normalize::Sam => {
            if image.channels == 1 {
                image.data = image.data.iter().flat_map(|&x| [x; 3]).collect();
                image.channels = 3;
            }
            for pixel in image.data.chunks_mut(3) {
                for ((x, mean), deviation) in pixel.iter_mut().zip(MEAN).zip(DEVIATION) {
                    *x = (*x / 255.0 - mean) / deviation;
                }
            }
        }
        Normalize::MinMax => {
            let low = image.data.iter().copied().fold(f32::INFINITY, f32::min);
            let high = image.data.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let range = (high - low).max(EPSILON);
            image.data.iter_mut().for_each(|x| *x = (*x - low) / range);
        }
        Normalize::ZScore => {
            let count = image.data.len().max(1) as f64;
            let mean = image.data.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let squares = image.data.iter().map(|&x| (f64::from(x) - mean).powi(2));
            let deviation = (squares.sum::<f64>() / count)
                .sqrt()
                .max(f64::from(EPSILON));
            let (mean, deviation) = (mean as f32, deviation as f32);
            image
                .data
                .iter_mut()
                .for_each(|x| *x = (*x - mean) / deviation);
        }
        Normalize::Unit => image.data.iter_mut().for_each(|x| *x /= 255.0),
    }
}

/// Puts the finite minimum in place of NaN and infinities. Finite minimum and maximum, or `None`
/// when nothing is finite.
fn replace_non_finite(data: &mut [f32]) -> Option<(f32, f32)> {
    let finite = || data.iter().copied().filter(|x| x.is_finite());
    let low = finite().reduce(f32::min)?;
    let high = finite().reduce(f32::max)?;
    data.iter_mut()
        .filter(|x| !x.is_finite())
        .for_each(|x| *x = low);
    Some((low, high))
}

/// `low`..=`high` to 0..=255. In f64: the difference of two large f32 may not be one.
fn stretch(data: &mut [f32], low: f32, high: f32) {
    let range = f64::from(high) - f64::from(low);
    if range.is_nan() || range <= 0.0 {
        data.fill(0.0);
        return;
    }
    let scale = 255.0 / range;
    for x in data {
        *x = ((f64::from(*x) - f64::from(low)) * scale).clamp(0.0, 255.0) as f32;
    }
}

/// DICOM's LINEAR function; a width below 1 is not allowed there and counts as 1 (a threshold).
fn level(data: &mut [f32], center: f32, width: f32) {
    let middle = f64::from(center) - 0.5;
    let range = (f64::from(width).max(1.0)) - 1.0;
    for x in data {
        let offset = f64::from(*x) - middle;
        *x = if offset <= -range / 2.0 {
            0.0
        } else if offset > range / 2.0 {
            255.0
        } else {
            (((offset / range) + 0.5) * 255.0) as f32
        };
        if !x.is_finite() {
            *x = 0.0;
        }
    }
}

/// Two percentiles as numpy computes them (linear interpolation), by selection in linear time.
fn percentiles(data: &[f32], low: f32, high: f32) -> (f32, f32) {
    let mut order = data.to_vec();
    (percentile(&mut order, low), percentile(&mut order, high))
}

fn percentile(order: &mut [f32], percent: f32) -> f32 {
    let percent = if percent.is_nan() {
        0.0
    } else {
        f64::from(percent).clamp(0.0, 100.0)
    };
    let position = percent / 100.0 * (order.len() - 1) as f64;
    let below = position.floor() as usize;
    let (_, &mut at, after) = order.select_nth_unstable_by(below, f32::total_cmp);
    let next = after.iter().copied().reduce(f32::min).unwrap_or(at);
    let (at, next) = (f64::from(at), f64::from(next));
    (at + (next - at) * (position - below as f64)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(data: &[f32]) -> Image {
        Image {
            rows: 1,
            cols: data.len(),
            channels: 1,
            data: data.to_vec(),
        }
    }

    fn close(ours: &[f32], expected: &[f32]) -> bool {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4;
        ours.len() == expected.len() && ours.iter().zip(expected).all(near)
    }

    #[test]
    fn windows_map_to_eight_bits() {
        let nan = f32::NAN;
        let level = |center, width| Window::Level { center, width };
        let cases: [(&[f32], Window, &[f32]); 9] = [
            (&[-1.0, 10.5, 300.0], Window::None, &[0.0, 10.5, 255.0]),
            (&[-10.0, 0.0, 10.0], Window::MinMax, &[0.0, 127.5, 255.0]),
            (
                &[nan, 2.0, f32::INFINITY, 4.0],
                Window::MinMax,
                &[0.0, 0.0, 0.0, 255.0],
            ),
            (&[7.0, 7.0], Window::MinMax, &[0.0, 0.0]),
            (&[nan, f32::NEG_INFINITY], Window::None, &[0.0, 0.0]),
            (
                &[f32::MIN, 0.0, f32::MAX],
                Window::MinMax,
                &[0.0, 127.5, 255.0],
            ),
            // PS3.3 C.11.2.1.2.1: center 2048, width 4096 maps 0..=4095 to the full range.
            (
                &[-1.0, 0.0, 4095.0, 5000.0],
                level(2048.0, 4096.0),
                &[0.0, 0.0, 255.0, 255.0],
            ),
            (&[99.0, 99.6, nan], level(100.0, 1.0), &[0.0, 255.0, 0.0]),
            (&[1.0, 2.0], level(nan, nan), &[0.0, 0.0]),
        ];
        for (input, rule, expected) in cases {
            let result = window(&grey(input), rule).data;
            assert!(close(&result, expected), "{input:?} {rule:?}: {result:?}");
        }
    }

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        data: Vec<f32>,
        low: f32,
        high: f32,
        ends: [f64; 2],
    }

    #[test]
    fn percentiles_are_numpys() {
        let json = include_str!("../../../tests/golden/contract/percentile.json");
        let golden: Golden = serde_json::from_str(json).unwrap();
        for Case {
            data,
            low,
            high,
            ends,
        } in golden.cases
        {
            let (a, b) = percentiles(&data, low, high);
            for (ours, numpy) in [(a, ends[0]), (b, ends[1])] {
                assert!(
                    (f64::from(ours) - numpy).abs() < 1e-4,
                    "{ours} {numpy}, n {}",
                    data.len()
                );
            }
        }
        // Reversed or absurd percentiles leave no contrast and do not panic.
        let rule = Window::Percentile {
            low: f32::NAN,
            high: -4.0,
        };
        assert_eq!(window(&grey(&[1.0, 2.0]), rule).data, [0.0, 0.0]);
    }

    #[test]
    fn normalizations_give_their_formula() {
        let mut sam = grey(&[0.0, 255.0]);
        normalize(&mut sam, Normalize::Sam);
        assert_eq!(sam.channels, 3);
        let expected = [
            -2.117_904, -2.035_714, -1.804_444, 2.248_908, 2.428_571, 2.64,
        ];
        assert!(close(&sam.data, &expected), "{:?}", sam.data);
        let cases: [(Normalize, &[f32]); 3] = [
            (Normalize::MinMax, &[0.0, 0.5, 1.0]),
            (Normalize::ZScore, &[-1.224_745, 0.0, 1.224_745]),
            (Normalize::Unit, &[10.0 / 255.0, 20.0 / 255.0, 30.0 / 255.0]),
        ];
        for (rule, expected) in cases {
            let mut image = grey(&[10.0, 20.0, 30.0]);
            normalize(&mut image, rule);
            assert!(close(&image.data, expected), "{rule:?}: {:?}", image.data);
            let mut flat = grey(&[9.0, 9.0]);
            normalize(&mut flat, rule);
            assert!(flat.data.iter().all(|x| x.is_finite()), "{rule:?}");
            normalize(&mut grey(&[]), rule);
        }
    }
}
