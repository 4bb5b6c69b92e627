//! A stream while it is read: markers, segments and intervals, and what its headers have said so far.

use super::bits::Huffman;
use super::error::{malformed, no_table, truncated};
use crate::decode::error::DecodeError;

pub(super) const SOI: [u8; 2] = [0xff, 0xd8];

/// Rows, columns and samples a pixel that the stream has to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Size {
    pub rows: usize,
    pub cols: usize,
    pub samples: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    Sequential,
    Progressive,
    Lossless,
}

#[derive(Debug, Clone)]
pub(super) struct Component {
    pub id: u8,
    pub horizontal: usize,
    pub vertical: usize,
    pub quantization: usize,
}

#[derive(Debug)]
pub(super) struct Frame {
    pub process: Process,
    pub precision: u32,
    pub rows: usize,
    pub cols: usize,
    pub components: Vec<Component>,
}

/// A scan header.
pub(super) struct Scan {
    /// Indices of the frame's components, and the tables of each.
    pub components: Vec<usize>,
    pub dc: Vec<usize>,
    pub ac: Vec<usize>,
    /// Start of spectral selection; of lossless scans the predictor.
    pub first: u8,
    pub last: u8,
    /// Successive approximation; of lossless scans `low` is the point transform.
    pub high: u8,
    pub low: u8,
}

pub(super) struct Stream<'a> {
    pub bytes: &'a [u8],
    pub position: usize,
    pub frame: Option<Frame>,
    pub dc: [Option<Huffman>; 4],
    pub ac: [Option<Huffman>; 4],
    pub quantization: [Option<[u16; 64]>; 4],
    /// In MCUs; 0 for none.
    pub restart_interval: usize,
    pub is_jfif: bool,
    /// The transform of an Adobe segment.
    pub adobe: Option<u8>,
    pub overflows: bool,
}

pub(super) fn u16_at(bytes: &[u8], position: usize) -> Result<u16, DecodeError> {
    let pair = bytes.get(position..position + 2).ok_or_else(truncated)?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

impl<'a> Stream<'a> {
    pub(super) fn frame(&self) -> Result<&Frame, DecodeError> {
        self.frame
            .as_ref()
            .ok_or_else(|| malformed("it has no frame header"))
    }

    /// The next marker's second byte; what stands before a marker is passed over, as libjpeg does.
    pub(super) fn marker(&mut self) -> Option<u8> {
        loop {
            let rest = self.bytes.get(self.position..)?;
            let start = rest.iter().position(|&byte| byte == 0xff)?;
            let fill = rest[start..].iter().position(|&byte| byte != 0xff)?;
            self.position += start + fill + 1;
            let code = rest[start + fill];
            if code != 0 {
                return Some(code);
            }
        }
    }

    /// The parameters behind a marker.
    pub(super) fn segment(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = usize::from(u16_at(self.bytes, self.position)?);
        let end = self.position + length;
        let segment = self.bytes.get(self.position + 2..end);
        self.position = end;
        match segment {
            Some(segment) => Ok(segment),
            None if length < 2 => Err(malformed("a segment is shorter than its length field")),
            None => Err(truncated()),
        }
    }

    /// Entropy-coded data up to the next marker; before interval `index`, other than the first, stands its restart
    /// marker.
    pub(super) fn interval(&mut self, index: usize) -> Result<&'a [u8], DecodeError> {
        if index > 0 {
            let expected = 0xd0 + ((index - 1) % 8) as u8;
            match self.marker() {
                Some(code) if code == expected => {}
                Some(_) => {
                    return Err(malformed(
                        "another marker stands where a restart marker is due",
                    ));
                }
                None => return Err(truncated()),
            }
        }
        let bytes = self.bytes;
        let rest = bytes.get(self.position..).unwrap_or_default();
        let length = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && pair[1] != 0);
        let mut length = length.unwrap_or(rest.len());
        if length == rest.len() && rest.ends_with(&[0xff]) {
            length -= 1;
        }
        self.position += length;
        Ok(&rest[..length])
    }

    pub(super) fn dc_tables(&self, scan: &Scan) -> Result<Vec<&Huffman>, DecodeError> {
        let table = |&index: &usize| self.dc[index].as_ref();
        let tables = scan
            .dc
            .iter()
            .map(|index| table(index).ok_or_else(no_table));
        tables.collect()
    }
}
