//! Scanner values to network values: a window to 0..=255, then a normalization after resizing.

use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::vector::vectorized;

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
    let mut data = vec![0.0; image.data.len()];
    map(&image.data, window, &mut data, |x| x);
    Image { data, ..*image }
}

/// The same, rounded to bytes.
pub(crate) fn window_u8(image: &Image, window: Window) -> Vec<u8> {
    let mut bytes = vec![0; image.data.len()];
    map(&image.data, window, &mut bytes, to_u8);
    bytes
}

/// Half away from zero, clipped; NaN is 0. What `round` gives, for many at once.
#[inline(always)]
pub(crate) fn to_u8(x: f32) -> u8 {
    // Floats from here on have no fraction, so adding it rounds, half to even, and leaves the number in the last bits.
    const WHOLE: f32 = 8_388_608.0;
    let x = if x > 0.0 { x.min(255.0) } else { 0.0 };
    let even = (x + WHOLE) - WHOLE;
    // The difference is exact, as both are close, and at most this.
    let up = if x - even >= 0.5 { 1.0 } else { 0.0 };
    (even + up + WHOLE).to_bits() as u8
}

/// Every value through `window` and then through `to`.
#[inline(always)]
fn map<T: Copy>(data: &[f32], window: Window, out: &mut [T], to: impl Fn(f32) -> T + Copy) {
    let Some((lowest, highest)) = finite_range(data) else {
        return out.fill(to(0.0));
    };
    let (low, high) = match window {
        Window::None => {
            return each(data, out, move |x| to(finite(x, lowest).clamp(0.0, 255.0)));
        }
        Window::Level { center, width } => {
            return each(data, out, move |x| {
                to(level(finite(x, lowest), center, width))
            });
        }
        Window::MinMax => (lowest, highest),
        Window::Percentile { low, high } => {
            let order = Order::new(data, lowest);
            (order.percentile(low), order.percentile(high))
        }
    };
    // In f64: the difference of two large f32 may not be one.
    let range = f64::from(high) - f64::from(low);
    if range.is_nan() || range <= 0.0 {
        return out.fill(to(0.0));
    }
    let (low, scale) = (f64::from(low), 255.0 / range);
    let stretch = move |x| ((f64::from(x) - low) * scale).clamp(0.0, 255.0) as f32;
    each(data, out, move |x| to(stretch(finite(x, lowest))));
}

/// `f` owns what it captures: behind a reference the bytes that are written might change it, and nothing is vectorized.
#[inline(always)]
fn each<T>(data: &[f32], out: &mut [T], f: impl Fn(f32) -> T) {
    vectorized(
        #[inline(always)]
        move || {
            for (out, &x) in out.iter_mut().zip(data) {
                *out = f(x);
            }
        },
    );
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
            let (low, high) = finite_range(&image.data).unwrap_or_default();
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

/// Has the image neither NaN nor infinities?
pub fn is_finite(image: &Image) -> bool {
    let data = &*image.data;
    vectorized(
        #[inline(always)]
        move || {
            data.chunks(4 * LANES).all(|stretch| {
                let odd = |x: &f32| u32::from(x.is_nan() || x.is_infinite());
                stretch.iter().map(odd).fold(0, |found, odd| found | odd) == 0
            })
        },
    )
}

/// How many values are compared at once.
const LANES: usize = 16;

/// The least and the greatest finite value; `None` when nothing is finite.
fn finite_range(data: &[f32]) -> Option<(f32, f32)> {
    let (chunks, rest) = data.as_chunks::<LANES>();
    let (low, high) = vectorized(
        #[inline(always)]
        move || {
            let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
            for chunk in chunks {
                for ((&x, low), high) in chunk.iter().zip(&mut low).zip(&mut high) {
                    let finite = x.abs() <= f32::MAX;
                    let least = if finite { x } else { f32::INFINITY };
                    let most = if finite { x } else { f32::NEG_INFINITY };
                    *low = if least < *low { least } else { *low };
                    *high = if most > *high { most } else { *high };
                }
            }
            (low, high)
        },
    );
    let rest = || rest.iter().copied().filter(|x| x.is_finite());
    let low = low.into_iter().chain(rest()).reduce(f32::min)?;
    let high = high.into_iter().chain(rest()).reduce(f32::max)?;
    (low <= high).then_some((low, high))
}

/// DICOM's LINEAR function; a width below 1 is not allowed there and counts as 1 (a threshold).
#[inline(always)]
fn level(x: f32, center: f32, width: f32) -> f32 {
    let range = (f64::from(width).max(1.0)) - 1.0;
    let offset = f64::from(x) - (f64::from(center) - 0.5);
    let value = if offset <= -range / 2.0 {
        0.0
    } else if offset > range / 2.0 {
        255.0
    } else {
        (((offset / range) + 0.5) * 255.0) as f32
    };
    if value.is_finite() { value } else { 0.0 }
}

/// Values counted by the upper half of their bits, so that those of one rank are found without sorting.
struct Order<'a> {
    data: &'a [f32],
    /// Stands for what is not finite.
    lowest: f32,
    counts: Vec<u32>,
}

