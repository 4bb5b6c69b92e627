//! `[decode]`: what a file may cost before it is given up.

use std::time::Duration;

use segmenter::decode::Limits;
use serde::{Deserialize, Serialize};

use super::{Problem, at_least};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decode {
    /// Rows x columns of one frame.
    pub frame_max_pixels: u64,
    pub frames_max: u32,
    /// Of a file, and of its decoded frames together at 4 bytes a sample.
    pub image_max_bytes: u64,
    /// A file that takes longer to decode is given up.
    pub timeout_s: u64,
}

impl Default for Decode {
    fn default() -> Self {
        let standard = Limits::STANDARD;
        Self {
            frame_max_pixels: standard.max_pixels_per_frame,
            frames_max: standard.max_frames,
            image_max_bytes: standard.max_bytes,
            timeout_s: 60,
        }
    }
}

impl From<&Decode> for Limits {
    fn from(decode: &Decode) -> Self {
        Self {
            max_pixels_per_frame: decode.frame_max_pixels,
            max_frames: decode.frames_max,
            max_bytes: decode.image_max_bytes,
            max_time: Some(Duration::from_secs(decode.timeout_s)),
        }
    }
}

impl Decode {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        at_least("decode.frame_max_pixels", self.frame_max_pixels, 1)?;
        at_least("decode.frames_max", self.frames_max.into(), 1)?;
        at_least("decode.timeout_s", self.timeout_s, 1)
    }
}
