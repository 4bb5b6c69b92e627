//! Scans of JPEG by DCT, sequential and progressive, Huffman-coded (T.81 annexes F and G).

use super::bits::{Bits, Huffman};
use super::error::{malformed, no_table, unsupported};
use super::stream::{Component, Frame, Process, Scan, Stream};
use crate::decode::error::DecodeError;

#[rustfmt::skip]
pub(super) const ZIGZAG: [usize; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Real streams have ten or so; each one goes through all blocks, however few bytes it has.
const MAX_SCANS: usize = 200;

pub(super) type Block = [i16; 64];

/// The quantized coefficients of all components.
pub(super) struct Coefficients {
    pub(super) planes: Vec<Plane>,
    mcus_wide: usize,
    mcus_high: usize,
    n_scans: usize,
}

pub(super) struct Plane {
    pub(super) blocks: Vec<Block>,
    /// From one row of blocks to the next: whole MCUs.
    pub(super) stride: usize,
    /// Blocks that hold samples of the image: those of a scan with this component alone.
    wide: usize,
    high: usize,
    /// Blocks of an MCU.
    pub(super) horizontal: usize,
    pub(super) vertical: usize,
    /// The lowest bit that is known of each coefficient.
    pub(super) known: [Option<u8>; 64],
    /// The quantization table at its first scan.
    pub(super) table: Option<[u16; 64]>,
}

/// Sampling factors; those of a single component have no meaning.
fn factors(frame: &Frame, component: &Component) -> (usize, usize) {
    match frame.components.len() {
        1 => (1, 1),
        _ => (component.horizontal, component.vertical),
    }
}

pub(super) fn highest_factors(frame: &Frame) -> (usize, usize) {
    let all = frame
        .components
        .iter()
        .map(|component| factors(frame, component));
    all.fold((1, 1), |(h, v), (horizontal, vertical)| {
        (h.max(horizontal), v.max(vertical))
    })
}

pub(super) fn check_factors(frame: &Frame) -> Result<(), DecodeError> {
    let (h_max, v_max) = highest_factors(frame);
    let whole = |component: &Component| {
        let (horizontal, vertical) = factors(frame, component);
        h_max.is_multiple_of(horizontal) && v_max.is_multiple_of(vertical)
    };
    if frame.components.iter().all(whole) {
        return Ok(());
    }
    Err(unsupported(
        "jpeg whose components share no whole number of pixels",
    ))
}

impl Coefficients {
    pub(super) fn new(frame: &Frame) -> Self {
        let (h_max, v_max) = highest_factors(frame);
        let (mcus_wide, mcus_high) = (
            frame.cols.div_ceil(8 * h_max),
            frame.rows.div_ceil(8 * v_max),
        );
        let plane = |component: &Component| {
            let (horizontal, vertical) = factors(frame, component);
            let stride = mcus_wide * horizontal;
            Plane {
                blocks: vec![[0; 64]; stride * mcus_high * vertical],
                stride,
                wide: (frame.cols * horizontal).div_ceil(h_max).div_ceil(8),
                high: (frame.rows * vertical).div_ceil(v_max).div_ceil(8),
                horizontal,
                vertical,
                known: [None; 64],
                table: None,
            }
        };
        Self {
            planes: frame.components.iter().map(plane).collect(),
            mcus_wide,
            mcus_high,
            n_scans: 0,
        }
    }

    /// Blocks of MCU `index` of a scan: component of the scan, and place in its plane.
    fn mcu(&self, scan: &Scan, index: usize, blocks: &mut Vec<(usize, usize)>) {
        blocks.clear();
        if let [component] = scan.components[..] {
            let plane = &self.planes[component];
            blocks.push((0, index / plane.wide * plane.stride + index % plane.wide));
            return;
        }
        let (row, col) = (index / self.mcus_wide, index % self.mcus_wide);
        for (place, &component) in scan.components.iter().enumerate() {
            let plane = &self.planes[component];
            for y in 0..plane.vertical {
                for x in 0..plane.horizontal {
                    let at = (row * plane.vertical + y) * plane.stride + col * plane.horizontal + x;
                    blocks.push((place, at));
                }
            }
        }
    }

    /// Notes which bits the scan brings; it may neither repeat nor leave out any.
    fn note(&mut self, scan: &Scan, process: Process) -> Result<(), DecodeError> {
        self.n_scans += 1;
        if self.n_scans > MAX_SCANS {
            return Err(unsupported("jpeg of more than 200 scans"));
        }
        let (coefficients, high, low) = match process {
            Process::Progressive => (
                usize::from(scan.first)..=usize::from(scan.last),
                scan.high,
                scan.low,
            ),
            _ => (0..=63, 0, 0),
        };
        let progressive = process == Process::Progressive;
        let mixes = progressive && scan.first == 0 && scan.last != 0;
        let shares = progressive && scan.first > 0 && scan.components.len() > 1;
        let refines_by_one = high == 0 || high == low + 1;
        if coefficients.is_empty()
            || *coefficients.end() > 63
            || low > 13
            || mixes
            || shares
            || !refines_by_one
        {
            return Err(malformed("a scan has no such coefficients"));
        }
        for &component in &scan.components {
            for known in &mut self.planes[component].known[coefficients.clone()] {
                if *known != (high > 0).then_some(high) {
                    return Err(malformed("its scans do not follow each other"));
                }
                *known = Some(low);
            }
        }
        Ok(())
    }
}

/// What a scan has to remember from block to block, and its tables.
struct Decoder<'a> {
    scan: &'a Scan,
    process: Process,
    dc: Vec<Option<&'a Huffman>>,
    ac: Vec<Option<&'a Huffman>>,
    predictions: Vec<i32>,
    /// Blocks that still have no further coefficient.
    end_of_band: u32,
}

