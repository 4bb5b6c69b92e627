//! One binary: linking the inference engine once is enough.

mod bundle;
mod decode;
mod pile;
#[path = "../../../../tests/sample_bundle.rs"]
mod sample_bundle;
