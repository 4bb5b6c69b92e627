//! Native image to network frame, and back for masks at the image's native size.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::intensity::{self, Normalize, Window};
use crate::mask::{LabelMap, Logits};
use crate::resample;
use crate::vector::vectorized;

/// How an image of any shape becomes a square of `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Both sides to `size`, aspect ratio not kept (the reference).
    Stretch,
    /// Longest side to `size`, zeros at the bottom or right after normalization (SAM, LiteMedSAM).
    LongestSidePad,
}

/// Everything that happens to pixels between decoding and the network; part of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRules {
    /// Side of the square network input, px.
    pub size: usize,
    pub fit: Fit,
    pub window: Window,
    pub normalize: Normalize,
}

/// Where an image of `rows` x `cols` lies inside the square frame: the top left
/// `scaled_rows` x `scaled_cols` of `size` x `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub rows: usize,
    pub cols: usize,
    pub scaled_rows: usize,
    pub scaled_cols: usize,
    pub size: usize,
}

impl InputRules {
    /// Where an image of `rows` x `cols` px comes to lie.
    pub fn placement(&self, rows: usize, cols: usize) -> Placement {
        let size = self.size;
        let (scaled_rows, scaled_cols) = match self.fit {
            Fit::Stretch => (size, size),
            Fit::LongestSidePad => {
                let scale = size as f64 / rows.max(cols).max(1) as f64;
                // SAM's `get_preprocess_shape`; a side never vanishes.
                let side = |native: usize| ((native as f64 * scale + 0.5) as usize).clamp(1, size);
                (side(rows), side(cols))
            }
        };
        Placement {
            rows,
            cols,
            scaled_rows,
            scaled_cols,
            size,
        }
    }

    /// Window, resize (`resample::bilinear_u8`), normalize, pad: the network input, CHW,
    /// 3 x size x size (grey repeated), and where the image lies in it.
    pub fn prepare(&self, image: &Image) -> (Vec<f32>, Placement) {
        let (scaled, place) = self.scaled(image);
        (self.normalized(scaled), place)
    }

    /// The first half of [`Self::prepare`]: 8-bit values at the size that the image has in the frame.
    pub fn scaled(&self, image: &Image) -> (Image, Placement) {
        let place = self.placement(image.rows, image.cols);
        let bytes = intensity::window_u8(image, self.window);
        let (rows, cols) = (place.scaled_rows, place.scaled_cols);
        let scaled = resample::bilinear_bytes(bytes, image, rows, cols);
        (scaled, place)
    }

    /// The second half, of what [`Self::scaled`] makes.
    pub fn normalized(&self, mut scaled: Image) -> Vec<f32> {
        intensity::normalize(&mut scaled, self.normalize);
        let mut input = vec![0.0; 3 * self.size * self.size];
        let (cols, channels) = (scaled.cols.max(1), scaled.channels.max(1));
        let planes = input.chunks_exact_mut((self.size * self.size).max(1));
        for (channel, plane) in planes.enumerate() {
            let lines = scaled.data.chunks_exact(cols * channels);
            for (line, out) in lines.zip(plane.chunks_exact_mut(self.size)) {
                if channels == 1 {
                    out[..cols].copy_from_slice(line);
                    continue;
                }
                let pixels = line.iter().skip(channel.min(channels - 1));
                for (value, &x) in out.iter_mut().zip(pixels.step_by(channels)) {
                    *value = x;
                }
            }
        }
        input
    }
}

impl Placement {
    /// A label map of the native size, brought into a frame of `side` x `side` (nearest; `side` may
    /// be smaller than `size`, e.g. the decoder's low-resolution grid). Padding is background (0).
    pub fn labels_to_frame(&self, labels: &LabelMap, side: usize) -> LabelMap {
        let mut frame = LabelMap::new(side, side);
        let columns: Vec<Option<usize>> = (0..side)
            .map(|x| self.native_index(x, side, labels.cols, self.scaled_cols))
            .collect();
        for (y, out) in frame.data.chunks_exact_mut(side.max(1)).enumerate() {
            let Some(y) = self.native_index(y, side, labels.rows, self.scaled_rows) else {
                break;
            };
            let line = &labels.data[y * labels.cols..(y + 1) * labels.cols];
            for (label, column) in out.iter_mut().zip(&columns) {
                *label = column.map_or(0, |x| line[x]);
            }
        }
        frame
    }

