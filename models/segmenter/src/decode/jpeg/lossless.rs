//! Scans of lossless JPEG: process 14, Huffman-coded (T.81 annex H).

use super::bits::{Bits, Huffman};
use super::error::{malformed, unsupported};
use super::stream::{Component, Scan, Stream};
use crate::decode::error::DecodeError;

/// What undoes the differences of one component.
struct Undo {
    /// Selection value, 1 to 7.
    selection: u8,
    /// Of the first sample of an interval.
    start: i32,
}

impl Undo {
    /// Differences of a row to its samples. `above` is none in the first row of an interval.
    fn row(&self, differences: impl Iterator<Item = i32>, above: Option<&[u16]>, row: &mut [u16]) {
        let Some(above) = above else {
            return predict(differences, row, self.start, |left, _, _| left, None);
        };
        let first = i32::from(above[0]);
        let above = Some(above);
        match self.selection {
            1 => predict(differences, row, first, |a, _, _| a, above),
            2 => predict(differences, row, first, |_, b, _| b, above),
            3 => predict(differences, row, first, |_, _, c| c, above),
            4 => predict(differences, row, first, |a, b, c| a + b - c, above),
            5 => predict(differences, row, first, |a, b, c| a + ((b - c) >> 1), above),
            6 => predict(differences, row, first, |a, b, c| b + ((a - c) >> 1), above),
            _ => predict(differences, row, first, |a, b, _| (a + b) >> 1, above),
        }
    }
}

/// `predictor` is given the samples to the left, above, and above the left one. Sums are taken modulo 2^16 (H.1.2.1).
#[inline(always)]
fn predict(
    differences: impl Iterator<Item = i32>,
    row: &mut [u16],
    first: i32,
    predictor: impl Fn(i32, i32, i32) -> i32,
    above: Option<&[u16]>,
) {
    let mut left = 0;
    for (x, (sample, difference)) in row.iter_mut().zip(differences).enumerate() {
        let prediction = match above {
            _ if x == 0 => first,
            Some(above) => predictor(left, above[x].into(), above[x - 1].into()),
            None => predictor(left, 0, 0),
        };
        *sample = (prediction + difference) as u16;
        left = i32::from(*sample);
    }
}

/// Decodes a scan into `planes`, one for each component of the frame.
pub(super) fn scan(
    stream: &mut Stream,
    scan: &Scan,
    planes: &mut [Vec<u16>],
) -> Result<(), DecodeError> {
    let frame = stream.frame()?;
    let (rows, cols, precision) = (frame.rows, frame.cols, frame.precision);
    let factors = |component: &Component| (component.horizontal, component.vertical);
    let first = factors(&frame.components[0]);
    // Alone in its scan, a component is stored row by row whatever its factors are.
    let alone = scan.components.len() == 1;
    let mut all = frame.components.iter().map(factors);
    let plain = all.all(|of_one| of_one == if alone { first } else { (1, 1) });
    if !plain {
        return Err(unsupported("lossless jpeg with subsampled components"));
    }
    let (selection, shift) = (scan.first, u32::from(scan.low));
    if !(1..=7).contains(&selection) || shift >= precision {
        return Err(malformed(
            "a lossless scan has no such predictor or point transform",
        ));
    }
    let interval = interval_rows(stream.restart_interval, rows, cols)?;
    let undo = Undo {
        selection,
        start: 1 << (precision - shift - 1),
    };
    let n_components = scan.components.len();
    let mut differences = vec![0; cols * n_components];
    let mut all_bits = 0;
    for first_row in (0..rows).step_by(interval) {
        let data = stream.interval(first_row / interval)?;
        let mut bits = Bits::new(data);
        let tables = stream.dc_tables(scan)?;
        for y in first_row..rows.min(first_row + interval) {
            read_differences(&mut bits, &tables, &mut differences)?;
            for (place, &component) in scan.components.iter().enumerate() {
                let (before, rest) = planes[component].split_at_mut(y * cols);
                let above = (y > first_row).then(|| &before[before.len() - cols..]);
                let of_component = differences
                    .iter()
                    .skip(place)
                    .step_by(n_components)
                    .copied();
                undo.row(of_component, above, &mut rest[..cols]);
                all_bits = rest[..cols]
                    .iter()
                    .fold(all_bits, |bits, &sample| bits | sample);
            }
        }
        bits.finish()?;
    }
    let fits = u32::from(all_bits) >> (precision - shift) == 0;
    // Some encoders take differences modulo 2^precision. Where predictors only add that is the same number.
    if !fits && selection > 4 {
        return Err(malformed("a sample has more bits than its stream"));
    }
    stream.overflows |= !fits;
    for &component in &scan.components {
        for sample in &mut planes[component] {
            *sample = ((u32::from(*sample) << shift) & ((1 << precision) - 1)) as u16;
        }
    }
    Ok(())
}

