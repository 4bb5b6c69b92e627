//! One binary: linking the inference engine once is enough.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panic and say what they skip"
)]

mod bundle;
mod damage;
mod decode;
mod elements;
mod exif;
mod geometry;
mod headers;
mod mutations;
mod pile;
mod reported_streams;
mod reports;
mod text;
mod values;
mod written;
