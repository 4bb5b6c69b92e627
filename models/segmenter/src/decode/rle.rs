//! RLE Lossless (PS3.5 annex G): byte planes, most significant first, each PackBits-coded.

use super::error::DecodeError;
use super::format::Format;

const HEADER_BYTES: usize = 64;

/// Decodes one frame to little-endian samples, channels interleaved. `bytes_per_sample` planes a
/// channel, `plane` bytes each.
pub(super) fn frame(
    bytes: &[u8],
    plane: usize,
    channels: usize,
    bytes_per_sample: usize,
) -> Result<Vec<u8>, DecodeError> {
    let offsets = offsets(bytes, channels * bytes_per_sample)?;
    // A run of two bytes gives at most 128: a header cannot make us allocate what is not there.
    if bytes.len().saturating_mul(64) < plane * channels * bytes_per_sample {
        return Err(DecodeError::Truncated {
            format: Format::Dicom,
        });
    }
    let mut data = vec![0; plane * channels * bytes_per_sample];
    for channel in 0..channels {
        for byte in 0..bytes_per_sample {
            let segment = channel * bytes_per_sample + byte;
            let coded = bytes
                .get(offsets[segment]..offsets[segment + 1])
                .ok_or_else(|| malformed("rle segment outside its frame"))?;
            let first = channel * bytes_per_sample + (bytes_per_sample - 1 - byte);
            let step = channels * bytes_per_sample;
            unpack_bits(coded, data.iter_mut().skip(first).step_by(step))?;
        }
    }
    Ok(data)
}

fn malformed(detail: &str) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: detail.into(),
    }
}

/// Segment starts, and the end of the last one.
fn offsets(bytes: &[u8], segments: usize) -> Result<Vec<usize>, DecodeError> {
    let header = bytes.get(..HEADER_BYTES).ok_or(DecodeError::Truncated {
        format: Format::Dicom,
    })?;
    let words: Vec<usize> = header
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize)
        .collect();
    if words[0] != segments || segments > 15 {
        return Err(malformed(
            "rle segment count does not match bits and samples",
        ));
    }
    let mut offsets = words[1..=segments].to_vec();
    offsets.push(bytes.len());
    Ok(offsets)
}

fn unpack_bits<'a>(
    coded: &[u8],
    mut out: impl Iterator<Item = &'a mut u8>,
) -> Result<(), DecodeError> {
    let mut position = 0;
    let mut next = out.next();
    while let Some(slot) = next.take() {
        let mut slot = Some(slot);
        let control = *coded.get(position).ok_or(DecodeError::Truncated {
            format: Format::Dicom,
        })?;
        position += 1;
        let count = match control {
            0..=127 => usize::from(control) + 1,
            128 => {
                next = slot;
                continue;
            }
            129..=255 => 257 - usize::from(control),
        };
        for index in 0..count {
            let source = if control < 128 {
                position + index
            } else {
                position
            };
            let value = *coded.get(source).ok_or(DecodeError::Truncated {
                format: Format::Dicom,
            })?;
            match slot.take().or_else(|| out.next()) {
                Some(target) => *target = value,
                // Some writers run over the end, by a byte or so; others pack rows that the image does not have.
                None if count - index < 4 => {
                    position += if control < 128 { count } else { 1 };
                    return check_rest(coded.get(position..).unwrap_or_default());
                }
                None => return Err(malformed(TOO_MANY)),
            }
        }
        position += if control < 128 { count } else { 1 };
        next = out.next();
    }
    check_rest(&coded[position..])
}

const TOO_MANY: &str = "an rle segment has more than its pixels";

/// Behind the last pixel stands padding to an even length, or more of it, and no further run.
fn check_rest(rest: &[u8]) -> Result<(), DecodeError> {
    if rest.len() < 4 || rest.iter().all(|&byte| matches!(byte, 0 | 0x80)) {
        return Ok(());
    }
    Err(malformed(TOO_MANY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_and_repeat_runs_fill_planes_most_significant_first() {
        // Two pixels of 16 bits: 0x0102, 0x0103.
        let mut bytes = vec![0; 64];
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&66u32.to_le_bytes());
        bytes.extend([0xff, 1, 1, 2, 3, 0]); // repeat 1 twice; literal 2, 3; padding
        assert_eq!(frame(&bytes, 2, 1, 2).unwrap(), [2, 1, 3, 1]);
        let mut longer = bytes.clone();
        longer.extend([5, 1, 2, 3, 4, 5, 6]);
        assert_eq!(frame(&longer, 2, 1, 2).unwrap_err().kind(), "malformed");
        bytes.truncate(67);
        assert_eq!(frame(&bytes, 2, 1, 2).unwrap_err().kind(), "truncated");
    }
}
