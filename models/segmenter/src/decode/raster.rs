//! PNG, JPEG and TIFF: stored values as they are, 8 and 16 bits, grey or RGB.

use std::io::{Cursor, ErrorKind};

use ::tiff::TiffError;
use ::tiff::decoder::{Decoder as TiffDecoder, DecodingResult};
use ::tiff::tags::Tag;
use contract::Image;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError};

use super::error::DecodeError;
use super::format::Format;
use super::limits::{Limits, Shape};
use super::orientation::{orientation, upright};
use super::scan::{Identifiers, Scan};
use super::spacing::Spacing;
use crate::warning::Warning;

pub(super) fn png(bytes: &[u8], limits: &Limits) -> Result<Scan, DecodeError> {
    let decoder = PngDecoder::new(Cursor::new(bytes));
    let scan = with_image_crate(decoder, Format::Png, limits)?;
    Ok(stand_up(scan, bytes))
}

pub(super) fn jpeg(bytes: &[u8], limits: &Limits) -> Result<Scan, DecodeError> {
    // The decoder fills a missing rest with grey. Entropy-coded data never holds a bare 0xff 0xd9,
    // so a whole file has that marker after its last scan began.
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    if last(0xd9) <= last(0xda) {
        return Err(DecodeError::Truncated {
            format: Format::Jpeg,
        });
    }
    let decoder = JpegDecoder::new(Cursor::new(bytes));
    let scan = with_image_crate(decoder, Format::Jpeg, limits)?;
    Ok(stand_up(scan, bytes))
}

/// Turns all frames as the file wants it.
fn stand_up(mut scan: Scan, bytes: &[u8]) -> Scan {
    let orientation = orientation(bytes);
    if orientation != Orientation::NoTransforms {
        let frames = std::mem::take(&mut scan.frames);
        scan.frames = frames
            .into_iter()
            .map(|frame| upright(frame, orientation))
            .collect();
        scan.warnings.push(Warning::OrientationApplied);
    }
    scan
}

fn with_image_crate<D: ImageDecoder>(
    decoder: Result<D, ImageError>,
    format: Format,
    limits: &Limits,
) -> Result<Scan, DecodeError> {
    let mut decoder = decoder.map_err(|error| image_error(format, &error))?;
    let (cols, rows) = decoder.dimensions();
    let channels = u64::from(decoder.color_type().channel_count());
    let shape = Shape {
        rows: rows.into(),
        cols: cols.into(),
        channels,
        frames: 1,
    };
    shape.check(limits)?;
    let mut allocation = image::Limits::no_limits();
    allocation.max_alloc = Some(limits.max_bytes);
    decoder
        .set_limits(allocation)
        .map_err(|error| image_error(format, &error))?;
    let decoded =
        DynamicImage::from_decoder(decoder).map_err(|error| image_error(format, &error))?;
    Ok(scan(vec![dynamic_to_image(&decoded)], format))
}

fn image_error(format: Format, error: &ImageError) -> DecodeError {
    match error {
        ImageError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format }
        }
        ImageError::Unsupported(source) => DecodeError::Unsupported {
            what: source.to_string(),
        },
        other => DecodeError::Malformed {
            format,
            detail: other.to_string(),
        },
    }
}

fn dynamic_to_image(decoded: &DynamicImage) -> Image {
    let (rows, cols) = (decoded.height() as usize, decoded.width() as usize);
    let floats = |data: &[u8]| data.iter().map(|&value| f32::from(value)).collect();
    let floats_16 = |data: &[u16]| data.iter().map(|&value| f32::from(value)).collect();
    let grey = !decoded.color().has_color();
    let wide = decoded.color().bytes_per_pixel() > decoded.color().channel_count();
    let data: Vec<f32> = match (grey, wide) {
        (true, false) => floats(&decoded.to_luma8()),
        (true, true) => floats_16(&decoded.to_luma16()),
        (false, false) => floats(&decoded.to_rgb8()),
        (false, true) => floats_16(&decoded.to_rgb16()),
    };
    Image {
        rows,
        cols,
        channels: if grey { 1 } else { 3 },
        data,
    }
}

/// All pages; a page of another size than the first is an error, not a frame left out.
pub(super) fn tiff(bytes: &[u8], limits: &Limits) -> Result<Scan, DecodeError> {
    let mut allocation = ::tiff::decoder::Limits::default();
    let max_bytes = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
    allocation.decoding_buffer_size = max_bytes;
    allocation.intermediate_buffer_size = max_bytes;
    let mut decoder = TiffDecoder::new(Cursor::new(bytes))
        .map_err(|e| tiff_error(&e))?
        .with_limits(allocation);
    let mut frames: Vec<Image> = Vec::new();
    loop {
        let page = tiff_page(&mut decoder, frames.len() as u64 + 1, limits)?;
        let size = |image: &Image| (image.rows, image.cols, image.channels);
        if frames
            .first()
            .is_some_and(|first| size(first) != size(&page))
        {
            return Err(DecodeError::Unsupported {
                what: "a tiff with pages of two sizes".into(),
            });
        }
        frames.push(page);
        if !decoder.more_images() {
            return Ok(stand_up(scan(frames, Format::Tiff), bytes));
        }
        decoder.next_image().map_err(|e| tiff_error(&e))?;
    }
}