pub(super) fn scan(
    stream: &mut Stream,
    scan: &Scan,
    coefficients: &mut Coefficients,
) -> Result<(), DecodeError> {
    let process = stream.frame()?.process;
    coefficients.note(scan, process)?;
    for &component in &scan.components {
        let table = stream.quantization[stream.frame()?.components[component].quantization];
        let slot = &mut coefficients.planes[component].table;
        *slot = slot.or(table);
    }
    let n_mcus = match scan.components[..] {
        [component] => coefficients.planes[component].wide * coefficients.planes[component].high,
        _ => coefficients.mcus_wide * coefficients.mcus_high,
    };
    let interval = match stream.restart_interval {
        0 => n_mcus,
        mcus => mcus,
    };
    let mut blocks = Vec::new();
    for first in (0..n_mcus).step_by(interval) {
        let mut bits = Bits::new(stream.interval(first / interval)?);
        let mut decoder = Decoder {
            scan,
            process,
            dc: scan
                .dc
                .iter()
                .map(|&index| stream.dc[index].as_ref())
                .collect(),
            ac: scan
                .ac
                .iter()
                .map(|&index| stream.ac[index].as_ref())
                .collect(),
            predictions: vec![0; scan.components.len()],
            end_of_band: 0,
        };
        for mcu in first..n_mcus.min(first + interval) {
            coefficients.mcu(scan, mcu, &mut blocks);
            for &(place, at) in &blocks {
                let plane = &mut coefficients.planes[scan.components[place]];
                decoder.block(&mut bits, place, &mut plane.blocks[at])?;
            }
            if bits.is_overdrawn() {
                return Err(malformed("entropy-coded data ends before its last sample"));
            }
        }
        bits.finish()?;
    }
    Ok(())
}

