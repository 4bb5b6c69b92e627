//! How large a file may be, and what it asks for.

use std::time::{Duration, Instant};

use super::error::DecodeError;

/// What a file may ask for: size is checked against its header before anything is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_pixels_per_frame: u64,
    pub max_frames: u32,
    /// Of the file, and of all decoded frames together at 4 bytes a sample.
    pub max_bytes: u64,
    /// Looked at before each frame, as no decoder can be interrupted within one: a file of a single frame is not
    /// bounded by it, nor is what comes before the first frame. `None` for all the time it takes.
    pub max_time: Option<Duration>,
}

impl Limits {
    /// 8192 x 8192 px holds every detector sold today, 4096 frames a long cine, 1 GiB what a small
    /// box can spare.
    pub const STANDARD: Self = Self {
        max_pixels_per_frame: 8192 * 8192,
        max_frames: 4096,
        max_bytes: 1 << 30,
        max_time: None,
    };

    pub(super) fn check_time(&self, start: Instant) -> Result<(), DecodeError> {
        match self.max_time {
            Some(limit) if start.elapsed() >= limit => Err(DecodeError::TooSlow { limit }),
            _ => Ok(()),
        }
    }
}

pub(super) fn check(what: &'static str, found: u64, limit: u64) -> Result<(), DecodeError> {
    if found > limit {
        return Err(DecodeError::TooLarge { what, found, limit });
    }
    Ok(())
}

/// The sizes a header claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub rows: u64,
    pub cols: u64,
    pub channels: u64,
    pub frames: u64,
}

impl Shape {
    /// Must run before the first allocation that depends on the header.
    pub(super) fn check(self, limits: &Limits) -> Result<(), DecodeError> {
        for (what, value) in [("height", self.rows), ("width", self.cols)] {
            if value == 0 {
                return Err(DecodeError::NoPixels { what });
            }
        }
        let pixels = self.rows.saturating_mul(self.cols);
        check("the image in px", pixels, limits.max_pixels_per_frame)?;
        check(
            "the number of frames",
            self.frames,
            u64::from(limits.max_frames),
        )?;
        let bytes = pixels
            .saturating_mul(self.channels)
            .saturating_mul(self.frames)
            .saturating_mul(size_of::<f32>() as u64);
        check("the decoded image in bytes", bytes, limits.max_bytes)
    }
}