fn tiff_page(
    decoder: &mut TiffDecoder<Cursor<&[u8]>>,
    frames: u64,
    limits: &Limits,
) -> Result<Image, DecodeError> {
    use ::tiff::ColorType as C;
    let (cols, rows) = decoder.dimensions().map_err(|e| tiff_error(&e))?;
    let color = decoder.colortype().map_err(|e| tiff_error(&e))?;
    let stored: u64 = match color {
        C::Gray(_) | C::Palette(_) => 1,
        C::GrayA(_) => 2,
        C::RGB(_) => 3,
        C::RGBA(_) => 4,
        other => {
            return Err(DecodeError::Unsupported {
                what: format!("tiff colour {other:?}"),
            });
        }
    };
    let channels = if matches!(color, C::Gray(_) | C::GrayA(_)) {
        1
    } else {
        3
    };
    let shape = Shape {
        rows: rows.into(),
        cols: cols.into(),
        channels: stored.max(3),
        frames,
    };
    shape.check(limits)?;
    if color.bit_depth() < 8 {
        return Err(DecodeError::Unsupported {
            what: "a tiff of fewer than 8 bits".into(),
        });
    }
    let configuration = decoder
        .find_tag_unsigned::<u16>(Tag::PlanarConfiguration)
        .map_err(|e| tiff_error(&e))?;
    let samples = if configuration == Some(SEPARATE_PLANES) && stored > 1 {
        separate_planes(decoder, [rows as usize, cols as usize], stored as usize)?
    } else {
        tiff_samples(decoder.read_image().map_err(|e| tiff_error(&e))?)
    };
    let data = if matches!(color, C::Palette(_)) {
        let map = decoder
            .get_tag_u16_vec(Tag::ColorMap)
            .map_err(|e| tiff_error(&e))?;
        look_up(&samples, &map)?
    } else {
        samples
            .chunks_exact(stored as usize)
            .flat_map(|px| &px[..channels])
            .copied()
            .collect()
    };
    let (rows, cols) = (rows as usize, cols as usize);
    if data.len() != rows * cols * channels {
        return Err(DecodeError::Truncated {
            format: Format::Tiff,
        });
    }
    Ok(Image {
        rows,
        cols,
        channels,
        data,
    })
}

/// PlanarConfiguration: each channel has strips or tiles of its own.
const SEPARATE_PLANES: u16 = 2;

/// Reads an image whose channels are stored apart, pixel after pixel. Strip by strip or tile by tile: the crate gives only
/// the first plane of an image, or panics where a plane ends within a tile.
fn separate_planes(
    decoder: &mut TiffDecoder<Cursor<&[u8]>>,
    [rows, cols]: [usize; 2],
    planes: usize,
) -> Result<Vec<f32>, DecodeError> {
    let (chunk_cols, chunk_rows) = decoder.chunk_dimensions();
    let (chunk_cols, chunk_rows) = (chunk_cols as usize, chunk_rows as usize);
    if chunk_cols == 0 || chunk_rows == 0 {
        return Err(DecodeError::Malformed {
            format: Format::Tiff,
            detail: "its strips or tiles have no area".into(),
        });
    }
    let (across, down) = (cols.div_ceil(chunk_cols), rows.div_ceil(chunk_rows));
    let mut data = vec![0.0; rows * cols * planes];
    for index in 0..across * down * planes {
        let (plane, chunk) = (index / (across * down), index % (across * down));
        let (left, top) = (chunk % across * chunk_cols, chunk / across * chunk_rows);
        let (width, height) = (chunk_cols.min(cols - left), chunk_rows.min(rows - top));
        let read = decoder.read_chunk(index as u32);
        let samples = tiff_samples(read.map_err(|e| tiff_error(&e))?);
        // With or without the part of a tile that is outside the image.
        let stride = decoder.chunk_data_dimensions(index as u32).0 as usize;
        if stride < width || samples.len() < stride * height {
            return Err(DecodeError::Truncated {
                format: Format::Tiff,
            });
        }
        for (y, row) in samples.chunks_exact(stride).take(height).enumerate() {
            let start = ((top + y) * cols + left) * planes + plane;
            let targets = data[start..].iter_mut().step_by(planes);
            for (target, &value) in targets.zip(&row[..width]) {
                *target = value;
            }
        }
    }
    Ok(data)
}

