//! Quarantine has a limit like everything else: the oldest files go first.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::discard;
use crate::clock;
use crate::config;
use crate::outbox::{Entry, Outbox};
use crate::spool::{AcceptError, Spool};

/// Drops what lies in quarantine for longer than `keep_days`, and of the rest the oldest until what is
/// left has `max_bytes` or less.
pub fn expire(
    outbox: &Outbox,
    spool: &Spool,
    limits: &config::Quarantine,
    now: SystemTime,
) -> Result<(), AcceptError> {
    let size = |entry: &Entry| {
        let metadata = fs::metadata(spool.quarantine.join(&entry.file));
        metadata.map_or(0, |metadata| metadata.len())
    };
    let mut entries = outbox.quarantined()?;
    // Times of this form sort like text.
    entries.sort_by(|a, b| a.quarantined_at.cmp(&b.quarantined_at));
    let keep = Duration::from_secs(u64::from(limits.keep_days) * 86_400);
    let oldest = clock::rfc3339(now.checked_sub(keep).unwrap_or(UNIX_EPOCH));
    let mut total_bytes: u64 = entries.iter().map(size).sum();
    for entry in &entries {
        let aged = entry.quarantined_at < oldest && entry.quarantined_at.as_str() >= clock::PAST;
        let key = if aged {
            "quarantine.keep_days"
        } else if total_bytes > limits.max_bytes {
            "quarantine.max_bytes"
        } else {
            continue;
        };
        let bytes = size(entry);
        if discard(outbox, spool, entry)? {
            tracing::warn!(
                job = entry.job_number,
                bytes,
                key,
                "quarantine is above its limit"
            );
        }
        total_bytes = total_bytes.saturating_sub(bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Reason;
    use crate::outbox::Arrival;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn the_oldest_leave_by_size_and_everything_by_age() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(folder.path(), 0).unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let reason = Reason {
            code: "c".into(),
            words: "w".into(),
            remedy: "r".into(),
        };
        let arrival = |file: &str| Arrival {
            source: "ward".into(),
            file: file.into(),
            received_at: clock::now(),
            sender: None,
        };
        // Against the order of the names: what counts is when they came to lie here.
        for name in ["c", "b", "a"] {
            fs::write(spool.quarantine.join(name), [0; 100]).unwrap();
            outbox.refuse(&arrival(name), &reason).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        // A pending job, which is nobody's to remove.
        fs::create_dir(spool.accepted.join("ward")).unwrap();
        fs::write(spool.accepted.join("ward/p"), [0; 1000]).unwrap();
        outbox.accept(&[arrival("p")]).unwrap();
        let left = |max_bytes, days| {
            let limits = config::Quarantine {
                keep_days: 30,
                max_bytes,
            };
            expire(&outbox, &spool, &limits, SystemTime::now() + DAY * days).unwrap();
            let ledger = outbox.ledger().unwrap();
            assert!(ledger.balances());
            assert_eq!(ledger.pending, 1);
            let entries = outbox.quarantined().unwrap();
            let names: String = entries.into_iter().map(|entry| entry.file).collect();
            (names, ledger.dropped)
        };
        assert_eq!(left(300, 29), ("abc".into(), 0));
        assert_eq!(left(299, 0), ("ab".into(), 1));
        assert_eq!(left(100, 0), ("a".into(), 2));
        assert_eq!(left(300, 31), (String::new(), 3));
        assert!(spool.accepted.join("ward/p").exists());
        assert_eq!(fs::read_dir(&spool.quarantine).unwrap().count(), 0);
    }
}
