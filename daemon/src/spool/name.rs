//! Names of inputs in the spool.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const STAMP_DIGITS: usize = 16;
/// Leaves room in 255 bytes for what is put before and behind.
const NAME_MAX_BYTES: usize = 160;

/// `<time of acceptance in ns, hex>-<counter>-<original name>`: unique, and sorts by acceptance.
pub(crate) fn new_name(original: &Path) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = original.file_name().unwrap_or_default().to_string_lossy();
    // The end of a long name holds its extension.
    let mut start = name.len().saturating_sub(NAME_MAX_BYTES);
    while !name.is_char_boundary(start) {
        start += 1;
    }
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{count}-{}", stamp(), &name[start..])
}

/// `<time>-<counter>` of a name in the spool, which says nothing about a patient.
pub(crate) fn label(name: &str) -> Option<&str> {
    let (stamp, rest) = name.split_at_checked(STAMP_DIGITS)?;
    let (count, _) = rest.strip_prefix('-')?.split_once('-')?;
    let good = stamp.bytes().all(|digit| digit.is_ascii_hexdigit())
        && !count.is_empty()
        && count.bytes().all(|digit| digit.is_ascii_digit());
    good.then(|| &name[..=STAMP_DIGITS + count.len()])
}

pub(super) fn nameless(path: &Path) -> Cow<'_, Path> {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(label) {
        Some(label) => Cow::Owned(path.with_file_name(label)),
        None => Cow::Borrowed(path),
    }
}

/// How long ago a file was claimed; its name carries the time.
pub(crate) fn waited(name: &str) -> Duration {
    let stamp = name
        .get(..STAMP_DIGITS)
        .and_then(|s| u64::from_str_radix(s, 16).ok());
    stamp.map_or(Duration::ZERO, |stamp| {
        Duration::from_nanos(nanos().saturating_sub(stamp))
    })
}

pub(super) fn stamp() -> String {
    format!("{:0STAMP_DIGITS$x}", nanos())
}

fn nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}
