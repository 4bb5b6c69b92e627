//! Segments of a stream that describe its frame, its scans and its tables (T.81 annex B).

use super::bits::Huffman;
use super::dct;
use super::error::{malformed, truncated, unsupported};
use super::stream::{Component, Frame, Process, Scan, Size, Stream, u16_at};
use crate::decode::error::DecodeError;

const DNL: [u8; 2] = [0xff, 0xdc];

/// From three bytes each.
fn components(parameters: &[u8]) -> Result<Vec<Component>, DecodeError> {
    let components = parameters.as_chunks::<3>().0.iter();
    let components: Vec<Component> = components
        .map(|&[id, factors, quantization]| Component {
            id,
            horizontal: usize::from(factors >> 4),
            vertical: usize::from(factors & 15),
            quantization: usize::from(quantization),
        })
        .collect();
    let valid = |component: &Component| {
        (1..=4).contains(&component.horizontal)
            && (1..=4).contains(&component.vertical)
            && component.quantization < 4
    };
    if !components.iter().all(valid) {
        return Err(malformed(
            "a component has no such sampling factor or table",
        ));
    }
    Ok(components)
}

impl Stream<'_> {
    pub(super) fn frame_header(
        &mut self,
        marker: u8,
        segment: &[u8],
        size: Size,
    ) -> Result<(), DecodeError> {
        let process = match marker {
            0xc0 | 0xc1 => Process::Sequential,
            0xc2 => Process::Progressive,
            0xc3 => Process::Lossless,
            0xc8..=0xcb => return Err(unsupported("jpeg with arithmetic coding")),
            _ => return Err(unsupported("hierarchical jpeg")),
        };
        if self.frame.is_some() {
            return Err(malformed("it has two frame headers"));
        }
        let header = segment.get(..6).ok_or_else(truncated)?;
        let precision = u32::from(header[0]);
        let mut rows = usize::from(u16_at(header, 1)?);
        let cols = usize::from(u16_at(header, 3)?);
        if rows == 0 {
            rows = self.number_of_lines()?;
        }
        let n_components = usize::from(header[5]);
        if (rows, cols, n_components) != (size.rows, size.cols, size.samples) {
            return Err(malformed(
                "it differs from rows, columns or samples of the image",
            ));
        }
        let known = match process {
            Process::Lossless => (2..=16).contains(&precision),
            Process::Sequential | Process::Progressive => matches!(precision, 8 | 12),
        };
        if !known {
            return Err(malformed(
                "it has a precision that its process does not have",
            ));
        }
        let parameters = segment.get(6..6 + 3 * n_components).ok_or_else(truncated)?;
        let components = components(parameters)?;
        let frame = Frame {
            process,
            precision,
            rows,
            cols,
            components,
        };
        if process != Process::Lossless {
            dct::check_factors(&frame)?;
        }
        self.frame = Some(frame);
        Ok(())
    }

    /// Where the frame header leaves the rows open, they stand behind the first scan, and no data looks like that.
    fn number_of_lines(&self) -> Result<usize, DecodeError> {
        let rest = &self.bytes[self.position..];
        let found = rest
            .windows(4)
            .position(|four| four[..2] == DNL && four[2..] == [0, 4]);
        let at = found.ok_or_else(|| malformed("it does not say how many rows it has"))?;
        Ok(usize::from(u16_at(rest, at + 4)?))
    }

    pub(super) fn huffman_tables(&mut self, mut segment: &[u8]) -> Result<(), DecodeError> {
        while let [target, rest @ ..] = segment {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(truncated)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (values, rest) = rest.split_at_checked(total).ok_or_else(truncated)?;
            let table = Huffman::new(counts, values)?;
            match (target >> 4, usize::from(target & 15)) {
                (0, index @ 0..4) => self.dc[index] = Some(table),
                (1, index @ 0..4) => self.ac[index] = Some(table),
                _ => return Err(malformed("it has no such huffman table")),
            }
            segment = rest;
        }
        Ok(())
    }

    pub(super) fn quantization_tables(&mut self, mut segment: &[u8]) -> Result<(), DecodeError> {
        while let [target, rest @ ..] = segment {
            let (wide, index) = (target >> 4, usize::from(target & 15));
            let size = if wide == 0 { 64 } else { 128 };
            let (values, rest) = rest.split_at_checked(size).ok_or_else(truncated)?;
            let mut table = [0; 64];
            for (position, value) in table.iter_mut().enumerate() {
                *value = match wide {
                    0 => values[position].into(),
                    _ => u16_at(values, 2 * position)?,
                };
            }
            let slot = self.quantization.get_mut(index);
            *slot.ok_or_else(|| malformed("it has no such quantization table"))? = Some(table);
            segment = rest;
        }
        Ok(())
    }

    pub(super) fn scan_header(&self, segment: &[u8]) -> Result<Scan, DecodeError> {
        let frame = self.frame()?;
        let count = usize::from(*segment.first().ok_or_else(truncated)?);
        let pairs = segment.get(1..1 + 2 * count).ok_or_else(truncated)?;
        let Some(&[first, last, approximation]) = segment[1 + 2 * count..].first_chunk::<3>()
        else {
            return Err(truncated());
        };
        let mut scan = Scan {
            components: Vec::new(),
            dc: Vec::new(),
            ac: Vec::new(),
            first,
            last,
            high: approximation >> 4,
            low: approximation & 15,
        };
        for &[id, tables] in pairs.as_chunks::<2>().0 {
            let index = frame
                .components
                .iter()
                .position(|component| component.id == id);
            let index =
                index.ok_or_else(|| malformed("a scan has a component that the frame has not"))?;
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            if scan.components.contains(&index) || dc > 3 || ac > 3 {
                return Err(malformed("a scan header names what is not there"));
            }
            scan.components.push(index);
            scan.dc.push(dc);
            scan.ac.push(ac);
        }
        if scan.components.is_empty() {
            return Err(malformed("a scan has no component"));
        }
        Ok(scan)
    }
}
