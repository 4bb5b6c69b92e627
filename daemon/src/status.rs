//! What the tasks report about themselves for `state` and `health`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// What moments are counted from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const NOTHING_IN_HAND: u64 = u64::MAX;

/// Shared by all tasks; every field stands alone, so no lock goes over two of them.
#[derive(Debug)]
pub struct Status {
    pub metrics: Metrics,
    connected: AtomicBool,
    /// Why the broker and this box do not trust each other.
    distrust: Mutex<Option<String>>,
    disk_low: AtomicBool,
    draining: AtomicBool,
    model_fell_back: AtomicBool,
    /// Results and events acknowledged since the start.
    acknowledged: AtomicU64,
    /// Of these, what no client was subscribed to.
    unheard: AtomicU64,
    quarantined: AtomicU64,
    connects: AtomicU64,
    /// When the inference thread took the image in hand, ms after `START`.
    image_taken: AtomicU64,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            metrics: Metrics::default(),
            connected: AtomicBool::default(),
            distrust: Mutex::default(),
            disk_low: AtomicBool::default(),
            draining: AtomicBool::default(),
            model_fell_back: AtomicBool::default(),
            acknowledged: AtomicU64::default(),
            unheard: AtomicU64::default(),
            quarantined: AtomicU64::default(),
            connects: AtomicU64::default(),
            image_taken: AtomicU64::new(NOTHING_IN_HAND),
        }
    }
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

    pub fn set_model_fell_back(&self, fell_back: bool) {
        self.model_fell_back.store(fell_back, Ordering::Relaxed);
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

    pub fn connected(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
        self.set_distrust(None);
    }

    /// `distrust`: what only an operator can change, certificates or the user's name.
    pub fn disconnected(&self, distrust: Option<String>) {
        self.connected.store(false, Ordering::Relaxed);
        self.set_distrust(distrust);
    }

    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    fn set_distrust(&self, distrust: Option<String>) {
        *self.distrust.lock().unwrap_or_else(PoisonError::into_inner) = distrust;
    }

    pub fn distrust(&self) -> Option<String> {
        let distrust = self.distrust.lock();
        distrust.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn image_taken(&self) {
        let now = START.elapsed().as_millis() as u64;
        self.image_taken.store(now, Ordering::Relaxed);
    }

    pub fn image_done(&self) {
        self.image_taken.store(NOTHING_IN_HAND, Ordering::Relaxed);
    }

    /// How long the image at hand has been in hand; nothing when there is none.
    pub fn in_hand(&self) -> Duration {
        let taken = self.image_taken.load(Ordering::Relaxed);
        START.elapsed().saturating_sub(Duration::from_millis(taken))
    }

    /// As systemd's watchdog judges it.
    pub fn is_stuck(&self, image_timeout: Duration) -> bool {
        self.in_hand() > image_timeout
    }

    pub fn is_idle(&self) -> bool {
        self.image_taken.load(Ordering::Relaxed) == NOTHING_IN_HAND
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
        let fell_back = self.model_fell_back.load(Ordering::Relaxed);
        let model = fell_back.then_some("model_fell_back");
        let distrust = self.distrust().map(|_| "mqtt_refused");
        disk.into_iter()
            .chain(model)
            .chain(draining)
            .chain(distrust)
            .collect()
    }

    pub fn word(&self) -> &'static str {
        if self.draining.load(Ordering::Relaxed) {
            "draining"
        } else if self.distrust().is_some() {
            "error"
        } else if self.disk_low.load(Ordering::Relaxed)
            || self.model_fell_back.load(Ordering::Relaxed)
        {
            "degraded"
        } else {
            "ready"
        }
    }
}