#[expect(clippy::cast_lossless, reason = "one expression for nine sample types")]
fn tiff_samples(decoded: DecodingResult) -> Vec<f32> {
    macro_rules! floats {
        ($values:expr) => {
            $values.into_iter().map(|value| value as f32).collect()
        };
    }
    match decoded {
        DecodingResult::U8(values) => floats!(values),
        DecodingResult::U16(values) => floats!(values),
        DecodingResult::U32(values) => floats!(values),
        DecodingResult::U64(values) => floats!(values),
        DecodingResult::I8(values) => floats!(values),
        DecodingResult::I16(values) => floats!(values),
        DecodingResult::I32(values) => floats!(values),
        DecodingResult::I64(values) => floats!(values),
        DecodingResult::F32(values) => values,
        DecodingResult::F64(values) => floats!(values),
        DecodingResult::F16(values) => values.into_iter().map(f32::from).collect(),
    }
}

/// TIFF colour maps are 16-bit whatever the index has: brought to 0..=255.
fn look_up(indices: &[f32], map: &[u16]) -> Result<Vec<f32>, DecodeError> {
    let entries = map.len() / 3;
    let damaged = || DecodeError::Malformed {
        format: Format::Tiff,
        detail: "colour map too short".into(),
    };
    let mut data = Vec::with_capacity(indices.len() * 3);
    for &index in indices {
        let index = index as usize;
        if index >= entries {
            return Err(damaged());
        }
        data.extend((0..3).map(|c| f32::from(map[c * entries + index] >> 8)));
    }
    Ok(data)
}

fn tiff_error(error: &TiffError) -> DecodeError {
    let format = Format::Tiff;
    match error {
        TiffError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format }
        }
        TiffError::UnsupportedError(source) => DecodeError::Unsupported {
            what: source.to_string(),
        },
        other => DecodeError::Malformed {
            format,
            detail: other.to_string(),
        },
    }
}

fn scan(frames: Vec<Image>, format: Format) -> Scan {
    Scan {
        frames,
        spacing: Spacing::default(),
        modality: None,
        format,
        warnings: Vec::new(),
        identifiers: Identifiers::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TIFF of 2 rows and 3 columns whose channels, 8 or 16 bits, have a strip each.
    fn separate_planes(channels: &[[u16; 6]], bits: u16) -> Vec<u8> {
        let count = channels.len() as u32;
        let strips: Vec<Vec<u8>> = channels
            .iter()
            .map(|plane| match bits {
                8 => plane.iter().map(|&value| value as u8).collect(),
                _ => plane.iter().flat_map(|value| value.to_le_bytes()).collect(),
            })
            .collect();
        let data_at = 8;
        let size = strips[0].len() as u32;
        let lists_at = data_at + size * count;
        let starts: Vec<u8> = (0..count)
            .flat_map(|n| (data_at + n * size).to_le_bytes())
            .collect();
        let sizes: Vec<u8> = (0..count).flat_map(|_| size.to_le_bytes()).collect();
        let depths: Vec<u8> = (0..count).flat_map(|_| bits.to_le_bytes()).collect();
        let sizes_at = lists_at + 4 * count;
        let depths_at = sizes_at + 4 * count;
        let directory_at = depths_at + 2 * count;
        let mut file = [b"II*\0", &directory_at.to_le_bytes()[..], &strips.concat()].concat();
        file.extend([starts, sizes, depths].concat());
        let mut entries = vec![
            (256u16, 3u16, 1, 3),
            (257, 3, 1, 2),
            (258, 3, count, depths_at),
            (259, 3, 1, 1),
            (262, 3, 1, 2),
            (273, 4, count, lists_at),
            (277, 3, 1, count),
            (278, 3, 1, 2),
            (279, 4, count, sizes_at),
            (284, 3, 1, 2),
        ];
        if count == 4 {
            entries.push((338, 3, 1, 2));
        }
        file.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, n_values, value) in entries {
            file.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            file.extend([u32::to_le_bytes(n_values), u32::to_le_bytes(value)].concat());
        }
        file.extend([0; 4]);
        file
    }

    #[test]
    fn channels_in_planes_of_their_own_become_pixels() {
        let planes = [
            [1, 2, 3, 4, 5, 6],
            [11, 12, 13, 14, 15, 16],
            [21, 22, 23, 24, 25, 26],
        ];
        let alpha = [planes[0], planes[1], planes[2], [9; 6]];
        let expected: Vec<f32> = (0..6)
            .flat_map(|px| planes.map(|plane| f32::from(plane[px])))
            .collect();
        for bits in [8, 16] {
            for channels in [&planes[..], &alpha] {
                let scan = tiff(&separate_planes(channels, bits), &Limits::STANDARD).unwrap();
                assert_eq!(scan.frames[0].channels, 3);
                assert_eq!(
                    scan.frames[0].data,
                    expected,
                    "{bits} bits, {} planes",
                    channels.len()
                );
            }
        }
    }
}
