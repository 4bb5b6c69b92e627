//! From geometry to pixels: partial volume, coil sensitivity, noise, the scanner's window.

use contract::{Image, LabelMap};

use crate::anatomy::{Anatomy, Coil, Window};
use crate::draw::{Draw, Field, Point, minus, turned};
use crate::section::Section;
use crate::tissue::Tissue;

/// A pixel is the mean of so many samples in each direction, which makes its edges soft.
const SAMPLES: usize = 3;
/// Width of what a pixel sees, in pixels: the point spread is wider than the grid.
const FOOTPRINT: f64 = 1.8;
const WHITE: f64 = 4095.0;

/// What one pixel sees.
struct Seen {
    tissues: [Tissue; SAMPLES * SAMPLES],
}

impl Seen {
    fn signal(&self, anatomy: &Anatomy) -> f64 {
        let sum: f64 = self
            .tissues
            .iter()
            .map(|&tissue| anatomy.signals.of(tissue))
            .sum();
        sum / self.tissues.len() as f64
    }

    /// The structure that fills more than half of the pixel, else background.
    fn structure(&self) -> u8 {
        let structures = self.tissues.map(|tissue| tissue.structure() as u8);
        let most = structures.iter().copied().find(|&candidate| {
            structures
                .iter()
                .filter(|&&value| value == candidate)
                .count()
                * 2
                > structures.len()
        });
        most.unwrap_or_default()
    }
}

pub(crate) fn render(
    anatomy: &Anatomy,
    section: &Section<'_>,
    size: usize,
    noise: &mut Draw,
) -> (Image, LabelMap) {
    let spacing = anatomy.field_of_view / size as f64;
    let mottle = [
        Field::new(anatomy.texture ^ 0x14, 7.0),
        Field::new(anatomy.texture ^ 0x15, 30.0),
    ];
    let mut data = Vec::with_capacity(size * size);
    let mut structures = LabelMap::new(size, size);
    for row in 0..size {
        for col in 0..size {
            let place = [col, row].map(|i| (i as f64 + 0.5 - size as f64 / 2.0) * spacing);
            let point = in_scene(anatomy, place);
            let seen = look(anatomy, section, place, spacing);
            let [fine, coarse] = mottle.map(|field| field.at(point) - 0.5);
            let texture = 1.0 + 0.22 * fine + 0.3 * coarse;
            let signal = seen.signal(anatomy) * texture * sensitivity(&anatomy.coil, point);
            // Always drawn, so that the window does not shift the noise.
            let value = rician(signal, anatomy.coil.noise, noise);
            let value = if visible(anatomy, place) { value } else { 0.0 };
            data.push(value.round().min(WHITE) as f32);
            structures.data[row * size + col] = seen.structure();
        }
    }
    let image = Image {
        rows: size,
        cols: size,
        channels: 1,
        data,
    };
    (image, structures)
}

/// From mm in the picture, seen from its centre, to the anatomy's axes.
fn in_scene(anatomy: &Anatomy, place: Point) -> Point {
    turned(minus(place, anatomy.position), anatomy.axis)
}

fn look(anatomy: &Anatomy, section: &Section<'_>, place: Point, spacing: f64) -> Seen {
    let step = spacing * FOOTPRINT / SAMPLES as f64;
    let offset = |i: usize| (i as f64 - (SAMPLES - 1) as f64 / 2.0) * step;
    let tissues = std::array::from_fn(|i| {
        let sample = [
            place[0] + offset(i % SAMPLES),
            place[1] + offset(i / SAMPLES),
        ];
        section.tissue(in_scene(anatomy, sample))
    });
    Seen { tissues }
}

/// Surface coils hear what is near: bright skin, dim depth.
fn sensitivity(coil: &Coil, point: Point) -> f64 {
    let near: f64 = coil
        .elements
        .iter()
        .zip(coil.gains)
        .map(|(&element, gain)| {
            let [x, y] = minus(point, element).map(|value| value / coil.reach);
            gain / (1.0 + x * x + y * y)
        })
        .sum();
    0.62 + near
}

/// Magnitude of a complex signal with normal noise in both channels.
fn rician(signal: f64, deviation: f64, noise: &mut Draw) -> f64 {
    let real = signal + deviation * noise.normal();
    let imaginary = deviation * noise.normal();
    (real * real + imaginary * imaginary).sqrt()
}

fn visible(anatomy: &Anatomy, place: Point) -> bool {
    let [x, y] = place;
    match anatomy.window {
        Window::Whole => true,
        Window::Circle(radius) => x * x + y * y < radius * radius,
        Window::Barrel(half, more) => {
            let edge = 2.0 * y / anatomy.field_of_view;
            x.abs() < half + more * edge * edge
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without signal the magnitude is Rayleigh distributed: mean / deviation is
    /// sqrt(pi / (4 - pi)) = 1.913.
    #[test]
    fn noise_in_air_is_rician() {
        for seed in 0..4 {
            let anatomy = Anatomy::draw(seed);
            let section = Section::new(&anatomy, 0.4, 0.0);
            let (image, _) = render(&anatomy, &section, 256, &mut Draw::new(&[seed]));
            let spacing = anatomy.field_of_view / 256.0;
            let mut air = Vec::new();
            for (i, &value) in image.data.iter().enumerate() {
                let place = [i % 256, i / 256].map(|i| (i as f64 + 0.5 - 128.0) * spacing);
                let seen = look(&anatomy, &section, place, spacing);
                if visible(&anatomy, place) && seen.tissues.iter().all(|&t| t == Tissue::Air) {
                    air.push(f64::from(value));
                }
            }
            assert!(air.len() > 1000, "seed {seed}: {} px of air", air.len());
            let n = air.len() as f64;
            let mean = air.iter().sum::<f64>() / n;
            let deviation = (air.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            let ratio = mean / deviation;
            assert!((ratio - 1.913).abs() < 0.08, "seed {seed}: {ratio}");
            let expected = anatomy.coil.noise * (std::f64::consts::PI / 2.0).sqrt();
            assert!(
                (mean / expected - 1.0).abs() < 0.06,
                "seed {seed}: {mean}, not {expected}"
            );
        }
    }
}
