//! Seeded changes to a prepared frame: a few intensity changes, then one affine resampling of pixels
//! and labels together. Under `strict_reference` finetune-SAM's instead.

mod eight_bit;
pub(crate) mod reference;

use contract::LabelMap;
use contract::geometry::Placement;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A network input with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Side of the square, px.
    pub size: usize,
    /// CHW, 3 x `size` x `size`, normalized; 0 in the padding.
    pub pixels: Vec<f32>,
    /// `size` x `size`.
    pub labels: LabelMap,
    /// Where the image lies in the frame, before any augmentation.
    pub placement: Placement,
}

/// Whose changes.
#[derive(Debug, Clone)]
pub enum Changes {
    Own(Augmentation),
    Reference,
}

/// How far a frame may be changed. Every range is drawn from uniformly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Without it images stay as they are, and so does the embedding of a frozen encoder, which is then kept.
    pub enabled: bool,
    /// Rotation about the image's centre, in +- degrees.
    pub rotation_deg: f32,
    /// Smallest and largest zoom; above 1 enlarges.
    pub scale: [f32; 2],
    /// Translation along each axis, in +- fractions of the side.
    pub shift: f32,
    /// Mirror left and right with probability one half.
    pub flip_horizontal: bool,
    /// Mirror top and bottom with probability one half.
    pub flip_vertical: bool,
    /// Smallest and largest exponent on pixels scaled to 0..=1 by the image's own range.
    pub gamma: [f32; 2],
    /// Offset in +- fractions of the range.
    pub brightness: f32,
    /// Stretch about the mean, in 1 +- this.
    pub contrast: f32,
    /// Largest standard deviation of Gaussian noise, as a fraction of the range.
    pub noise: f32,
    /// Stretch away from grey, in 1 +- this; does nothing to grey images.
    pub saturation: f32,
    /// Turn of the hue, in +- fractions of the circle; does nothing to grey images.
    pub hue: f32,
    /// Probability of each of gamma, brightness, contrast, noise, saturation and hue.
    pub probability: f32,
    /// Probability that each channel's histogram is spread evenly.
    pub equalize: f32,
}

/// Pixels outside the image become 0 and background, as padding is. Every draw is made in the same
/// order whatever the rule, so that switching one change off leaves the others as they were.
pub fn augment(frame: &Frame, rule: &Augmentation, rng: &mut ChaCha8Rng) -> Frame {
    let colour = Colour::draw(rule, rng);
    let affine = Affine::draw(frame, rule, rng);
    let intensity = Intensity::draw(rule, rng);
    let mut changed = frame.clone();
    colour.apply(&mut changed);
    intensity.apply(&mut changed, rng);
    affine.resample(&changed)
}

/// Uniform in `low..=high`; draws even where both are equal.
fn between(low: f32, high: f32, rng: &mut ChaCha8Rng) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// Output pixel (x, y) to source pixel: `matrix` * (x, y) + `offset`.
struct Affine {
    matrix: [[f32; 2]; 2],
    offset: [f32; 2],
}

impl Affine {
    fn draw(frame: &Frame, rule: &Augmentation, rng: &mut ChaCha8Rng) -> Self {
        let angle = between(-rule.rotation_deg, rule.rotation_deg, rng).to_radians();
        let scale = between(rule.scale[0], rule.scale[1], rng).max(f32::EPSILON);
        let side = frame.size as f32;
        let shift_x = side * between(-rule.shift, rule.shift, rng);
        let shift_y = side * between(-rule.shift, rule.shift, rng);
        let mirror = |allowed: bool, draw: bool| if allowed && draw { -1.0 } else { 1.0 };
        let flip_x = mirror(rule.flip_horizontal, rng.random());
        let flip_y = mirror(rule.flip_vertical, rng.random());
        let centre_x = (frame.placement.scaled_cols as f32 - 1.0) / 2.0;
        let centre_y = (frame.placement.scaled_rows as f32 - 1.0) / 2.0;
        let (sin, cos) = angle.sin_cos();
        let matrix = [
            [flip_x * cos / scale, flip_x * sin / scale],
            [-flip_y * sin / scale, flip_y * cos / scale],
        ];
        let (x, y) = (centre_x + shift_x, centre_y + shift_y);
        let offset = [
            centre_x - matrix[0][0] * x - matrix[0][1] * y,
            centre_y - matrix[1][0] * x - matrix[1][1] * y,
        ];
        Self { matrix, offset }
    }

