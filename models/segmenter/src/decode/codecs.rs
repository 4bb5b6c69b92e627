//! The stream of one compressed frame to values: which decoder, and how its samples are to be read.
//!
//! JPEG and JPEG 2000 are told apart by content, since transfer syntaxes name the wrong one of them at times. What a
//! sender may use of each stream, tried against other decoders by `tests/peers/transfer_syntaxes.py`:
//!
//! | stream | read | refused by name |
//! |---|---|---|
//! | JPEG Lossless | 2 to 16 bits, predictors 1 to 7, point transform, restarts by rows, components in one scan or their own, rows behind the scan | restarts within a row, subsampled components, arithmetic coding, hierarchical |
//! | JPEG by DCT | 8 and 12 bits, sequential and progressive, restarts, subsampling by whole numbers, a scan for each component | fractional subsampling, four components, arithmetic coding, hierarchical |
//! | JPEG 2000 | 1 to 16 bits of either sign, reversible or not, tiles, layers, offsets, all orders and code-block modes, in JP2 | subsampled components, components of two precisions, palettes, precincts below 16 x 16, a colour transform that is named and not there |
//! | JPEG-LS (feature `jpeg-ls`) | 2 to 16 bits, lossless or not, components by sample, by line or in their own scans | point transform, mapping tables |
//! | RLE | 1, 8, 16, 32 bits, 1 or 3 samples, any runs, padded segments | other counts of segments, more rows than said |
//! | deflated | any layout of native pixels, zlib's header | more pixels than said |
//!
//! Streams that end early are errors, never an image filled up.

use dicom_dictionary_std::uids;

use super::error::{DecodeError, unsupported_syntax};
use super::format::Format;
use super::jpeg::{self, Colour};
#[cfg(feature = "jpeg-ls")]
use super::jpeg_ls;
use super::pixels::{Layout, Photometric};
use super::{deflated, jpeg_2000, rle};

/// Transfer syntaxes whose frames are JPEG, JPEG-LS or JPEG 2000.
const STREAMS: [&str; 11] = [
    uids::JPEG_BASELINE8_BIT,
    uids::JPEG_EXTENDED12_BIT,
    uids::JPEG_LOSSLESS,
    uids::JPEG_LOSSLESS_SV1,
    uids::JPEGLS_LOSSLESS,
    uids::JPEGLS_NEAR_LOSSLESS,
    uids::JPEG2000_LOSSLESS,
    uids::JPEG2000,
    uids::HTJ2K_LOSSLESS,
    uids::HTJ2K_LOSSLESS_RPCL,
    uids::HTJ2K,
];

/// Values of one frame, channels interleaved.
pub(super) struct Values {
    pub data: Vec<f32>,
    /// Of a sample.
    pub bits: usize,
    pub is_ybr: bool,
}

/// Does a fragment begin like JPEG or JPEG 2000?
pub(super) fn begins_stream(fragment: &[u8]) -> bool {
    fragment.starts_with(&[0xff, 0xd8, 0xff]) || jpeg_2000::is_jpeg_2000(fragment)
}

/// Is there a decoder for the frames of this transfer syntax?
pub(super) fn are_read(transfer_syntax: &str) -> bool {
    let jpeg_ls = [uids::JPEGLS_LOSSLESS, uids::JPEGLS_NEAR_LOSSLESS].contains(&transfer_syntax);
    let own =
        [uids::RLE_LOSSLESS, uids::DEFLATED_IMAGE_FRAME_COMPRESSION].contains(&transfer_syntax);
    own || STREAMS.contains(&transfer_syntax) && (!jpeg_ls || cfg!(feature = "jpeg-ls"))
}

