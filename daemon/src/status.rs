//! What the tasks report about themselves for `state` and `health`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by all tasks; every field stands alone, so no lock is needed.
#[derive(Debug, Default)]
pub struct Status {
    disk_low: AtomicBool,
    draining: AtomicBool,
    /// Results and events acknowledged since the start.
    acknowledged: AtomicU64,
    /// Of these, what no client was subscribed to.
    unheard: AtomicU64,
    quarantined: AtomicU64,
    connects: AtomicU64,
}

/// Values of the counters since the start.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Counts {
    pub acknowledged: u64,
    pub unheard: u64,
    pub quarantined: u64,
    pub connects: u64,
}

impl Status {
    /// Says it once on each change.
    pub fn set_disk_low(&self, low: bool) {
        if self.disk_low.swap(low, Ordering::Relaxed) != low {
            if low {
                tracing::error!("disk below `min_free_bytes`, nothing is accepted");
            } else {
                tracing::info!("disk above `min_free_bytes` again");
            }
        }
    }

    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn count_acknowledged(&self, messages: u64) {
        self.acknowledged.fetch_add(messages, Ordering::Relaxed);
    }

    pub fn count_unheard(&self) {
        self.unheard.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_quarantined(&self) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_connect(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            unheard: self.unheard.load(Ordering::Relaxed),
            quarantined: self.quarantined.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
        }
    }

    /// Why the box is not simply ready.
    pub fn reasons(&self) -> Vec<&'static str> {
        let disk = self.disk_low.load(Ordering::Relaxed).then_some("disk_low");
        let draining = self.draining.load(Ordering::Relaxed).then_some("draining");
        disk.into_iter().chain(draining).collect()
    }

    pub fn word(&self) -> &'static str {
        if self.draining.load(Ordering::Relaxed) {
            "draining"
        } else if self.disk_low.load(Ordering::Relaxed) {
            "degraded"
        } else {
            "ready"
        }
    }
}
