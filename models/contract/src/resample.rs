//! Pillow's separable triangle filter (antialiased when shrinking) and its nearest neighbour:
//! the resampling the reference trains with.

use std::ops::Range;

use crate::image::Image;
use crate::intensity;
use crate::mask::LabelMap;
use crate::vector::vectorized;

/// Bilinear with antialiasing, f32 throughout.
pub fn bilinear(image: &Image, rows: usize, cols: usize) -> Image {
    let channels = image.channels;
    let mut result = Image {
        rows,
        cols,
        channels,
        data: vec![0.0; rows * cols * channels],
    };
    if image.data.is_empty() || result.data.is_empty() {
        return result;
    }
    let across = Filter::new(image.cols, cols);
    let down = Filter::new(image.rows, rows);
    let mut middle = vec![0.0_f32; image.rows * cols * channels];
    let lines = image.data.chunks_exact(image.cols * channels);
    for (line, out) in lines.zip(middle.chunks_exact_mut(cols * channels)) {
        for (taps, pixel) in across.taps().zip(out.chunks_exact_mut(channels)) {
            for (channel, value) in pixel.iter_mut().enumerate() {
                let samples = line[taps.first * channels + channel..]
                    .iter()
                    .step_by(channels);
                *value = samples.zip(taps.weights).map(|(&x, &w)| x * w as f32).sum();
            }
        }
    }
    for (taps, out) in down
        .taps()
        .zip(result.data.chunks_exact_mut(cols * channels))
    {
        let lines = middle.chunks_exact(cols * channels).skip(taps.first);
        for (line, &weight) in lines.zip(taps.weights) {
            for (value, &x) in out.iter_mut().zip(line) {
                *value += x * weight as f32;
            }
        }
    }
    result
}

/// Bilinear as Pillow computes it on 8-bit channels: fixed-point weights, rounded and clipped to
/// 0..=255 after the horizontal and after the vertical pass. Input values are rounded first.
pub fn bilinear_u8(image: &Image, rows: usize, cols: usize) -> Image {
    let bytes = image.data.iter().map(|&x| intensity::to_u8(x)).collect();
    bilinear_bytes(bytes, image, rows, cols)
}

/// The same for `bytes` in the shape of `image`.
pub(crate) fn bilinear_bytes(bytes: Vec<u8>, image: &Image, rows: usize, cols: usize) -> Image {
    let channels = image.channels;
    let mut result = Image {
        rows,
        cols,
        channels,
        data: vec![0.0; rows * cols * channels],
    };
    if bytes.is_empty() || result.data.is_empty() {
        return result;
    }
    let middle = if image.cols == cols {
        bytes
    } else {
        horizontal_u8(&bytes, image, cols)
    };
    if image.rows == rows {
        let both = result.data.iter_mut().zip(&middle);
        both.for_each(|(out, &x)| *out = f32::from(x));
        return result;
    }
    let down = Filter::new(image.rows, rows);
    let width = cols * channels;
    let mut sums = vec![0_i32; width];
    let outputs = down.taps().zip(result.data.chunks_exact_mut(width));
    vectorized(
        #[inline(always)]
        || {
            for (taps, out) in outputs {
                sums.fill(HALF);
                let lines = middle.chunks_exact(width).skip(taps.first);
                for (line, &weight) in lines.zip(taps.weights) {
                    add_scaled(&mut sums, line, fixed_point(weight));
                }
                for (value, &sum) in out.iter_mut().zip(&sums) {
                    *value = f32::from(to_u8(sum));
                }
            }
        },
    );
    result
}

#[inline(always)]
fn add_scaled(sums: &mut [i32], line: &[u8], weight: i32) {
    for (sum, &x) in sums.iter_mut().zip(line) {
        *sum += i32::from(x) * weight;
    }
}

/// The horizontal pass: `image.rows` x `cols` x `image.channels`.
fn horizontal_u8(source: &[u8], image: &Image, cols: usize) -> Vec<u8> {
    let channels = image.channels;
    let across = Filter::new(image.cols, cols);
    // Every output gets as many taps as the one with most, those that are missing with weight 0, and starts further
    // left where they would reach beyond the line. So one tap of a line is a plain loop.
    let n_taps = across.taps().map(|taps| taps.weights.len()).max();
    let n_taps = n_taps.unwrap_or_default();
    let mut starts = Vec::with_capacity(cols * channels);
    let mut weights = vec![0; n_taps * cols * channels];
    for (column, taps) in across.taps().enumerate() {
        let first = taps.first.min(image.cols - n_taps);
        for channel in 0..channels {
            for (tap, &weight) in (taps.first - first..).zip(taps.weights) {
                weights[(tap * cols + column) * channels + channel] = fixed_point(weight);
            }
            starts.push(first * channels + channel);
        }
    }
    let width = cols * channels;
    let mut sums = vec![0; width];
    let mut result = vec![0; image.rows * width];
    let halved = halved(&starts);
    let lines = source.chunks_exact(image.cols * channels);
    vectorized(
        #[inline(always)]
        || {
            for (line, out) in lines.zip(result.chunks_exact_mut(width)) {
                sums.fill(HALF);
                for (tap, weights) in weights.chunks_exact(width).enumerate() {
                    let line = &line[tap * channels..];
                    for outside in [0..halved.start, halved.end..width] {
                        let sums = sums[outside.clone()].iter_mut();
                        let starts = starts[outside.clone()].iter();
                        for ((sum, &start), weight) in sums.zip(starts).zip(&weights[outside]) {
                            *sum += i32::from(line[start]) * weight;
                        }
                    }
                    if !halved.is_empty() {
                        let (pairs, _) = line[starts[halved.start]..].as_chunks::<2>();
                        add_first(&mut sums[halved.clone()], pairs, &weights[halved.clone()]);
                    }
                }
                for (value, &sum) in out.iter_mut().zip(&sums) {
                    *value = to_u8(sum);
                }
            }
        },
    );
    result
}

