//! What the tasks report about themselves for `state` and `health`.

pub(crate) mod metrics;
pub mod pacs;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock;
use crate::config::Version;
use crate::outbox::Identity;
use crate::report::health::SinceStart;
use crate::report::state::Readiness;
use crate::status::metrics::Metrics;
use crate::status::pacs::Pacs;

/// What moments are counted from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const NOTHING_IN_HAND: u64 = u64::MAX;

/// Shared by all tasks; every field stands alone, so no lock goes over two of them.
#[derive(Debug)]
pub struct Status {
    pub metrics: Metrics,
    broker: Mutex<Link>,
    /// Why the broker and this box do not trust each other.
    distrust: Mutex<Option<String>>,
    /// What waits for a PACS, where segmentations are sent to one.
    pub pacs: Pacs,
    /// Of the state directory.
    pub identity: OnceLock<Identity>,
    /// The MQTT that the broker was last spoken to in.
    mqtt_level: watch::Sender<Option<Version>>,
    disk_low: AtomicBool,
    draining: AtomicBool,
    model_fell_back: AtomicBool,
    /// Results and events acknowledged since the start.
    acknowledged: AtomicU64,
    /// Of these, what no client was subscribed to.
    no_subscribers: AtomicU64,
    quarantined: AtomicU64,
    connects: AtomicU64,
    /// When the inference thread took the image in hand, ms after `START`.
    image_taken: AtomicU64,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            metrics: Metrics::default(),
            broker: Mutex::new(Link {
                since: clock::now(),
                away: Some("no connection came about since the start".to_owned()),
            }),
            distrust: Mutex::default(),
            pacs: Pacs::default(),
            identity: OnceLock::new(),
            mqtt_level: watch::Sender::default(),
            disk_low: AtomicBool::default(),
            draining: AtomicBool::default(),
            model_fell_back: AtomicBool::default(),
            acknowledged: AtomicU64::default(),
            no_subscribers: AtomicU64::default(),
            quarantined: AtomicU64::default(),
            connects: AtomicU64::default(),
            image_taken: AtomicU64::new(NOTHING_IN_HAND),
        }
    }
}

/// Between the broker and this box.
#[derive(Debug, Clone)]
pub struct Link {
    /// When it came about, or ended.
    pub since: String,
    /// Why there is none.
    pub away: Option<String>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.away {
            None => write!(f, "connected since {}", self.since),
            Some(why) => write!(f, "away since {}: {why}", self.since),
        }
    }
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

    pub fn count_no_subscribers(&self) {
        self.no_subscribers.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_quarantined(&self) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub fn connected(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
        *self.link() = Link {
            since: clock::now(),
            away: None,
        };
        self.set_distrust(None);
    }

    /// `distrust`: what only an operator can change, certificates or the user's name.
    pub fn disconnected(&self, distrust: Option<String>) {
        let mut link = self.link();
        if link.away.is_none() {
            link.since = clock::now();
            link.away = Some("the connection ended".to_owned());
        }
        drop(link);
        self.set_distrust(distrust);
    }

    /// Why there is no connection; `since` stays that of the outage.
    pub fn away(&self, why: &str) {
        if let Some(away) = &mut self.link().away {
            why.clone_into(away);
        }
    }

    pub(crate) fn set_mqtt_level(&self, level: Version) {
        self.mqtt_level.send_replace(Some(level));
    }

    /// Nothing before the first CONNACK.
    pub(crate) fn mqtt_level(&self) -> watch::Receiver<Option<Version>> {
        self.mqtt_level.subscribe()
    }

    pub fn is_connected(&self) -> bool {
        self.link().away.is_none()
    }

    pub fn broker(&self) -> Link {
        self.link().clone()
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub fn counts(&self) -> SinceStart {
        SinceStart {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            no_subscribers: self.no_subscribers.load(Ordering::Relaxed),
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
        let pacs = self.pacs.is_away().then_some("segmentations_waiting");
        disk.into_iter()
            .chain(model)
            .chain(draining)
            .chain(distrust)
            .chain(pacs)
            .collect()
    }

    pub fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Relaxed) {
            Readiness::Draining
        } else if self.distrust().is_some() {
            Readiness::Error
        } else if self.disk_low.load(Ordering::Relaxed)
            || self.model_fell_back.load(Ordering::Relaxed)
            || self.pacs.is_away()
        {
            Readiness::Degraded
        } else {
            Readiness::Ready
        }
    }
}