    /// Bilinear for pixels, nearest for labels.
    fn resample(&self, frame: &Frame) -> Frame {
        let size = frame.size;
        let area = size * size;
        let mut pixels = vec![0.0; 3 * area];
        let mut labels = LabelMap::new(size, size);
        let (rows, cols) = (frame.placement.scaled_rows, frame.placement.scaled_cols);
        for y in 0..size {
            for x in 0..size {
                let (fx, fy) = (x as f32, y as f32);
                let sx = self.matrix[0][0] * fx + self.matrix[0][1] * fy + self.offset[0];
                let sy = self.matrix[1][0] * fx + self.matrix[1][1] * fy + self.offset[1];
                if sx <= -1.0 || sy <= -1.0 || sx >= cols as f32 || sy >= rows as f32 {
                    continue;
                }
                let to = y * size + x;
                let (nx, ny) = (sx.round(), sy.round());
                if nx >= 0.0 && ny >= 0.0 && nx < cols as f32 && ny < rows as f32 {
                    labels.data[to] = frame.labels.data[ny as usize * size + nx as usize];
                }
                let taps = Taps::at(sx, sy, [rows, cols], size);
                for channel in 0..3 {
                    let plane = &frame.pixels[channel * area..(channel + 1) * area];
                    pixels[channel * area + to] = taps.sum(plane);
                }
            }
        }
        Frame {
            size,
            pixels,
            labels,
            placement: frame.placement,
        }
    }
}

/// The four neighbours of a source position; those outside the image weigh nothing.
struct Taps {
    indices: [usize; 4],
    weights: [f32; 4],
}

impl Taps {
    fn at(x: f32, y: f32, [rows, cols]: [usize; 2], stride: usize) -> Self {
        let (x0, y0) = (x.floor(), y.floor());
        let (wx, wy) = (x - x0, y - y0);
        let (x0, y0) = (x0 as isize, y0 as isize);
        let mut taps = Self {
            indices: [0; 4],
            weights: [0.0; 4],
        };
        let corners = [
            (x0, y0, (1.0 - wx) * (1.0 - wy)),
            (x0 + 1, y0, wx * (1.0 - wy)),
            (x0, y0 + 1, (1.0 - wx) * wy),
            (x0 + 1, y0 + 1, wx * wy),
        ];
        for (tap, (x, y, weight)) in corners.into_iter().enumerate() {
            if x >= 0 && y >= 0 && x < cols as isize && y < rows as isize {
                taps.indices[tap] = y as usize * stride + x as usize;
                taps.weights[tap] = weight;
            }
        }
        taps
    }

    fn sum(&self, plane: &[f32]) -> f32 {
        self.indices
            .iter()
            .zip(self.weights)
            .map(|(&index, weight)| plane[index] * weight)
            .sum()
    }
}

/// The drawn changes of histogram and colour, on 256 levels of each channel's range.
struct Colour {
    equalize: bool,
    /// Beyond 1.
    saturation: f32,
    hue: f32,
}

impl Colour {
    /// From a stream of its own: the noise draws as many numbers as the image has pixels, so nothing can follow it.
    fn draw(rule: &Augmentation, rng: &ChaCha8Rng) -> Self {
        let mut rng = rng.clone();
        rng.set_stream(!rng.get_stream());
        let equalize = rng.random::<f32>() < rule.equalize;
        let mut one_of = |reach: f32| {
            let happens = rng.random::<f32>() < rule.probability;
            let value = between(-reach, reach, &mut rng);
            if happens { value } else { 0.0 }
        };
        Self {
            equalize,
            saturation: one_of(rule.saturation),
            hue: one_of(rule.hue),
        }
    }