/// The columns that start two before the next one each, in one piece: all but the borders of a grey image of twice the
/// size, as 512 px for a network of 256. A loop over them needs no table.
fn halved(starts: &[usize]) -> Range<usize> {
    let two_before = |pair: &[usize]| pair[0] + 2 == pair[1];
    let begin = starts.windows(2).position(two_before).unwrap_or_default();
    let those = starts[begin..]
        .windows(2)
        .take_while(|pair| two_before(pair));
    begin..begin + those.count()
}

#[inline(always)]
fn add_first(sums: &mut [i32], pairs: &[[u8; 2]], weights: &[i32]) {
    for ((sum, pair), weight) in sums.iter_mut().zip(pairs).zip(weights) {
        *sum += i32::from(pair[0]) * weight;
    }
}

/// Nearest neighbour, source index floor((i + 0.5) * scale).
pub fn nearest(labels: &LabelMap, rows: usize, cols: usize) -> LabelMap {
    let mut result = LabelMap::new(rows, cols);
    if labels.data.is_empty() || result.data.is_empty() {
        return result;
    }
    let columns = nearest_indices(labels.cols, cols);
    let lines = nearest_indices(labels.rows, rows);
    for (out, &y) in result.data.chunks_exact_mut(cols).zip(&lines) {
        let line = &labels.data[y * labels.cols..(y + 1) * labels.cols];
        out.iter_mut()
            .zip(&columns)
            .for_each(|(label, &x)| *label = line[x]);
    }
    result
}

/// Pillow adds the scale up step by step in f64, and so does this: exact ties fall the same way.
fn nearest_indices(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f64 / to as f64;
    let mut position = scale * 0.5;
    let mut indices = Vec::with_capacity(to);
    for _ in 0..to {
        indices.push((position as usize).min(from - 1));
        position += scale;
    }
    indices
}

/// The mask resize of the reference's training scripts (torchvision `Resize` on an integer tensor):
/// class ids go through the antialiased bilinear filter as numbers and are rounded, half to even.
///
/// Between classes 0 and 3 this invents 1 and 2, so only a run that must match the reference
/// (`strict reference`) uses it; [`nearest`] otherwise.
pub fn mask_bilinear_half_even(labels: &LabelMap, rows: usize, cols: usize) -> LabelMap {
    if (labels.rows, labels.cols) == (rows, cols) {
        return labels.clone();
    }
    let data = labels.data.iter().map(|&label| f32::from(label)).collect();
    let image = Image {
        rows: labels.rows,
        cols: labels.cols,
        channels: 1,
        data,
    };
    let resized = bilinear(&image, rows, cols);
    let data = resized
        .data
        .iter()
        .map(|x| x.round_ties_even() as u8)
        .collect();
    LabelMap { rows, cols, data }
}

/// Pillow's `PRECISION_BITS` for 8-bit channels.
const PRECISION: i32 = 22;
const HALF: i32 = 1 << (PRECISION - 1);

/// A weight is never negative in the triangle filter, so adding a half rounds it.
fn fixed_point(weight: f64) -> i32 {
    (0.5 + weight * f64::from(1 << PRECISION)) as i32
}

#[inline(always)]
fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Normalized triangle weights of every output index along one axis.
struct Filter {
    /// First input index, start in `weights`, number of weights.
    spans: Vec<(usize, usize, usize)>,
    weights: Vec<f64>,
}

struct Taps<'a> {
    first: usize,
    weights: &'a [f64],
}

