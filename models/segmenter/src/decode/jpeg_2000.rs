//! JPEG 2000 (ITU-T T.800), by openjp2. It fills what a stream lacks with grey and reads components of different sizes
//! as if they were equal, so headers are looked at first.

use jpeg2k::{DecodeParameters, Image};

use super::error::DecodeError;
use super::format::Format;
use super::jpeg::Size;

/// The samples of one stream, with its colour transform undone.
pub(super) struct Decoded {
    /// One for each component; of signed ones the two's complement.
    pub planes: Vec<Vec<u16>>,
    pub precision: usize,
    pub undid_transform: bool,
}

const SOC_SIZ: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];
const JP2: &[u8] = b"\0\0\0\x0cjP  \r\n\x87\n";

pub(super) fn is_jpeg_2000(bytes: &[u8]) -> bool {
    bytes.starts_with(&SOC_SIZ) || bytes.starts_with(JP2)
}

pub(super) fn decode(bytes: &[u8], size: Size) -> Result<Decoded, DecodeError> {
    let stream = if bytes.starts_with(JP2) {
        code_stream(bytes)?
    } else {
        bytes
    };
    let header = Header::read(stream)?;
    if (header.rows, header.cols, header.components) != (size.rows, size.cols, size.samples) {
        return Err(malformed(
            "it differs from rows, columns or samples of the image",
        ));
    }
    check_tiles(stream, &header)?;
    let parameters = DecodeParameters::new().strict(true);
    let image = Image::from_bytes_with(stream, parameters)
        .map_err(|_| malformed("it cannot be decoded, or not to its end"))?;
    let mut planes = Vec::new();
    for component in image.components() {
        let found = (component.height() as usize, component.width() as usize);
        if found != (size.rows, size.cols) {
            return Err(malformed("a component has another size than its image"));
        }
        planes.push(
            component
                .data()
                .iter()
                .map(|&sample| sample as u16)
                .collect(),
        );
    }
    if planes.len() != size.samples {
        return Err(malformed("it has other components than its header says"));
    }
    Ok(Decoded {
        planes,
        precision: header.precision,
        undid_transform: header.transform,
    })
}

fn malformed(detail: &str) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: format!("its jpeg 2000 stream is wrong: {detail}"),
    }
}

fn unsupported(what: &str) -> DecodeError {
    DecodeError::Unsupported { what: what.into() }
}

fn truncated() -> DecodeError {
    DecodeError::Truncated {
        format: Format::Dicom,
    }
}

fn u16_at(bytes: &[u8], position: usize) -> Result<usize, DecodeError> {
    let pair = bytes.get(position..).and_then(|rest| rest.first_chunk());
    Ok(usize::from(u16::from_be_bytes(
        *pair.ok_or_else(truncated)?,
    )))
}

fn u32_at(bytes: &[u8], position: usize) -> Result<usize, DecodeError> {
    let four = bytes.get(position..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_be_bytes(*four.ok_or_else(truncated)?) as usize)
}

/// The code stream of a JP2 file, which DICOM does not provide for and some writers store.
fn code_stream(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let mut position = 0;
    while position < bytes.len() {
        let kind = bytes
            .get(position + 4..position + 8)
            .ok_or_else(truncated)?;
        let (header, length) = match u32_at(bytes, position)? {
            0 => (8, bytes.len() - position),
            1 => (16, u32_at(bytes, position + 12)?),
            length => (8, length),
        };
        let end = position.checked_add(length).filter(|_| length >= header);
        let end = end.ok_or_else(|| malformed("a box is shorter than its header"))?;
        // The last box may be cut; the code stream's own end is looked for in it.
        let content = bytes
            .get(position + header..end.min(bytes.len()))
            .ok_or_else(truncated)?;
        match kind {
            b"jp2h" if content.windows(4).any(|four| four == b"pclr") => {
                return Err(unsupported("jpeg 2000 with a palette of its own"));
            }
            b"jp2c" if content.starts_with(&SOC_SIZ) => return Ok(content),
            b"jp2c" => return Err(malformed("its code stream has no beginning")),
            _ => position = end,
        }
    }
    Err(truncated())
}

struct Header {
    rows: usize,
    cols: usize,
    components: usize,
    precision: usize,
    transform: bool,
    n_tiles: usize,
    /// Where the first tile-part begins.
    end: usize,
}