    /// The native index whose pixel covers the centre of frame index `at`; `None` in the padding.
    /// Integers only, so no rounding decides at the edge between two pixels.
    fn native_index(&self, at: usize, side: usize, native: usize, scaled: usize) -> Option<usize> {
        let index = (2 * at + 1) * self.size * native / (2 * side * scaled).max(1);
        (index < native).then_some(index)
    }

    /// The exact inverse for network output of any square side: crops the padding, samples the
    /// logits bilinearly (half-pixel centres, edges clamped) at the native pixels, arg-max over classes
    /// (the lowest of equal ones; NaN never wins).
    pub fn labels_from_logits(&self, logits: &Logits) -> LabelMap {
        let plane = logits.rows * logits.cols;
        assert_eq!(
            logits.data.len(),
            logits.classes * plane,
            "logits have the length of their shape"
        );
        let mut labels = LabelMap::new(self.rows, self.cols);
        if logits.data.is_empty() || labels.data.is_empty() {
            return labels;
        }
        let down = Samples::new(
            self.rows,
            self.scaled_rows as f64 / self.size as f64,
            logits.rows,
        );
        let across = Samples::new(
            self.cols,
            self.scaled_cols as f64 / self.size as f64,
            logits.cols,
        );
        let spans = across.spans();
        let mut blended = vec![0.0_f32; logits.cols];
        let mut values = vec![0.0_f32; self.cols];
        let mut best = vec![0.0_f32; self.cols];
        let rows = labels.data.chunks_exact_mut(self.cols);
        let rows = down.around.iter().zip(&down.weights).zip(rows);
        vectorized(
            #[inline(always)]
            || {
                for ((&(y0, y1), &t), out) in rows {
                    best.fill(f32::NEG_INFINITY);
                    for (class, plane) in logits.data.chunks_exact(plane).enumerate() {
                        let line = |y| &plane[y * logits.cols..(y + 1) * logits.cols];
                        blend(line(y0), line(y1), t, &mut blended);
                        for ((x0, x1), native) in &spans {
                            let weights = &across.weights[native.clone()];
                            let ends = (blended[*x0], blended[*x1]);
                            rise(ends, weights, &mut values[native.clone()]);
                        }
                        overtake(&values, class as u8, &mut best, out);
                    }
                }
            },
        );
        labels
    }

    /// Native pixel coordinates (x, y) to frame coordinates.
    pub fn point_to_frame(&self, x: f32, y: f32) -> (f32, f32) {
        (
            x * self.scaled_cols as f32 / self.cols.max(1) as f32,
            y * self.scaled_rows as f32 / self.rows.max(1) as f32,
        )
    }
}

/// `t` of the way from one line to the other.
#[inline(always)]
fn blend(upper: &[f32], lower: &[f32], t: f32, out: &mut [f32]) {
    for ((value, &a), &b) in out.iter_mut().zip(upper).zip(lower) {
        *value = a + (b - a) * t;
    }
}

/// As far from `a` to `b` as each weight says. Few pixels lie between two logits, so four of them are a step.
#[inline(always)]
fn rise((a, b): (f32, f32), weights: &[f32], out: &mut [f32]) {
    let (steps, last_weights) = weights.as_chunks::<4>();
    let (chunks, last) = out.as_chunks_mut::<4>();
    for (values, weights) in chunks.iter_mut().zip(steps) {
        *values = weights.map(|t| a + (b - a) * t);
    }
    for (value, &t) in last.iter_mut().zip(last_weights) {
        *value = a + (b - a) * t;
    }
}

/// Gives the pixels to `class` where its value is above the best one so far; a choice, not a branch, so it is made for
/// many at once.
#[inline(always)]
fn overtake(values: &[f32], class: u8, best: &mut [f32], labels: &mut [u8]) {
    for ((&value, best), label) in values.iter().zip(best).zip(labels) {
        let wins = value > *best;
        *best = if wins { value } else { *best };
        *label = if wins { class } else { *label };
    }
}

