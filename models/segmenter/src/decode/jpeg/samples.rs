//! Coefficients of JPEG by DCT to samples: dequantized, transformed, at the image's size.

use std::f32::consts::SQRT_2;

use super::dct::{Coefficients, Plane, ZIGZAG, highest_factors};
use super::error::{malformed, no_table};
use super::stream::{Size, Stream};
use super::upsample::Subsampled;
use crate::decode::error::DecodeError;

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
        let level = |value: f32| (value + (center + 0.5)).clamp(0.0, maximum) as i32 as u16;
        if block[1..] == [0; 63] {
            let flat = level(f32::from(block[0]) * scales[0][0]);
            for y in 0..8 {
                samples[corner + y * stride..][..8].fill(flat);
            }
            continue;
        }
        let mut values: [Lanes; 8] = std::array::from_fn(|row| {
            std::array::from_fn(|col| f32::from(block[8 * row + col]) * scales[row][col])
        });
        inverse_dct(&mut values);
        for (y, row) in values.iter().enumerate() {
            let target = &mut samples[corner + y * stride..][..8];
            for (sample, value) in target.iter_mut().zip(row) {
                *sample = level(*value);
            }
        }
    }
    samples
}

type Lanes = [f32; 8];

/// Arai, Agui and Nakajima's transform leaves these factors to the quantization.
fn scales(table: &[u16; 64]) -> [Lanes; 8] {
    use std::f64::consts::PI;
    let factor = |index: usize| match index {
        0 => 1.0,
        _ => (index as f64 * PI / 16.0).cos() * 2f64.sqrt(),
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

/// Eight transforms of eight values: one in each lane, so that the compiler takes several at a time.
#[expect(clippy::needless_range_loop, reason = "a lane goes across all rows")]
fn columns(rows: &mut [Lanes; 8]) {
    for lane in 0..8 {
        let (r0, r1, r2, r3) = (rows[0][lane], rows[1][lane], rows[2][lane], rows[3][lane]);
        let (r4, r5, r6, r7) = (rows[4][lane], rows[5][lane], rows[6][lane], rows[7][lane]);
        let (sum, difference) = (r0 + r4, r0 - r4);
        let inner = r2 + r6;
        let outer = (r2 - r6) * SQRT_2 - inner;
        let even = [
            sum + inner,
            difference + outer,
            difference - outer,
            sum - inner,
        ];
        let (z13, z10) = (r5 + r3, r5 - r3);
        let (z11, z12) = (r1 + r7, r1 - r7);
        let z5 = (z10 + z12) * 1.847_759;
        let o0 = z11 + z13;
        let o1 = z5 - z10 * 2.613_126 - o0;
        let o2 = (z11 - z13) * SQRT_2 - o1;
        let o3 = z5 - z12 * 1.082_392_2 - o2;
        let odd = [o0, o1, o2, o3];
        for index in 0..4 {
            rows[index][lane] = even[index] + odd[index];
            rows[7 - index][lane] = even[index] - odd[index];
        }
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