    fn apply(&self, frame: &mut Frame) {
        if !self.equalize && self.saturation == 0.0 && self.hue == 0.0 {
            return;
        }
        let (rows, cols) = (frame.placement.scaled_rows, frame.placement.scaled_cols);
        let (size, area) = (frame.size, frame.size * frame.size);
        let inside: Vec<usize> = (0..rows).flat_map(|y| y * size..y * size + cols).collect();
        let ranges = [0, 1, 2].map(|channel| {
            let values = inside.iter().map(|at| frame.pixels[channel * area + at]);
            values.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| {
                (low.min(x), high.max(x))
            })
        });
        let level = |channel: usize, at: usize| {
            let (low, high) = ranges[channel];
            // 0 where there is no range.
            ((frame.pixels[channel * area + at] - low) / (high - low) * 255.0).round() as u8
        };
        let mut levels: Vec<[u8; 3]> = inside
            .iter()
            .map(|&at| [0, 1, 2].map(|channel| level(channel, at)))
            .collect();
        if self.equalize {
            eight_bit::equalize(&mut levels);
        }
        eight_bit::saturation(&mut levels, 1.0 + self.saturation);
        eight_bit::hue(&mut levels, self.hue);
        for (at, pixel) in inside.into_iter().zip(levels) {
            for channel in 0..3 {
                let (low, high) = ranges[channel];
                let unit = f32::from(pixel[channel]) / 255.0;
                frame.pixels[channel * area + at] = low + (high - low) * unit;
            }
        }
    }
}

/// The drawn intensity changes, in units of the image's range.
struct Intensity {
    gamma: f32,
    brightness: f32,
    contrast: f32,
    noise: f32,
}

impl Intensity {
    fn draw(rule: &Augmentation, rng: &mut ChaCha8Rng) -> Self {
        let mut one_of = |low: f32, high: f32, neutral: f32| {
            let happens = rng.random::<f32>() < rule.probability;
            let value = between(low, high, rng);
            if happens { value } else { neutral }
        };
        Self {
            gamma: one_of(rule.gamma[0], rule.gamma[1], 1.0),
            brightness: one_of(-rule.brightness, rule.brightness, 0.0),
            contrast: one_of(1.0 - rule.contrast, 1.0 + rule.contrast, 1.0),
            noise: one_of(0.0, rule.noise, 0.0),
        }
    }

    /// Per channel, within the image only: padding stays 0. The noise is the same in all three, so
    /// that a grey image stays grey. Values may leave the range a little, as real ones do.
    fn apply(&self, frame: &mut Frame, rng: &mut ChaCha8Rng) {
        let (rows, cols) = (frame.placement.scaled_rows, frame.placement.scaled_cols);
        let (size, area) = (frame.size, frame.size * frame.size);
        let noise = self.noise_field(rows * cols, rng);
        for plane in frame.pixels.chunks_exact_mut(area) {
            let inside = || (0..rows).flat_map(move |y| y * size..y * size + cols);
            let (low, high, sum) = inside().map(|index| plane[index]).fold(
                (f32::INFINITY, f32::NEG_INFINITY, 0.0_f64),
                |(low, high, sum), x| (low.min(x), high.max(x), sum + f64::from(x)),
            );
            let range = high - low;
            // An image without contrast has nothing to change.
            if range <= 0.0 || range.is_nan() {
                continue;
            }
            let mean = ((sum / (rows * cols) as f64) as f32 - low) / range;
            let gamma = self.gamma_table();
            for (index, place) in inside().zip(0..) {
                let unit = gamma.at((plane[index] - low) / range);
                let stretched = (unit - mean) * self.contrast + mean + self.brightness;
                let noisy = stretched + noise.get(place).copied().unwrap_or(0.0);
                plane[index] = low + range * noisy;
            }
        }
    }