impl Header {
    fn read(stream: &[u8]) -> Result<Self, DecodeError> {
        // Behind SOC, SIZ and its length: Rsiz; width, height and offsets of the reference grid; those of the tiles.
        let word = |index: usize| u32_at(stream, 8 + 4 * index);
        let (right, bottom, left, top) = (word(0)?, word(1)?, word(2)?, word(3)?);
        let (tile_cols, tile_rows, tile_left, tile_top) = (word(4)?, word(5)?, word(6)?, word(7)?);
        let components = u16_at(stream, 40)?;
        let extent = |end: usize, start: usize| {
            end.checked_sub(start)
                .ok_or_else(|| malformed("its image has no area"))
        };
        let (rows, cols) = (extent(bottom, top)?, extent(right, left)?);
        if tile_cols == 0 || tile_rows == 0 {
            return Err(malformed("its tiles have no area"));
        }
        let across = extent(right, tile_left)?.div_ceil(tile_cols);
        let down = extent(bottom, tile_top)?.div_ceil(tile_rows);
        let parameters = stream.get(42..42 + 3 * components).ok_or_else(truncated)?;
        let [first, rest @ ..] = parameters.as_chunks::<3>().0 else {
            return Err(malformed("it has no components"));
        };
        if rest.iter().any(|other| other[0] != first[0]) {
            return Err(unsupported(
                "jpeg 2000 whose components differ in precision or sign",
            ));
        }
        if parameters
            .as_chunks::<3>()
            .0
            .iter()
            .any(|other| other[1..] != [1, 1])
        {
            return Err(unsupported("jpeg 2000 with subsampled components"));
        }
        let precision = usize::from(first[0] & 0x7f) + 1;
        if precision > 16 {
            return Err(unsupported("jpeg 2000 of more than 16 bits"));
        }
        let mut header = Self {
            rows,
            cols,
            components,
            precision,
            transform: false,
            n_tiles: across.saturating_mul(down),
            end: 2,
        };
        header.find_transform(stream)?;
        Ok(header)
    }

    /// Goes through the main header for COD, which says whether there is a transform of components.
    fn find_transform(&mut self, stream: &[u8]) -> Result<(), DecodeError> {
        loop {
            match u16_at(stream, self.end)? {
                0xff90 => return Ok(()),
                // Scod, progression order, number of layers, transform.
                COD => self.transform = *stream.get(self.end + 8).ok_or_else(truncated)? != 0,
                COC
                | 0xff50
                | 0xff51
                | 0xff55
                | 0xff57..=0xff59
                | 0xff5c..=0xff60
                | 0xff63
                | 0xff64 => {}
                // The decoder does not go by the length of a segment that it does not know.
                0xff50..=0xff6f => {
                    return Err(unsupported("jpeg 2000 with markers of later parts"));
                }
                _ => return Err(malformed("its main header does not lead to a tile")),
            }
            self.end = check_segment(stream, self.end, self.components)?;
        }
    }
}

const COD: usize = 0xff52;
const COC: usize = 0xff53;

/// The end of a marker's segment. Tiny precincts are refused: the decoder holds a tree for each, so that a stream of
/// some hundred bytes could ask for gigabytes.
fn check_segment(stream: &[u8], start: usize, components: usize) -> Result<usize, DecodeError> {
    let end = start + 2 + u16_at(stream, start + 2)?;
    let segment = stream.get(start..end).ok_or_else(truncated)?;
    // Where Scod or Scoc stands, and the sizes: behind levels, block width and height, style and transform.
    let (style, sizes) = match u16_at(segment, 0)? {
        COD => (4, 14),
        COC => {
            let style = 5 + usize::from(components > 256);
            (style, style + 6)
        }
        _ => return Ok(end),
    };
    let has_sizes = segment.get(style).is_some_and(|style| style & 1 != 0);
    // Of each resolution the exponents of width and height.
    let mut sizes = segment.get(sizes..).unwrap_or_default().iter();
    if has_sizes && sizes.any(|size| size & 0xf < 4 || size >> 4 < 4) {
        return Err(unsupported(
            "jpeg 2000 with precincts of less than 16 x 16 samples",
        ));
    }
    Ok(end)
}

/// The same for what the header of a tile-part changes; SOD ends it.
fn check_tile_header(part: &[u8], components: usize) -> Result<(), DecodeError> {
    // Behind SOT.
    let mut position = 12;
    while u16_at(part, position)? != 0xff93 {
        position = check_segment(part, position, components)?;
    }
    Ok(())
}

/// All tiles have to be there, each with all of its parts, each part whole.
fn check_tiles(stream: &[u8], header: &Header) -> Result<(), DecodeError> {
    if header.n_tiles > 65_535 {
        return Err(malformed("it has more tiles than it can number"));
    }
    // Parts found of each tile, and parts announced.
    let mut parts = vec![(0, 0); header.n_tiles];
    let mut position = header.end;
    while let Ok(0xff90) = u16_at(stream, position) {
        let tile = u16_at(stream, position + 4)?;
        let length = match u32_at(stream, position + 6)? {
            0 => stream.len() - position,
            length => length,
        };
        let announced = *stream.get(position + 11).ok_or_else(truncated)?;
        let slot = parts.get_mut(tile);
        let (found, total) = slot.ok_or_else(|| malformed("a tile is outside the image"))?;
        *found += 1;
        *total = announced.max(*total);
        if length < 14 {
            return Err(malformed("a tile-part is shorter than its header"));
        }
        let end = position.saturating_add(length);
        let part = stream.get(position..end).ok_or_else(truncated)?;
        check_tile_header(part, header.components)?;
        position = end;
    }
    let complete = parts
        .iter()
        .all(|&(found, total)| found >= usize::from(total).max(1));
    if complete { Ok(()) } else { Err(truncated()) }
}