/// Rows of a restart interval of so many MCUs, which are pixels here; all of them where there is none.
fn interval_rows(mcus: usize, rows: usize, cols: usize) -> Result<usize, DecodeError> {
    match mcus {
        0 => Ok(rows),
        _ if mcus.is_multiple_of(cols) => Ok(mcus / cols),
        _ => Err(unsupported(
            "lossless jpeg with restart intervals that end within a row",
        )),
    }
}

/// Differences of one row of all components of the scan.
fn read_differences(
    bits: &mut Bits,
    tables: &[&Huffman],
    differences: &mut [i32],
) -> Result<(), DecodeError> {
    for pixel in differences.chunks_exact_mut(tables.len()) {
        for (difference, table) in pixel.iter_mut().zip(tables) {
            let category = table.decode(bits)?;
            *difference = match category {
                0 => 0,
                1..=15 => bits.signed(category.into()),
                16 => 32_768,
                _ => return Err(malformed("a difference has more than 16 bits")),
            };
        }
    }
    if bits.is_overdrawn() {
        return Err(malformed("entropy-coded data ends before its last sample"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::decode::jpeg::encoder::{Options, PLAIN, encode};
    use crate::decode::jpeg::{Decoded, Size, decode};

    const COLS: usize = 13;
    const ROWS: usize = 9;

    /// Noise with both ends of the range, from a linear congruence.
    fn plane(precision: u32, seed: u32) -> Vec<u16> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> (32 - precision)) as u16
        };
        let mut plane: Vec<u16> = (0..ROWS * COLS).map(|_| next()).collect();
        plane[3] = 0;
        plane[4] = ((1u32 << precision) - 1) as u16;
        plane
    }

    fn size(samples: usize) -> Size {
        Size {
            rows: ROWS,
            cols: COLS,
            samples,
        }
    }

    fn read(stream: &[u8], samples: usize) -> Decoded {
        decode(stream, size(samples)).unwrap()
    }

    fn kind(stream: &[u8], samples: usize) -> &'static str {
        decode(stream, size(samples)).unwrap_err().kind()
    }

    #[test]
    fn every_predictor_precision_and_restart_interval_is_exact() {
        for selection in 1..=7 {
            for precision in 2..=16 {
                for interval in [0, 1, 2, 8] {
                    let options = Options {
                        precision,
                        selection,
                        interval,
                        ..PLAIN
                    };
                    let planes = [plane(precision, 7)];
                    let decoded = read(&encode(&planes, COLS, options), 1);
                    assert_eq!(decoded.planes, planes, "{selection} {precision} {interval}");
                    assert!(decoded.is_lossless && !decoded.overflows);
                    assert_eq!(decoded.precision, precision as usize);
                }
            }
        }
    }

    #[test]
    fn a_point_transform_drops_the_lowest_bits() {
        for point_transform in 1..12 {
            for selection in 1..=7 {
                let options = Options {
                    precision: 12,
                    selection,
                    point_transform,
                    interval: 4,
                    ..PLAIN
                };
                let decoded = read(&encode(&[plane(12, 3)], COLS, options), 1);
                let cut: Vec<u16> = plane(12, 3)
                    .iter()
                    .map(|v| v >> point_transform << point_transform)
                    .collect();
                assert_eq!(decoded.planes, [cut], "{point_transform} {selection}");
            }
        }
    }

    #[test]
    fn components_share_a_scan_or_have_their_own() {
        let planes = [plane(8, 1), plane(8, 2), plane(8, 3)];
        for interleaved in [true, false] {
            let options = Options {
                precision: 8,
                selection: 4,
                interval: 3,
                interleaved,
                ..PLAIN
            };
            let stream = encode(&planes, COLS, options);
            assert_eq!(read(&stream, 3).planes, planes);
            assert_eq!(kind(&stream, 1), "malformed");
        }
        let mut alone = encode(
            &planes,
            COLS,
            Options {
                interleaved: false,
                precision: 8,
                ..PLAIN
            },
        );
        let last = alone
            .windows(2)
            .rposition(|pair| pair == [0xff, 0xda])
            .unwrap();
        alone.truncate(last);
        assert_eq!(kind(&alone, 3), "malformed", "a component has no scan");
    }

    #[test]
    fn rows_may_stand_behind_the_scan() {
        let options = Options { dnl: true, ..PLAIN };
        let stream = encode(&[plane(16, 5)], COLS, options);
        assert_eq!(read(&stream, 1).planes, [plane(16, 5)]);
    }

    #[test]
    fn what_leaves_the_precision_is_exact_or_an_error() {
        for (selection, expected) in [(1, true), (2, true), (4, true), (5, false), (7, false)] {
            let options = Options {
                precision: 12,
                selection,
                modulo: 12,
                ..PLAIN
            };
            match decode(&encode(&[plane(12, 9)], COLS, options), size(1)) {
                Ok(decoded) => {
                    assert!(expected && decoded.overflows, "{selection}");
                    assert_eq!(decoded.planes, [plane(12, 9)]);
                }
                Err(error) => assert!(!expected && error.kind() == "malformed"),
            }
        }
    }

    #[test]
    fn a_damaged_stream_is_an_error_and_never_a_panic() {
        for interval in [0, 2] {
            let options = Options {
                interval,
                selection: 6,
                ..PLAIN
            };
            let stream = encode(&[plane(16, 11)], COLS, options);
            for end in 0..stream.len() - 2 {
                let error = decode(&stream[..end], size(1)).unwrap_err();
                assert!(
                    matches!(error.kind(), "truncated" | "malformed"),
                    "{end}: {error}"
                );
                let closed = [&stream[..end], &[0xff, 0xd9]].concat();
                assert!(decode(&closed, size(1)).is_err(), "{end}");
            }
            for position in 2..stream.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut damaged = stream.clone();
                    damaged[position] ^= flip;
                    // Noise may come out of noise; it has the size of the image.
                    if let Ok(decoded) = decode(&damaged, size(1)) {
                        assert_eq!(decoded.planes[0].len(), ROWS * COLS);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        let stream = encode(&[plane(16, 1)], COLS, PLAIN);
        let with = |from: &[u8], to: &[u8]| {
            let at = stream
                .windows(from.len())
                .position(|bytes| bytes == from)
                .unwrap();
            let mut other = stream.clone();
            other[at..at + from.len()].copy_from_slice(to);
            decode(&other, size(1)).unwrap_err().to_string()
        };
        assert!(with(&[0xff, 0xc3], &[0xff, 0xcb]).contains("arithmetic"));
        assert!(with(&[0xff, 0xc3], &[0xff, 0xc7]).contains("hierarchical"));
        assert!(with(&[1, 1, 0, 1, 0, 0], &[1, 1, 0, 8, 0, 0]).contains("predictor"));
        assert!(with(&[1, 1, 0, 1, 0, 0], &[1, 9, 0, 1, 0, 0]).contains("component"));
    }
}