    fn noise_field(&self, n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        if self.noise <= 0.0 {
            return Vec::new();
        }
        // Box and Muller: two normal values from two uniform ones, the first in (0, 1].
        let mut field = Vec::with_capacity(n + 1);
        while field.len() < n {
            let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt() * self.noise;
            let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
            field.extend([radius * cos, radius * sin]);
        }
        field
    }

    fn gamma_table(&self) -> GammaTable {
        let steps = GAMMA_STEPS as f32;
        GammaTable(
            (0..=GAMMA_STEPS)
                .map(|i| (i as f32 / steps).powf(self.gamma))
                .collect(),
        )
    }
}

/// Interpolating 1024 steps is off by less than the 8-bit source's own rounding.
const GAMMA_STEPS: usize = 1024;

struct GammaTable(Vec<f32>);

impl GammaTable {
    /// `unit` is in 0..=1.
    fn at(&self, unit: f32) -> f32 {
        let position = unit.clamp(0.0, 1.0) * GAMMA_STEPS as f32;
        let step = (position as usize).min(GAMMA_STEPS - 1);
        let (low, high) = (self.0[step], self.0[step + 1]);
        low + (high - low) * (position - step as f32)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const STILL: Augmentation = Augmentation {
        enabled: true,
        rotation_deg: 0.0,
        scale: [1.0, 1.0],
        shift: 0.0,
        flip_horizontal: false,
        flip_vertical: false,
        gamma: [1.0, 1.0],
        brightness: 0.0,
        contrast: 0.0,
        noise: 0.0,
        saturation: 0.0,
        hue: 0.0,
        probability: 1.0,
        equalize: 0.0,
    };

    /// A 48 x 64 image in a 64 px frame: a ramp with a labelled, bright rectangle.
    fn frame() -> Frame {
        let size = 64;
        let placement = Placement {
            rows: 48,
            cols: 64,
            scaled_rows: 48,
            scaled_cols: 64,
            size,
        };
        let mut pixels = vec![0.0; 3 * size * size];
        let mut labels = LabelMap::new(size, size);
        for y in 0..48 {
            for x in 0..64 {
                let inside = (10..30).contains(&y) && (12..40).contains(&x);
                labels.data[y * size + x] = u8::from(inside);
                for channel in 0..3 {
                    let value = if inside { 1.0 } else { 0.1 + x as f32 / 200.0 };
                    pixels[(channel * size + y) * size + x] = value;
                }
            }
        }
        Frame {
            size,
            pixels,
            labels,
            placement,
        }
    }

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    #[test]
    fn a_rule_without_ranges_changes_nothing() {
        let frame = frame();
        let same = augment(&frame, &STILL, &mut rng(1));
        assert_eq!(same.labels, frame.labels);
        let largest = same
            .pixels
            .iter()
            .zip(&frame.pixels)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(largest < 1e-5, "{largest}");
    }

    #[test]
    fn the_seed_decides() {
        let rule = Augmentation {
            rotation_deg: 30.0,
            noise: 0.1,
            ..STILL
        };
        let frame = frame();
        assert_eq!(
            augment(&frame, &rule, &mut rng(5)),
            augment(&frame, &rule, &mut rng(5))
        );
        assert_ne!(
            augment(&frame, &rule, &mut rng(5)),
            augment(&frame, &rule, &mut rng(6))
        );
    }

    #[test]
    fn flips_mirror_within_the_image() {
        let rule = Augmentation {
            flip_horizontal: true,
            flip_vertical: true,
            ..STILL
        };
        let frame = frame();
        let mirrored = |flip_x: bool, flip_y: bool| {
            let mut labels = LabelMap::new(64, 64);
            for y in 0..48 {
                for x in 0..64 {
                    let from_x = if flip_x { 63 - x } else { x };
                    let from_y = if flip_y { 47 - y } else { y };
                    labels.data[y * 64 + x] = frame.labels.data[from_y * 64 + from_x];
                }
            }
            labels
        };
        let wanted: Vec<LabelMap> = [(false, false), (true, false), (false, true), (true, true)]
            .into_iter()
            .map(|(x, y)| mirrored(x, y))
            .collect();
        let mut seen = [0; 4];
        for seed in 0..40 {
            let labels = augment(&frame, &rule, &mut rng(seed)).labels;
            let which = wanted.iter().position(|map| *map == labels).unwrap();
            seen[which] += 1;
        }
        assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    }

    #[test]
    fn labels_follow_the_pixels() {
        let rule = Augmentation {
            rotation_deg: 40.0,
            scale: [0.7, 1.3],
            shift: 0.1,
            flip_horizontal: true,
            ..STILL
        };
        for seed in 0..20 {
            let moved = augment(&frame(), &rule, &mut rng(seed));
            // The rectangle is 1.0, all else at most 0.42; only the interpolated rim is in doubt.
            for (label, pixel) in moved.labels.data.iter().zip(&moved.pixels) {
                assert!(
                    *label == 1 || *pixel < 0.95,
                    "bright pixel without label, seed {seed}"
                );
                assert!(
                    *label == 0 || *pixel > 0.2,
                    "label on dark pixel {pixel}, seed {seed}"
                );
            }
        }
    }

    #[test]
    fn zoom_scales_the_area() {
        let rule = Augmentation {
            scale: [0.5, 0.5],
            ..STILL
        };
        let small = augment(&frame(), &rule, &mut rng(1));
        let count = |labels: &LabelMap| labels.data.iter().filter(|&&value| value == 1).count();
        assert_eq!(count(&small.labels) * 4, count(&frame().labels));
    }

    #[test]
    fn intensity_changes_spare_padding_and_labels() {
        let rule = Augmentation {
            gamma: [0.5, 0.6],
            brightness: 0.3,
            contrast: 0.3,
            noise: 0.1,
            ..STILL
        };
        let frame = frame();
        let changed = augment(&frame, &rule, &mut rng(3));
        assert_eq!(changed.labels, frame.labels);
        let area = 64 * 64;
        for channel in 0..3 {
            let plane = &changed.pixels[channel * area..(channel + 1) * area];
            assert!(plane[48 * 64..].iter().all(|&value| value == 0.0));
            assert_eq!(plane, &changed.pixels[..area], "a grey image stays grey");
        }
        assert_ne!(changed.pixels, frame.pixels);
    }

    #[test]
    fn colours_change_what_is_coloured_and_leave_the_other_changes_alone() {
        let other = Augmentation {
            rotation_deg: 20.0,
            noise: 0.1,
            ..STILL
        };
        let rule = Augmentation {
            saturation: 0.3,
            hue: 0.3,
            ..other.clone()
        };
        let grey = frame();
        let difference = |frame: &Frame| {
            let [one, two] = [&other, &rule].map(|rule| augment(frame, rule, &mut rng(9)));
            assert_eq!(one.labels, two.labels);
            let pairs = one.pixels.iter().zip(&two.pixels);
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        // One of 256 levels.
        assert!(difference(&grey) < 1.0 / 255.0);
        let mut coloured = grey;
        for (at, pixel) in coloured.pixels[..48 * 64].iter_mut().enumerate() {
            *pixel = (at % 64) as f32 / 63.0;
        }
        assert!(difference(&coloured) > 0.1);
    }

    #[test]
    fn an_equalized_image_spreads_over_its_range() {
        let rule = Augmentation {
            equalize: 1.0,
            ..STILL
        };
        let frame = frame();
        let changed = augment(&frame, &rule, &mut rng(1));
        assert_eq!(changed.labels, frame.labels);
        let above = |pixels: &[f32]| pixels[..48 * 64].iter().filter(|&&x| x > 0.5).count();
        // The ramp ends at 0.42, and four of five pixels are on it.
        assert_eq!(above(&frame.pixels), 20 * 28);
        assert!(above(&changed.pixels) > 48 * 64 / 3);
    }
}
