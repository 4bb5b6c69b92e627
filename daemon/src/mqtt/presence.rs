//! What the node says about itself: `state` and `info` (retained), `health`.

use std::time::Instant;

use serde_json::{Value, json};

use crate::clock;
use crate::config::Config;
use crate::disk;
use crate::encode::Speaker;
use crate::outbox::{Outbox, OutboxError};
use crate::status::Status;

pub(super) fn info(config: &Config, speaker: &Speaker) -> Value {
    let sources: Vec<&str> = config
        .folder
        .iter()
        .map(|folder| folder.name.as_str())
        .collect();
    json!({
        "schema": "info/1",
        "version": env!("CARGO_PKG_VERSION"),
        "result_schema": "result/1",
        "node": speaker.node,
        "boot": speaker.boot,
        "model": speaker.model,
        "sources": sources,
        "formats": ["png", "jpeg", "tiff", "dicom"],
        "limits": {
            "inline_max_bytes": speaker.inline_max_bytes,
            "frame_max_pixels": config.decode.frame_max_pixels,
            "frames_max": config.decode.frames_max,
            "image_max_bytes": config.decode.image_max_bytes,
        },
    })
}

/// Blocking: reads the outbox.
pub(super) fn state(
    config: &Config,
    speaker: &Speaker,
    status: &Status,
    outbox: &Outbox,
) -> Result<Value, OutboxError> {
    let ledger = outbox.ledger()?;
    Ok(json!({
        "schema": "state/1",
        "session": speaker.boot,
        "state": status.word(),
        "reasons": status.reasons(),
        "at": clock::now(),
        "pending": ledger.pending,
        "disk_free_bytes": disk::free_bytes(&config.state.directory),
        "model": speaker.model.digest,
    }))
}

/// Blocking: reads the outbox.
pub(super) fn health(
    config: &Config,
    status: &Status,
    outbox: &Outbox,
    started: Instant,
) -> Result<Value, OutboxError> {
    let oldest = outbox
        .jobs()?
        .into_iter()
        .find(|(_, job)| job.state.is_pending());
    Ok(json!({
        "schema": "health/1",
        "at": clock::now(),
        "state": status.word(),
        "uptime_s": started.elapsed().as_secs(),
        "resident_bytes": resident_bytes(),
        "ledger": outbox.ledger()?,
        "oldest_pending_at": oldest.map(|(_, job)| job.received_at),
        "since_start": status.counts(),
        "disk_free_bytes": disk::free_bytes(&config.state.directory),
    }))
}

/// Absent outside Linux.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}