pub(super) fn decode(
    frame: &[u8],
    transfer_syntax: &str,
    layout: Layout,
    photometric: Photometric,
) -> Result<Values, DecodeError> {
    if transfer_syntax == uids::RLE_LOSSLESS
        || transfer_syntax == uids::DEFLATED_IMAGE_FRAME_COMPRESSION
    {
        let (samples, layout) = if transfer_syntax == uids::RLE_LOSSLESS {
            decode_rle(frame, layout)?
        } else {
            (deflated::frame(frame, layout.bytes(1))?, layout)
        };
        return Ok(Values {
            data: layout.samples(&samples, 0)?,
            bits: layout.stored,
            is_ybr: is_ybr(photometric),
        });
    }
    if !are_read(transfer_syntax) {
        return Err(unsupported_syntax(transfer_syntax));
    }
    let size = jpeg::Size {
        rows: layout.rows,
        cols: layout.cols,
        samples: layout.samples,
    };
    if jpeg_2000::is_jpeg_2000(frame) {
        return decode_jpeg_2000(frame, size, layout, photometric);
    }
    if !jpeg::is_jpeg(frame) {
        return Err(malformed("a frame is neither jpeg nor jpeg 2000"));
    }
    #[cfg(feature = "jpeg-ls")]
    if jpeg_ls::is_jpeg_ls(frame) {
        let (data, bits) = jpeg_ls::decode(frame, layout)?;
        return Ok(Values {
            data,
            bits,
            is_ybr: is_ybr(photometric),
        });
    }
    decode_jpeg(frame, size, layout, photometric)
}

fn is_ybr(photometric: Photometric) -> bool {
    [Photometric::YbrFull, Photometric::YbrFull422].contains(&photometric)
}

fn decode_jpeg_2000(
    frame: &[u8],
    size: jpeg::Size,
    layout: Layout,
    photometric: Photometric,
) -> Result<Values, DecodeError> {
    let decoded = jpeg_2000::decode(frame, size)?;
    if photometric == Photometric::YbrOfCodec && !decoded.undid_transform {
        return Err(DecodeError::Unsupported {
            what: "jpeg 2000 without the colour transform that PhotometricInterpretation names"
                .into(),
        });
    }
    // The stream says where its sign is, and whether its upper bits are used.
    let layout = of_stream(layout, decoded.precision, decoded.precision);
    Ok(Values {
        data: layout.interleave(&decoded.planes),
        bits: layout.stored,
        is_ybr: is_ybr(photometric),
    })
}

fn decode_jpeg(
    frame: &[u8],
    size: jpeg::Size,
    layout: Layout,
    photometric: Photometric,
) -> Result<Values, DecodeError> {
    let decoded = jpeg::decode(frame, size)?;
    if decoded.overflows && layout.stored > decoded.precision {
        return Err(malformed("a sample has more bits than its stream"));
    }
    // By DCT no bit is an overlay's: all of them are the sample's, whatever BitsStored says.
    let stored = if decoded.is_lossless {
        layout.stored
    } else {
        decoded.precision
    };
    let layout = of_stream(Layout { stored, ..layout }, decoded.precision, 16);
    // Lossless streams carry whatever the data set names. Streams by DCT have their own transform, which writers
    // forget to name; only where they do not say it the data set does.
    let in_ybr = match decoded.colour {
        _ if decoded.is_lossless => is_ybr(photometric),
        Colour::Rgb => false,
        Colour::Ybr => true,
        Colour::Unsaid => photometric != Photometric::Rgb,
    };
    Ok(Values {
        data: layout.interleave(&decoded.planes),
        bits: if decoded.is_lossless {
            layout.stored
        } else {
            decoded.precision
        },
        is_ybr: in_ybr && layout.samples == 3,
    })
}

/// The layout of words of 16 bits with a stream's samples: stored bits as the data set has them where the stream has
/// that many, `most` otherwise.
fn of_stream(layout: Layout, precision: usize, most: usize) -> Layout {
    let stored = layout.stored.min(most);
    let high_bit = if layout.high_bit < precision {
        layout.high_bit
    } else {
        stored - 1
    };
    Layout {
        allocated: 16,
        stored,
        high_bit: high_bit.max(stored - 1),
        planar: false,
        ..layout
    }
}

fn decode_rle(frame: &[u8], layout: Layout) -> Result<(Vec<u8>, Layout), DecodeError> {
    let pixels = layout.rows * layout.cols;
    let (plane, bytes) = match layout.allocated {
        1 => (pixels.div_ceil(8), 1),
        bits => (pixels, bits / 8),
    };
    let samples = rle::frame(frame, plane, layout.samples, bytes)?;
    let layout = Layout {
        planar: false,
        ..layout
    };
    Ok((samples, layout))
}

fn malformed(detail: &str) -> DecodeError {
    DecodeError::Malformed {
        format: Format::Dicom,
        detail: detail.into(),
    }
}
