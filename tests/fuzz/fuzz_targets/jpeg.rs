//! A JPEG stream, lossless or not, as the only frame of a DICOM image: bytes for rows, columns and samples, then the stream.
#![no_main]

use segmenter::decode::{Limits, decode};

const LIMITS: Limits = Limits {
    max_pixels_per_frame: 256 * 256,
    max_frames: 1,
    max_bytes: 1 << 20,
    max_time: None,
};

fn element(file: &mut Vec<u8>, group: u16, element: u16, vr: &[u8; 2], value: &[u8]) {
    file.extend([group.to_le_bytes(), element.to_le_bytes()].concat());
    file.extend(vr);
    file.extend((value.len() as u16).to_le_bytes());
    file.extend(value);
}

/// SOC and SIZ of JPEG 2000, left out for the reason that `object` gives.
const JPEG_2000: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if cfg!(debug_assertions) && bytes.windows(4).any(|bytes| bytes == JPEG_2000) {
        return;
    }
    let [rows, cols, samples, stream @ ..] = bytes else { return };
    let samples: u16 = if samples % 2 == 0 { 1 } else { 3 };
    let mut file = b"DICM".to_vec();
    element(&mut file, 2, 0x10, b"UI", b"1.2.840.10008.1.2.4.70");
    let short = |value: u16| value.to_le_bytes();
    element(&mut file, 0x28, 0x2, b"US", &short(samples));
    let photometric: &[u8] = if samples == 1 { b"MONOCHROME2 " } else { b"YBR_FULL" };
    element(&mut file, 0x28, 0x4, b"CS", photometric);
    element(&mut file, 0x28, 0x10, b"US", &short(rows.saturating_add(1).into()));
    element(&mut file, 0x28, 0x11, b"US", &short(cols.saturating_add(1).into()));
    element(&mut file, 0x28, 0x100, b"US", &short(16));
    element(&mut file, 0x28, 0x101, b"US", &short(12));
    element(&mut file, 0x28, 0x102, b"US", &short(11));
    element(&mut file, 0x28, 0x103, b"US", &short(1));
    file.extend(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0");
    file.extend((stream.len() as u32).to_le_bytes());
    file.extend(stream);
    file.extend(b"\xfe\xff\xdd\xe0\0\0\0\0");
    if let Ok(scan) = decode(&file, &LIMITS) {
        for frame in &scan.frames {
            assert_eq!(frame.data.len(), frame.rows * frame.cols * frame.channels);
        }
    }
});
