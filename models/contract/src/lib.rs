//! What trainer and daemon agree on, and nothing else: both programs prepare pixels and write masks
//! through this crate only. Pure: no clock, no randomness, and no I/O beyond reading a bundle.

pub mod bundle;
pub mod geometry;
mod image;
pub mod intensity;
pub mod manifest;
pub mod mask;
pub mod prompt;
pub mod resample;
pub mod signature;
pub mod vector;

pub use image::Image;
pub use manifest::Manifest;
pub use mask::LabelMap;