impl Decoder<'_> {
    fn block(
        &mut self,
        bits: &mut Bits,
        place: usize,
        block: &mut Block,
    ) -> Result<(), DecodeError> {
        match (self.process, self.scan.first, self.scan.high) {
            (Process::Progressive, 0, 0) => self.dc(bits, place, block),
            (Process::Progressive, 0, _) => {
                block[0] |= (bits.take(1) << self.scan.low) as i16;
                Ok(())
            }
            (Process::Progressive, _, 0) => self.first_of_band(bits, place, block),
            (Process::Progressive, ..) => self.refine_band(bits, place, block),
            _ => {
                self.dc(bits, place, block)?;
                sequential(bits, self.ac[place].ok_or_else(no_table)?, block)
            }
        }
    }

    fn dc(&mut self, bits: &mut Bits, place: usize, block: &mut Block) -> Result<(), DecodeError> {
        let difference = match self.dc[place].ok_or_else(no_table)?.decode(bits)? {
            0 => 0,
            category @ 1..=15 => bits.signed(category.into()),
            _ => return Err(malformed("a difference has more than 15 bits")),
        };
        let low = if self.process == Process::Progressive {
            self.scan.low
        } else {
            0
        };
        // Wraps, as it may in a hostile stream only.
        self.predictions[place] = i32::from((self.predictions[place] + difference) as i16);
        block[0] = (self.predictions[place] << low) as i16;
        Ok(())
    }

    fn first_of_band(
        &mut self,
        bits: &mut Bits,
        place: usize,
        block: &mut Block,
    ) -> Result<(), DecodeError> {
        if self.end_of_band > 0 {
            self.end_of_band -= 1;
            return Ok(());
        }
        let table = self.ac[place].ok_or_else(no_table)?;
        let mut index = usize::from(self.scan.first);
        while index <= usize::from(self.scan.last) {
            let code = table.decode(bits)?;
            let (run, category) = (usize::from(code >> 4), u32::from(code & 15));
            match (run, category) {
                (15, 0) => index += 16,
                (_, 0) => {
                    self.end_of_band = run_of_bands(bits, run) - 1;
                    break;
                }
                _ => {
                    index += run;
                    if index > usize::from(self.scan.last) {
                        return Err(malformed("a block has too many coefficients"));
                    }
                    block[ZIGZAG[index]] = (bits.signed(category) << self.scan.low) as i16;
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// One more bit of the coefficients of a band (G.1.2.3).
    fn refine_band(
        &mut self,
        bits: &mut Bits,
        place: usize,
        block: &mut Block,
    ) -> Result<(), DecodeError> {
        let bit = 1i16 << self.scan.low;
        let last = usize::from(self.scan.last);
        let mut index = usize::from(self.scan.first);
        if self.end_of_band == 0 {
            let table = self.ac[place].ok_or_else(no_table)?;
            while index <= last {
                let code = table.decode(bits)?;
                let (mut run, category) = (usize::from(code >> 4), code & 15);
                let mut fresh = 0;
                match (run, category) {
                    (15, 0) => {}
                    (_, 0) => {
                        self.end_of_band = run_of_bands(bits, run);
                        break;
                    }
                    (_, 1) => fresh = if bits.take(1) == 1 { bit } else { -bit },
                    _ => return Err(malformed("a coefficient is refined by more than a bit")),
                }
                while index <= last {
                    let value = &mut block[ZIGZAG[index]];
                    index += 1;
                    if *value != 0 {
                        refine(bits, value, bit);
                    } else if run == 0 {
                        *value = fresh;
                        break;
                    } else {
                        run -= 1;
                    }
                }
            }
        }
        if self.end_of_band > 0 {
            self.end_of_band -= 1;
            for &at in &ZIGZAG[index.min(last + 1)..=last] {
                if block[at] != 0 {
                    refine(bits, &mut block[at], bit);
                }
            }
        }
        Ok(())
    }
}

fn refine(bits: &mut Bits, value: &mut i16, bit: i16) {
    if bits.take(1) == 1 && *value & bit == 0 {
        *value = value.saturating_add(if *value > 0 { bit } else { -bit });
    }
}

fn run_of_bands(bits: &mut Bits, exponent: usize) -> u32 {
    match exponent {
        0 => 1,
        _ => (1 << exponent) + bits.take(exponent as u32) as u32,
    }
}

fn sequential(bits: &mut Bits, table: &Huffman, block: &mut Block) -> Result<(), DecodeError> {
    let mut index = 1;
    while index < 64 {
        let code = table.decode(bits)?;
        let (run, category) = (usize::from(code >> 4), u32::from(code & 15));
        if category == 0 {
            if run < 15 {
                break;
            }
            index += 16;
            continue;
        }
        index += run;
        if index > 63 {
            return Err(malformed("a block has too many coefficients"));
        }
        block[ZIGZAG[index]] = bits.signed(category) as i16;
        index += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::ExtendedColorType;
    use image::codecs::jpeg::JpegEncoder;

    use crate::decode::jpeg::{Colour, Size, decode};

    const SIZE: Size = Size {
        rows: 37,
        cols: 50,
        samples: 1,
    };

    fn picture() -> Vec<u8> {
        let value = |x: usize, y: usize| {
            (128.0 + 100.0 * (x as f32 / 9.0).sin() * (y as f32 / 7.0).cos()) as u8
        };
        (0..SIZE.rows)
            .flat_map(|y| (0..SIZE.cols).map(move |x| value(x, y)))
            .collect()
    }

    fn stream(picture: &[u8], kind: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 100)
            .encode(picture, SIZE.cols as u32, SIZE.rows as u32, kind)
            .unwrap();
        bytes
    }

    #[test]
    fn a_picture_comes_back_to_a_grey_level_or_two() {
        let decoded = decode(&stream(&picture(), ExtendedColorType::L8), SIZE).unwrap();
        assert!(!decoded.is_lossless && decoded.precision == 8);
        for (value, expected) in decoded.planes[0].iter().zip(picture()) {
            assert!(value.abs_diff(expected.into()) <= 2, "{value} {expected}");
        }
        let three: Vec<u8> = picture().into_iter().flat_map(|value| [value; 3]).collect();
        let size = Size { samples: 3, ..SIZE };
        let decoded = decode(&stream(&three, ExtendedColorType::Rgb8), size).unwrap();
        assert_eq!(decoded.colour, Colour::Ybr);
        for (value, expected) in decoded.planes[0].iter().zip(picture()) {
            assert!(value.abs_diff(expected.into()) <= 2, "{value} {expected}");
        }
        assert!(
            decoded.planes[1]
                .iter()
                .all(|value| value.abs_diff(128) <= 1)
        );
    }

    #[test]
    fn what_is_missing_is_an_error_and_never_grey() {
        let stream = stream(&picture(), ExtendedColorType::L8);
        for end in 2..stream.len() - 3 {
            for closed in [&[][..], &[0xff, 0xd9]] {
                let cut = [&stream[..end], closed].concat();
                assert!(decode(&cut, SIZE).is_err(), "{end}");
            }
        }
        for position in 2..stream.len() {
            let mut damaged = stream.clone();
            damaged[position] ^= 0x55;
            // An error or not, but no panic.
            let _ = decode(&damaged, SIZE);
        }
    }
}