/// For every native index the two logit indices around it, and the weight of the second.
struct Samples {
    around: Vec<(usize, usize)>,
    weights: Vec<f32>,
}

impl Samples {
    /// `filled` is the part of the frame's side that the image covers.
    fn new(native: usize, filled: f64, side: usize) -> Self {
        let covered = filled * side as f64;
        let last = ((covered - 1e-9).ceil() as usize).clamp(1, side) - 1;
        let scale = covered / native.max(1) as f64;
        let sample = |index: usize| {
            let position = ((index as f64 + 0.5) * scale - 0.5).clamp(0.0, last as f64);
            let first = position as usize;
            let weight = (position - first as f64) as f32;
            ((first, (first + 1).min(last)), weight)
        };
        let (around, weights) = (0..native).map(sample).unzip();
        Self { around, weights }
    }

    /// The native indices that lie between the same two.
    fn spans(&self) -> Vec<((usize, usize), Range<usize>)> {
        let mut start = 0;
        let spans = self.around.chunk_by(PartialEq::eq).map(|span| {
            let native = start..start + span.len();
            start = native.end;
            (span[0], native)
        });
        spans.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(fit: Fit, size: usize) -> InputRules {
        InputRules {
            size,
            fit,
            window: Window::None,
            normalize: Normalize::Unit,
        }
    }

    fn place(fit: Fit, size: usize, rows: usize, cols: usize) -> Placement {
        rules(fit, size).placement(rows, cols)
    }

    #[test]
    fn placements_are_sams() {
        let cases = [
            (Fit::LongestSidePad, 256, 200, 300, 171, 256),
            (Fit::LongestSidePad, 1024, 600, 450, 1024, 768),
            (Fit::LongestSidePad, 256, 1, 4000, 1, 256),
            (Fit::LongestSidePad, 256, 256, 256, 256, 256),
            (Fit::Stretch, 256, 200, 300, 256, 256),
        ];
        for (fit, size, rows, cols, scaled_rows, scaled_cols) in cases {
            let found = place(fit, size, rows, cols);
            assert_eq!(
                (found.scaled_rows, found.scaled_cols),
                (scaled_rows, scaled_cols)
            );
        }
    }

    #[test]
    fn grey_is_repeated_and_padding_is_zero_after_normalization() {
        let image = Image {
            rows: 1,
            cols: 2,
            channels: 1,
            data: vec![255.0, 51.0],
        };
        let (input, _) = rules(Fit::LongestSidePad, 2).prepare(&image);
        assert_eq!(input, [1.0, 0.2, 0.0, 0.0].repeat(3));
        let rgb = Image {
            rows: 1,
            cols: 1,
            channels: 3,
            data: vec![0.0, 51.0, 255.0],
        };
        assert_eq!(rules(Fit::Stretch, 1).prepare(&rgb).0, [0.0, 0.2, 1.0]);
        let sam = InputRules {
            normalize: Normalize::Sam,
            ..rules(Fit::LongestSidePad, 2)
        };
        let (input, _) = sam.prepare(&image);
        assert!(
            (input[4] - 2.428_571).abs() < 1e-5 && input[6] == 0.0,
            "{input:?}"
        );
    }

    /// One-hot logits of a label map.
    fn logits(labels: &LabelMap, classes: usize) -> Logits {
        let class = |c| {
            labels
                .data
                .iter()
                .map(move |&label| f32::from(u8::from(label == c)))
        };
        let data = (0..classes as u8).flat_map(class).collect();
        Logits {
            classes,
            rows: labels.rows,
            cols: labels.cols,
            data,
        }
    }

    #[test]
    fn labels_survive_the_way_into_the_frame_and_back() {
        for fit in [Fit::Stretch, Fit::LongestSidePad] {
            for (rows, cols) in [(48, 64), (64, 64), (64, 20), (1, 64), (64, 1), (30, 41)] {
                let mut labels = LabelMap::new(rows, cols);
                for (at, label) in labels.data.iter_mut().enumerate() {
                    *label = ((at / cols * 3 / rows + at % cols * 2 / cols) % 3) as u8;
                }
                let place = place(fit, 256, rows, cols);
                let frame = place.labels_to_frame(&labels, 256);
                let back = place.labels_from_logits(&logits(&frame, 3));
                let same = back
                    .data
                    .iter()
                    .zip(&labels.data)
                    .filter(|(a, b)| a == b)
                    .count();
                assert!(
                    same * 50 >= rows * cols * 49,
                    "{fit:?} {rows}x{cols}: {same}"
                );
            }
        }
    }

    #[test]
    fn padding_is_background_and_never_read_back() {
        let labels = LabelMap {
            rows: 2,
            cols: 4,
            data: vec![1; 8],
        };
        let place = place(Fit::LongestSidePad, 8, 2, 4);
        let frame = place.labels_to_frame(&labels, 4);
        assert_eq!(frame.data, [[1; 8], [0; 8]].concat());
        assert_eq!(place.labels_from_logits(&logits(&frame, 2)), labels);
    }

    #[test]
    fn logits_are_sampled_at_half_pixel_centres() {
        // 0, 1 over two columns, sampled at -0.25, 0.25, 0.75, 1.25: 0, 0.25, 0.75, 1.
        let data = vec![0.3, 0.3, 0.0, 1.0];
        let logits = Logits {
            classes: 2,
            rows: 1,
            cols: 2,
            data,
        };
        let place = place(Fit::Stretch, 64, 1, 4);
        assert_eq!(place.labels_from_logits(&logits).data, [0, 0, 1, 1]);
        let tied = Logits {
            classes: 3,
            rows: 1,
            cols: 1,
            data: vec![f32::NAN, 2.0, 2.0],
        };
        assert_eq!(place.labels_from_logits(&tied).data, [1; 4]);
    }

    /// What the formula says, pixel by pixel.
    fn plain(place: &Placement, logits: &Logits) -> Vec<u8> {
        let filled = |scaled: usize| scaled as f64 / place.size as f64;
        let down = Samples::new(place.rows, filled(place.scaled_rows), logits.rows);
        let across = Samples::new(place.cols, filled(place.scaled_cols), logits.cols);
        let mut labels = Vec::new();
        for (&(y0, y1), &down) in down.around.iter().zip(&down.weights) {
            for (&(x0, x1), &across) in across.around.iter().zip(&across.weights) {
                let (mut best, mut label) = (f32::NEG_INFINITY, 0);
                for class in 0..logits.classes {
                    let at = |y, x| logits.data[(class * logits.rows + y) * logits.cols + x];
                    let column = |x| at(y0, x) + (at(y1, x) - at(y0, x)) * down;
                    let value = column(x0) + (column(x1) - column(x0)) * across;
                    if value > best {
                        (best, label) = (value, class as u8);
                    }
                }
                labels.push(label);
            }
        }
        labels
    }

    #[test]
    fn many_pixels_at_once_get_the_labels_of_one_after_the_other() {
        let mut state = 7_u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            match state >> 56 {
                0 => f32::NAN,
                1 => f32::NEG_INFINITY,
                2 => f32::INFINITY,
                _ => (state >> 40) as f32 / 1e5 - 80.0,
            }
        };
        for fit in [Fit::Stretch, Fit::LongestSidePad] {
            for (classes, rows, cols) in [(2, 150, 203), (4, 64, 31), (3, 1, 9), (2, 5, 1)] {
                let data = (0..classes * 16 * 16).map(|_| noise()).collect();
                let logits = Logits {
                    classes,
                    rows: 16,
                    cols: 16,
                    data,
                };
                let place = place(fit, 64, rows, cols);
                let labels = place.labels_from_logits(&logits).data;
                assert_eq!(labels, plain(&place, &logits), "{fit:?} {rows}x{cols}");
            }
        }
    }

    #[test]
    fn points_scale_with_the_image() {
        let found = place(Fit::LongestSidePad, 256, 100, 200).point_to_frame(50.0, 25.0);
        assert_eq!(found, (64.0, 32.0));
    }
}
