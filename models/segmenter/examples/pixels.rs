//! Decoded values of image files, for programs that compare them: `pixels OUT FILE...`
//!
//! A line for each file: `ok FRAMES ROWS COLUMNS CHANNELS`, the values in OUT/N.f32 (little endian, channels
//! interleaved, N counts from 0), or `error KIND WORDS`.

#![expect(clippy::print_stdout, reason = "its output is read by a script")]

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use segmenter::decode::{Limits, decode};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let out = PathBuf::from(arguments.next().ok_or("usage: pixels OUT FILE...")?);
    for (index, file) in arguments.enumerate() {
        let scan = match decode(&fs::read(&file)?, &Limits::STANDARD) {
            Ok(scan) => scan,
            Err(error) => {
                println!("error {} {error}", error.kind());
                continue;
            }
        };
        let first = &scan.frames[0];
        let count = scan.frames.len();
        println!(
            "ok {count} {} {} {}",
            first.rows, first.cols, first.channels
        );
        let values = scan.frames.iter().flat_map(|frame| &frame.data);
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        fs::write(out.join(format!("{index}.f32")), bytes)?;
    }
    Ok(())
}
