//! Native image to network frame, and back for masks at the image's native size.

use serde::{Deserialize, Serialize};

use crate::intensity::{self, Normalize, Window};
use crate::mask::Logits;
use crate::{Image, LabelMap, resample};

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
        let place = self.placement(image.rows, image.cols);
        let windowed = intensity::window(image, self.window);
        let mut scaled = resample::bilinear_u8(&windowed, place.scaled_rows, place.scaled_cols);
        intensity::normalize(&mut scaled, self.normalize);
        let mut input = vec![0.0; 3 * self.size * self.size];
        let width = (scaled.cols * scaled.channels).max(1);
        for (channel, plane) in input
            .chunks_exact_mut((self.size * self.size).max(1))
            .enumerate()
        {
            let channel = channel.min(scaled.channels.saturating_sub(1));
            let lines = scaled.data.chunks_exact(width);
            for (line, out) in lines.zip(plane.chunks_exact_mut(self.size)) {
                let pixels = line.iter().skip(channel).step_by(scaled.channels);
                out.iter_mut()
                    .zip(pixels)
                    .for_each(|(value, &x)| *value = x);
            }
        }
        (input, place)
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
        let mut blended = vec![0.0_f32; logits.cols];
        let mut best = vec![0.0_f32; self.cols];
        for (&(y0, y1, t), out) in down.0.iter().zip(labels.data.chunks_exact_mut(self.cols)) {
            best.fill(f32::NEG_INFINITY);
            for (class, plane) in logits.data.chunks_exact(plane).enumerate() {
                let upper = &plane[y0 * logits.cols..(y0 + 1) * logits.cols];
                let lower = &plane[y1 * logits.cols..(y1 + 1) * logits.cols];
                for ((value, &a), &b) in blended.iter_mut().zip(upper).zip(lower) {
                    *value = a + (b - a) * t;
                }
                let pixels = across.0.iter().zip(best.iter_mut().zip(out.iter_mut()));
                for (&(x0, x1, t), (best, label)) in pixels {
                    let value = blended[x0] + (blended[x1] - blended[x0]) * t;
                    if value > *best {
                        *best = value;
                        *label = class as u8;
                    }
                }
            }
        }
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

/// For every native index the two logit indices around it and the weight of the second.
struct Samples(Vec<(usize, usize, f32)>);

impl Samples {
    /// `filled` is the part of the frame's side that the image covers.
    fn new(native: usize, filled: f64, side: usize) -> Self {
        let covered = filled * side as f64;
        let last = ((covered - 1e-9).ceil() as usize).clamp(1, side) - 1;
        let scale = covered / native.max(1) as f64;
        let sample = |index: usize| {
            let position = ((index as f64 + 0.5) * scale - 0.5).clamp(0.0, last as f64);
            let first = position as usize;
            (
                first,
                (first + 1).min(last),
                (position - first as f64) as f32,
            )
        };
        Self((0..native).map(sample).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(fit: Fit) -> InputRules {
        InputRules {
            size: 64,
            fit,
            window: Window::MinMax,
            normalize: Normalize::MinMax,
        }
    }

    #[test]
    fn the_longest_side_fills_the_frame_and_the_rest_is_zero() {
        let image = Image {
            rows: 10,
            cols: 20,
            channels: 1,
            data: (0..200).map(|v| v as f32).collect(),
        };
        let (chw, placement) = rules(Fit::LongestSidePad).prepare(&image);
        assert_eq!(chw.len(), 3 * 64 * 64);
        assert_eq!((placement.scaled_rows, placement.scaled_cols), (32, 64));
        assert!(chw[32 * 64..64 * 64].iter().all(|&v| v == 0.0));
        assert!(chw[..32 * 64].iter().any(|&v| v > 0.9));
        assert_eq!(
            chw[..64 * 64],
            chw[64 * 64..2 * 64 * 64],
            "grey is repeated"
        );
    }

    #[test]
    fn labels_survive_the_way_to_the_frame_and_back() {
        for (fit, rows, cols) in [
            (Fit::LongestSidePad, 48, 96),
            (Fit::LongestSidePad, 100, 70),
            (Fit::Stretch, 33, 90),
        ] {
            let mut labels = LabelMap::new(rows, cols);
            for row in rows / 4..rows / 2 {
                labels.data[row * cols + cols / 3..row * cols + cols / 2].fill(1);
            }
            let placement = rules(fit).placement(rows, cols);
            let frame = placement.labels_to_frame(&labels, 64);
            let logits: Vec<f32> = [0u8, 1]
                .iter()
                .flat_map(|class| {
                    frame
                        .data
                        .iter()
                        .map(move |l| f32::from(u8::from(l == class)))
                })
                .collect();
            let back = placement.labels_from_logits(&Logits {
                classes: 2,
                rows: 64,
                cols: 64,
                data: logits,
            });
            let dice = crate::mask::Overlap::of(&back, &labels, 1).dice().unwrap();
            assert!(dice > 0.93, "{fit:?} {rows} x {cols}: {dice}");
        }
    }
}