impl Filter {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let mut filter = Self {
            spans: Vec::with_capacity(to),
            weights: Vec::with_capacity(to * (2.0 * support + 2.0) as usize),
        };
        for index in 0..to {
            let center = (index as f64 + 0.5) * scale;
            // Casting truncates and saturates at 0, as Pillow does by hand.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let start = filter.weights.len();
            let inverse = 1.0 / support;
            let weight = |at: usize| {
                let distance = (at as f64 - center + 0.5) * inverse;
                (1.0 - distance.abs()).max(0.0)
            };
            filter.weights.extend((first..end).map(weight));
            let total: f64 = filter.weights[start..].iter().sum();
            if total != 0.0 {
                filter.weights[start..]
                    .iter_mut()
                    .for_each(|weight| *weight /= total);
            }
            filter.spans.push((first, start, end - first));
        }
        filter
    }

    fn taps(&self) -> impl Iterator<Item = Taps<'_>> {
        self.spans.iter().map(|&(first, start, count)| Taps {
            first,
            weights: &self.weights[start..start + count],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden<T> {
        cases: Vec<T>,
    }

    #[derive(serde::Deserialize)]
    struct Resize {
        channels: usize,
        rows: usize,
        cols: usize,
        to: [usize; 2],
        data: Vec<u8>,
        bilinear_u8: Vec<f32>,
        bilinear: Option<Vec<f32>>,
        nearest: Option<Vec<u8>>,
    }

    #[derive(serde::Deserialize)]
    struct Indices {
        from: usize,
        to: usize,
        index: Vec<usize>,
    }

    #[test]
    fn every_filter_gives_pillows_numbers() {
        let json = include_str!("../../../tests/golden/contract/resample.json");
        let golden: Golden<Resize> = serde_json::from_str(json).unwrap();
        for case in golden.cases {
            let Resize {
                channels,
                rows,
                cols,
                to,
                ..
            } = case;
            let name = format!("{rows}x{cols}x{channels} to {to:?}");
            let data = case.data.iter().map(|&x| f32::from(x)).collect();
            let image = Image {
                rows,
                cols,
                channels,
                data,
            };
            assert_eq!(
                bilinear_u8(&image, to[0], to[1]).data,
                case.bilinear_u8,
                "{name}"
            );
            for (ours, theirs) in bilinear(&image, to[0], to[1])
                .data
                .iter()
                .zip(case.bilinear.iter().flatten())
            {
                assert!((ours - theirs).abs() < 2e-4, "{name}: {ours} {theirs}");
            }
            if let Some(expected) = case.nearest {
                let labels = LabelMap {
                    rows,
                    cols,
                    data: case.data,
                };
                assert_eq!(nearest(&labels, to[0], to[1]).data, expected, "{name}");
            }
        }
    }

    #[test]
    fn lines_of_every_width_are_the_sums_of_their_taps() {
        for (from, to, channels) in [
            (512, 256, 1),
            (500, 256, 1),
            (300, 256, 3),
            (7, 20, 3),
            (1, 4, 1),
            (90, 1, 2),
        ] {
            let line: Vec<u8> = (0..from * channels)
                .map(|at| (at * at * 31 % 251) as u8)
                .collect();
            let image = Image {
                rows: 1,
                cols: from,
                channels,
                data: vec![],
            };
            let filter = Filter::new(from, to);
            let mut expected = Vec::new();
            for taps in filter.taps() {
                for channel in 0..channels {
                    let weighted = taps.weights.iter().enumerate().map(|(tap, &weight)| {
                        let x = line[(taps.first + tap) * channels + channel];
                        i32::from(x) * fixed_point(weight)
                    });
                    expected.push(to_u8(HALF + weighted.sum::<i32>()));
                }
            }
            assert_eq!(horizontal_u8(&line, &image, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn nearest_breaks_ties_as_pillow_does() {
        let json = include_str!("../../../tests/golden/contract/nearest.json");
        let golden: Golden<Indices> = serde_json::from_str(json).unwrap();
        for Indices { from, to, index } in golden.cases {
            assert_eq!(nearest_indices(from, to), index, "{from} to {to}");
        }
    }

    #[test]
    fn values_outside_eight_bits_are_clipped_first() {
        let data = vec![-3.0, 300.0, 12.4, f32::NAN];
        let image = Image {
            rows: 2,
            cols: 2,
            channels: 1,
            data,
        };
        assert_eq!(bilinear_u8(&image, 2, 2).data, [0.0, 255.0, 12.0, 0.0]);
    }

    #[test]
    fn half_even_invents_classes_at_borders_and_ties_go_to_background() {
        let labels = LabelMap {
            rows: 1,
            cols: 4,
            data: vec![0, 0, 3, 3],
        };
        let shrunk = mask_bilinear_half_even(&labels, 1, 2);
        // Weights 3/7, 3/7, 1/7: 3/7 and 18/7.
        assert_eq!(shrunk.data, [0, 3]);
        let tie = LabelMap {
            rows: 1,
            cols: 2,
            data: vec![0, 1],
        };
        assert_eq!(mask_bilinear_half_even(&tie, 1, 1).data, [0]);
        let between = LabelMap {
            rows: 1,
            cols: 2,
            data: vec![0, 3],
        };
        assert_eq!(mask_bilinear_half_even(&between, 1, 1).data, [2]);
    }

    #[test]
    fn nothing_in_gives_zeros_out() {
        let image = Image {
            rows: 0,
            cols: 5,
            channels: 1,
            data: vec![],
        };
        assert_eq!(bilinear_u8(&image, 1, 2).data, [0.0, 0.0]);
        assert_eq!(bilinear(&image, 1, 2).data, [0.0, 0.0]);
        assert_eq!(nearest(&LabelMap::new(0, 5), 1, 2).data, [0, 0]);
    }
}