impl<'a> Order<'a> {
    fn new(data: &'a [f32], lowest: f32) -> Self {
        let counts = vec![0; 1 << 16];
        let mut order = Self {
            data,
            lowest,
            counts,
        };
        for &x in data {
            order.counts[upper(x, lowest) as usize] += 1;
        }
        order
    }

    /// As numpy computes it, with linear interpolation.
    fn percentile(&self, percent: f32) -> f32 {
        let percent = if percent.is_nan() {
            0.0
        } else {
            f64::from(percent).clamp(0.0, 100.0)
        };
        let position = percent / 100.0 * (self.data.len() - 1) as f64;
        let below = position.floor() as usize;
        let (at, next) = self.at(below);
        let (at, next) = (f64::from(at), f64::from(next));
        (at + (next - at) * (position - below as f64)) as f32
    }

    /// The value of a rank and the one above it; the greatest twice.
    fn at(&self, rank: usize) -> (f32, f32) {
        let (mut before, mut half) = (0, 0);
        while before + self.counts[half] as usize <= rank {
            before += self.counts[half] as usize;
            half += 1;
        }
        let mut same = self.with(half as u32);
        let (_, &mut at, after) = same.select_nth_unstable_by(rank - before, f32::total_cmp);
        if let Some(next) = after.iter().copied().reduce(f32::min) {
            return (at, next);
        }
        let above = (half + 1..self.counts.len()).find(|&half| self.counts[half] > 0);
        let next = above.and_then(|half| self.with(half as u32).into_iter().reduce(f32::min));
        (at, next.unwrap_or(at))
    }

    /// All values with this upper half.
    fn with(&self, half: u32) -> Vec<f32> {
        // One more to write to: what is none of them is overwritten by the next, so nothing branches on noise.
        let mut values = vec![0.0; self.counts[half as usize] as usize + 1];
        let (data, lowest, out) = (self.data, self.lowest, &mut *values);
        let end = vectorized(
            #[inline(always)]
            move || {
                let mut end = 0;
                // Most stretches have none, and that is seen of many values at once.
                for stretch in data.chunks(4 * LANES) {
                    let mut found = 0;
                    for &x in stretch {
                        found |= u32::from(upper(x, lowest) == half);
                    }
                    if found > 0 {
                        for &x in stretch {
                            out[end] = finite(x, lowest);
                            end += usize::from(upper(x, lowest) == half);
                        }
                    }
                }
                end
            },
        );
        values.truncate(end);
        values
    }
}

/// The upper half of the bits of `x`, in the order of the numbers as `f32::total_cmp` has it.
#[inline(always)]
fn upper(x: f32, lowest: f32) -> u32 {
    let bits = finite(x, lowest).to_bits();
    (bits ^ (((bits as i32 >> 31) as u32) | 1 << 31)) >> 16
}

#[inline(always)]
fn finite(x: f32, lowest: f32) -> f32 {
    if x.abs() <= f32::MAX { x } else { lowest }
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
            let order = Order::new(&data, f32::NAN);
            let (a, b) = (order.percentile(low), order.percentile(high));
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

    /// Zeros of both signs, ties, numbers that differ in the last bit, and what is no number.
    fn awkward(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut draw = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u32
        };
        let value = |bits: u32| match bits % 11 {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            2 | 3 => 0.0,
            4 => -0.0,
            5 => -((bits >> 20) as f32),
            6 => f32::from_bits(1.5_f32.to_bits() + (bits >> 28)),
            _ => (bits >> 18) as f32 / 4.0,
        };
        (0..count).map(|_| value(draw())).collect()
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        for count in [1, 2, 17, 400, 5000] {
            let data = awkward(count as u64, count);
            let Some((lowest, _)) = finite_range(&data) else {
                continue;
            };
            let order = Order::new(&data, lowest);
            let mut sorted: Vec<f32> = data.iter().map(|&x| finite(x, lowest)).collect();
            sorted.sort_by(f32::total_cmp);
            for (rank, value) in sorted.iter().enumerate() {
                let next = sorted.get(rank + 1).unwrap_or(value);
                let (at, after) = order.at(rank);
                assert_eq!(at.to_bits(), value.to_bits(), "{rank} of {count}");
                // The least of several may be a zero of either sign, which the sum takes away.
                let bits = |x: f32| (x + 0.0).to_bits();
                assert_eq!(bits(after), bits(*next), "{rank} of {count}");
            }
        }
    }

    #[test]
    fn bytes_are_the_rounded_values_of_the_window() {
        let image = grey(&awkward(3, 3001));
        for rule in [
            Window::None,
            Window::MinMax,
            Window::Percentile {
                low: 2.0,
                high: 90.0,
            },
            Window::Level {
                center: 300.5,
                width: 411.0,
            },
        ] {
            let values = window(&image, rule).data;
            let rounded: Vec<u8> = values.iter().map(|x| x.round() as u8).collect();
            assert_eq!(window_u8(&image, rule), rounded, "{rule:?}");
        }
    }

    #[test]
    fn every_value_is_rounded_as_round_does_it() {
        let halves = (0..=511).map(|n| n as f32 / 2.0);
        let around = halves.flat_map(|x| [x.next_down(), x, x.next_up()]);
        let odd = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            -1e9,
            1e9,
            255.4,
            255.6,
        ];
        for x in around.chain(odd) {
            assert_eq!(to_u8(x), x.round() as u8, "{x}");
        }
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
