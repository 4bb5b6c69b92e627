//! Coefficients of JPEG by DCT to samples: dequantized, transformed, at the image's size.

use super::dct::{Coefficients, Plane, ZIGZAG, highest_factors};
use super::upsample::Subsampled;
use super::{Size, Stream, malformed, no_table};
use crate::decode::DecodeError;

/// Samples of all components, at the image's size.
pub(super) fn planes(
    stream: &Stream,
    coefficients: Coefficients,
) -> Result<Vec<Vec<u16>>, DecodeError> {
    let frame = stream.frame()?;
    let (h_max, v_max) = highest_factors(frame);
    let size = Size {
        rows: frame.rows,
        cols: frame.cols,
        samples: 1,
    };
    let mut planes = Vec::new();
    for plane in coefficients.planes {
        if plane.known.iter().any(|known| *known != Some(0)) {
            return Err(malformed("scans are missing"));
        }
        let table = plane.table.as_ref().ok_or_else(no_table)?;
        let (horizontal, vertical) = (plane.horizontal, plane.vertical);
        let subsampled = Subsampled {
            samples: samples(&plane, table, frame.precision),
            stride: 8 * plane.stride,
            rows: (frame.rows * vertical).div_ceil(v_max),
            cols: (frame.cols * horizontal).div_ceil(h_max),
            down: v_max / vertical,
            across: h_max / horizontal,
        };
        planes.push(subsampled.upsample(size));
    }
    Ok(planes)
}

fn samples(plane: &Plane, table: &[u16; 64], precision: u32) -> Vec<u16> {
    let scales = scales(table);
    let stride = 8 * plane.stride;
    let mut samples = vec![0; 64 * plane.blocks.len()];
    let (center, maximum) = ((1 << (precision - 1)) as f32, ((1 << precision) - 1) as f32);
    for (index, block) in plane.blocks.iter().enumerate() {
        let corner = index / plane.stride * 8 * stride + index % plane.stride * 8;
        let mut values: [Lanes; 8] = std::array::from_fn(|row| {
            std::array::from_fn(|col| f32::from(block[8 * row + col]) * scales[row][col])
        });
        inverse_dct(&mut values);
        for (y, row) in values.iter().enumerate() {
            let target = &mut samples[corner + y * stride..][..8];
            for (sample, value) in target.iter_mut().zip(row) {
                *sample = (value + (center + 0.5)).clamp(0.0, maximum) as u16;
            }
        }
    }
    samples
}

type Lanes = [f32; 8];

/// Arai, Agui and Nakajima's transform leaves these factors to the quantization.
fn scales(table: &[u16; 64]) -> [Lanes; 8] {
    use std::f64::consts::{PI, SQRT_2};
    let factor = |index: usize| match index {
        0 => 1.0,
        _ => (index as f64 * PI / 16.0).cos() * SQRT_2,
    };
    let mut scales = [[0.0; 8]; 8];
    for (position, &at) in ZIGZAG.iter().enumerate() {
        let (row, col) = (at / 8, at % 8);
        scales[row][col] = (f64::from(table[position]) * factor(row) * factor(col) / 8.0) as f32;
    }
    scales
}

/// In floating point: the same on every CPU, as nothing is fused.
fn inverse_dct(rows: &mut [Lanes; 8]) {
    for _ in 0..2 {
        columns(rows);
        let turned: [Lanes; 8] = std::array::from_fn(|y| std::array::from_fn(|x| rows[x][y]));
        *rows = turned;
    }
}

/// Eight transforms of eight values, one in each lane.
fn columns(rows: &mut [Lanes; 8]) {
    let add = |a: Lanes, b: Lanes| -> Lanes { std::array::from_fn(|lane| a[lane] + b[lane]) };
    let sub = |a: Lanes, b: Lanes| -> Lanes { std::array::from_fn(|lane| a[lane] - b[lane]) };
    let mul = |a: Lanes, factor: f32| -> Lanes { a.map(|value| value * factor) };
    let [r0, r1, r2, r3, r4, r5, r6, r7] = *rows;
    let (sum, difference) = (add(r0, r4), sub(r0, r4));
    let inner = add(r2, r6);
    let outer = sub(mul(sub(r2, r6), 1.414_213_6), inner);
    let even = [
        add(sum, inner),
        add(difference, outer),
        sub(difference, outer),
        sub(sum, inner),
    ];
    let (z13, z10) = (add(r5, r3), sub(r5, r3));
    let (z11, z12) = (add(r1, r7), sub(r1, r7));
    let z5 = mul(add(z10, z12), 1.847_759);
    let o0 = add(z11, z13);
    let o1 = sub(sub(z5, mul(z10, 2.613_126)), o0);
    let o2 = sub(mul(sub(z11, z13), 1.414_213_6), o1);
    let o3 = sub(sub(z5, mul(z12, 1.082_392_2)), o2);
    for (index, odd) in [o0, o1, o2, o3].into_iter().enumerate() {
        rows[index] = add(even[index], odd);
        rows[7 - index] = sub(even[index], odd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transform_is_the_one_of_the_definition() {
        let cosine = |index: usize, at: usize| {
            let scale = if index == 0 { 0.5f64.sqrt() } else { 1.0 };
            scale * ((2 * at + 1) as f64 * index as f64 * std::f64::consts::PI / 16.0).cos() / 2.0
        };
        let scales = scales(&[3; 64]);
        for (row, col) in [(0, 0), (0, 3), (5, 0), (2, 7), (7, 7)] {
            let mut values = [[0.0; 8]; 8];
            values[row][col] = 40.0 * scales[row][col];
            inverse_dct(&mut values);
            for (y, line) in values.iter().enumerate() {
                for (x, value) in line.iter().enumerate() {
                    let expected = 120.0 * cosine(row, y) * cosine(col, x);
                    assert!(
                        (f64::from(*value) - expected).abs() < 1e-3,
                        "{row} {col} {y} {x}"
                    );
                }
            }
        }
    }
}
