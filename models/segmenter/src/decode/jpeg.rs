//! JPEG (ITU-T T.81) as DICOM has it: Huffman-coded, lossless or by DCT, 2 to 16 bits, 1 or 3 components.
//!
//! Written anew because a damaged stream has to be an error: the decoders at hand fill what is missing with grey, and
//! read restart intervals and point transforms of lossless streams as noise. What this one does not know it refuses by
//! name. Numbers of the stream are held against the image's size before memory is taken for them.

mod bits;
mod dct;
#[cfg(test)]
mod encoder;
mod error;
mod headers;
mod lossless;
mod samples;
mod stream;
mod upsample;

use self::error::{malformed, truncated, unsupported};
pub(super) use self::stream::Size;
use self::stream::{Component, Process, SOI, Scan, Stream, u16_at};
use super::error::DecodeError;

/// What a stream says of its colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Rgb,
    Ybr,
    Unsaid,
}

/// The samples of one stream, as they were coded: no colour transform is undone.
#[derive(Debug)]
pub(super) struct Decoded {
    /// One for each component.
    pub planes: Vec<Vec<u16>>,
    pub precision: usize,
    pub is_lossless: bool,
    pub colour: Colour,
    /// Of a lossless stream: differences left its precision, and what is above that was cut off.
    pub overflows: bool,
}

pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&SOI)
}

pub(super) fn decode(bytes: &[u8], size: Size) -> Result<Decoded, DecodeError> {
    let mut stream = Stream {
        bytes,
        position: SOI.len(),
        frame: None,
        dc: [const { None }; 4],
        ac: [const { None }; 4],
        quantization: [None; 4],
        restart_interval: 0,
        is_jfif: false,
        adobe: None,
        overflows: false,
    };
    let mut lossless = vec![Vec::new(); size.samples];
    let mut coefficients = None;
    loop {
        let Some(marker) = stream.marker() else {
            // Without EOI. Of a progressive stream, scans may be missing.
            match stream.frame()?.process {
                Process::Progressive => return Err(truncated()),
                Process::Sequential | Process::Lossless => break,
            }
        };
        match marker {
            0xd9 => break,
            // A restart marker behind the last interval.
            0x01 | 0xd0..=0xd7 => continue,
            _ => {}
        }
        let segment = stream.segment()?;
        match marker {
            0xc4 => stream.huffman_tables(segment)?,
            0xdb => stream.quantization_tables(segment)?,
            0xdd => stream.restart_interval = usize::from(u16_at(segment, 0)?),
            0xc0..=0xcb | 0xcd..=0xcf | 0xde => stream.frame_header(marker, segment, size)?,
            0xda => {
                let scan = stream.scan_header(segment)?;
                match (stream.frame()?.process, &mut coefficients) {
                    (Process::Lossless, _) => stream.lossless_scan(&scan, &mut lossless)?,
                    (_, Some(coefficients)) => dct::scan(&mut stream, &scan, coefficients)?,
                    (_, none) => {
                        let mut started = dct::Coefficients::new(stream.frame()?);
                        dct::scan(&mut stream, &scan, &mut started)?;
                        *none = Some(started);
                    }
                }
            }
            0xcc => return Err(unsupported("jpeg with arithmetic coding")),
            0xf7 => return Err(unsupported("jpeg-ls under another transfer syntax")),
            0xe0 => stream.is_jfif |= segment.starts_with(b"JFIF\0"),
            0xee if segment.starts_with(b"Adobe") => stream.adobe = segment.get(11).copied(),
            _ => {}
        }
    }
    stream.finish(lossless, coefficients)
}

impl Stream<'_> {
    fn lossless_scan(&mut self, scan: &Scan, planes: &mut [Vec<u16>]) -> Result<(), DecodeError> {
        let frame = self.frame()?;
        let size = frame.rows * frame.cols;
        for &component in &scan.components {
            if !planes[component].is_empty() {
                return Err(malformed("a component has two scans"));
            }
            planes[component] = vec![0; size];
        }
        lossless::scan(self, scan, planes)
    }

    fn finish(
        self,
        lossless: Vec<Vec<u16>>,
        coefficients: Option<dct::Coefficients>,
    ) -> Result<Decoded, DecodeError> {
        let colour = self.colour()?;
        let frame = self.frame()?;
        let is_lossless = frame.process == Process::Lossless;
        let planes = match coefficients {
            Some(coefficients) => samples::planes(&self, coefficients)?,
            None => lossless,
        };
        if planes.iter().any(Vec::is_empty) {
            return Err(malformed("a component has no scan"));
        }
        Ok(Decoded {
            planes,
            precision: frame.precision as usize,
            is_lossless,
            colour,
            overflows: self.overflows,
        })
    }

    /// Adobe's segment, the components' names, JFIF, and subsampling, which only chroma knows, in that order.
    fn colour(&self) -> Result<Colour, DecodeError> {
        let frame = self.frame()?;
        let ids: Vec<u8> = frame
            .components
            .iter()
            .map(|component| component.id)
            .collect();
        let factors = |component: &Component| (component.horizontal, component.vertical);
        let first = factors(&frame.components[0]);
        let is_subsampled = frame
            .components
            .iter()
            .any(|component| factors(component) != first);
        Ok(match self.adobe {
            Some(0) => Colour::Rgb,
            Some(1) => Colour::Ybr,
            Some(_) => {
                return Err(unsupported(
                    "jpeg with a colour transform of four components",
                ));
            }
            None if ids == *b"RGB" => Colour::Rgb,
            None if self.is_jfif || is_subsampled => Colour::Ybr,
            None => Colour::Unsaid,
        })
    }
}
