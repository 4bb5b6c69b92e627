//! Any file that a source takes, within limits that keep an execution short.
#![no_main]

use segmenter::decode::{Limits, decode};

const LIMITS: Limits = Limits {
    max_pixels_per_frame: 256 * 256,
    max_frames: 8,
    max_bytes: 1 << 20,
    max_time: None,
};

/// SOC and SIZ of JPEG 2000, left out for the reason that `object` gives.
const JPEG_2000: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if cfg!(debug_assertions) && bytes.windows(4).any(|bytes| bytes == JPEG_2000) {
        return;
    }
    if let Ok(scan) = decode(bytes, &LIMITS) {
        for frame in &scan.frames {
            assert_eq!(frame.data.len(), frame.rows * frame.cols * frame.channels);
        }
    }
});
