//! A DICOM data set in one of the transfer syntaxes that are taken, as C-STORE looks at it and as it is decoded.
#![no_main]

use segmenter::decode::storage::{TRANSFER_SYNTAXES, instance};
use segmenter::decode::{Limits, decode};

/// SOC and SIZ, with which a code stream of JPEG 2000 begins under any transfer syntax.
const JPEG_2000: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];

const LIMITS: Limits = Limits {
    max_pixels_per_frame: 256 * 256,
    max_frames: 8,
    max_bytes: 1 << 20,
    max_time: None,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, data_set)) = bytes.split_first() else { return };
    let syntax = TRANSFER_SYNTAXES[usize::from(*first) % TRANSFER_SYNTAXES.len()];
    // openjp2 0.6.1 frees null pointers: nothing happens, but an assertion of Rust's library ends the process.
    // `cargo fuzz run -O` is without them and takes JPEG 2000 too.
    if cfg!(debug_assertions) && data_set.windows(4).any(|bytes| bytes == JPEG_2000) {
        return;
    }
    let _ = instance(data_set, syntax);
    // The file's meta information: group 2, TransferSyntaxUID alone.
    let mut file = b"DICM\x02\0\x10\0UI".to_vec();
    let uid = format!("{syntax}{}", if syntax.len() % 2 == 1 { "\0" } else { "" });
    file.extend((uid.len() as u16).to_le_bytes());
    file.extend(uid.as_bytes());
    file.extend(data_set);
    let _ = decode(&file, &LIMITS);
});
