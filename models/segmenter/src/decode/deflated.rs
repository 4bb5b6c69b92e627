//! Deflated Image Frame Compression (PS3.5 A.4.13): each frame a stream of RFC 1951.

use std::io::Read;

use flate2::bufread::{DeflateDecoder, ZlibDecoder};

use super::error::DecodeError;
use super::format::Format;

/// Inflates one frame of `size` bytes.
pub(super) fn frame(bytes: &[u8], size: usize) -> Result<Vec<u8>, DecodeError> {
    // Some writers put zlib's header around it, which is no deflated data: it begins with a stored block whose lengths do
    // not agree.
    let inflated = inflate(DeflateDecoder::new(bytes), size)
        .or_else(|error| inflate(ZlibDecoder::new(bytes), size).map_err(|_| error))?;
    if inflated.len() < size {
        return Err(DecodeError::Truncated {
            format: Format::Dicom,
        });
    }
    // A frame of odd length may have been padded before.
    if inflated.len() > size + 1 {
        return Err(malformed("a deflated frame has more than its pixels"));
    }
    Ok(inflated)
}

fn inflate(decoder: impl Read, size: usize) -> Result<Vec<u8>, DecodeError> {
    let mut inflated = Vec::new();
    let read = decoder.take(size as u64 + 2).read_to_end(&mut inflated);
    read.map_err(|_| malformed("a deflated frame cannot be inflated"))?;
    Ok(inflated)
}

fn malformed(detail: &str) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: detail.into(),
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::read::{DeflateEncoder, ZlibEncoder};

    use super::*;

    fn read(mut encoder: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        encoder.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_frame_is_inflated_whole_or_refused() {
        let pixels: Vec<u8> = (0..=255).cycle().take(999).collect();
        let mut plain = read(DeflateEncoder::new(&pixels[..], Compression::best()));
        assert_eq!(frame(&plain, 999).unwrap(), pixels);
        assert_eq!(frame(&plain, 998).unwrap(), pixels, "padded");
        assert_eq!(frame(&plain, 900).unwrap_err().kind(), "malformed");
        assert_eq!(frame(&plain, 1000).unwrap_err().kind(), "truncated");
        let zlib = read(ZlibEncoder::new(&pixels[..], Compression::best()));
        assert_eq!(frame(&zlib, 999).unwrap(), pixels);
        plain.push(0);
        assert_eq!(frame(&plain, 999).unwrap(), pixels, "of even length");
        assert!(frame(&plain[..plain.len() / 2], 999).is_err());
    }
}
