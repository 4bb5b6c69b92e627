//! One image file and one bundle in, masks out: the path that `trainer eval` measures and the
//! daemon serves.
//!
//! `decode` turns bytes into modality values, `contract` prepares them, `infer` runs the graph with
//! tract, `result` names what was found. Nothing here knows a queue, a network or a training loop.

pub mod decode;
mod hypot;
pub mod infer;
pub mod overlay;
pub mod result;
pub mod seg;
mod segmenter;
mod unpack;
mod warning;

pub use segmenter::{
    OpenError, OpenOptions, Segmented, Segmenter, SelfTest, SelfTestError, Timing,
};
pub use unpack::{UnpackError, unpack};
