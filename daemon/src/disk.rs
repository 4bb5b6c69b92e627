//! Free space of the state directory's file system.

use std::path::Path;

/// Bytes an ordinary user may still write; `None` when the system does not say.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path)
        .inspect_err(|error| tracing::warn!(%error, "free disk space is unknown"))
        .ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether the disk is below its watermark; unknown counts as room.
pub(crate) fn below(path: &Path, watermark_bytes: u64) -> bool {
    free_bytes(path).is_some_and(|free| free < watermark_bytes)
}
