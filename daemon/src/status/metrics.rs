//! What `GET /metrics` says, in Prometheus' text form: base units, and no label that names a patient, a
//! sender or a job. Counters begin at zero with the process; the ledger's numbers count from the day that
//! the state directory was made.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::outbox::Ledger;
use crate::report::health::{Segmentations, SinceStart};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    source: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateFile {
    file: String,
}

/// From a small network on a workstation to the largest on a box without a GPU.
const INFERENCE_BUCKETS_S: [f64; 15] = [
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// What is counted where it happens.
#[derive(Debug, Clone)]
pub struct Metrics {
    accepted: Family<Source, Counter>,
    refused: Family<Refused, Counter>,
    inference: Histogram,
    started_s: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            accepted: Family::default(),
            refused: Family::default(),
            inference: Histogram::new(INFERENCE_BUCKETS_S),
            started_s: now.unwrap_or_default().as_secs_f64(),
        }
    }
}

/// What is read at the moment of a request.
#[derive(Debug)]
pub struct Snapshot {
    pub ledger: Ledger,
    pub counts: SinceStart,
    pub outbox_file_bytes: u64,
    pub oldest_pending: Duration,
    /// Where they are sent to a PACS.
    pub segmentations: Option<Segmentations>,
    pub in_hand: Duration,
    pub stuck: bool,
    pub mqtt_connected: bool,
    pub disk_free_bytes: Option<u64>,
    /// Files, and when the first certificate in each expires.
    pub certificates: Vec<(String, SystemTime)>,
}

impl Metrics {
    /// Puts the counters of a source on the page, at zero: Prometheus' `increase()` does not see the step of a series
    /// that begins with 1.
    pub fn begin(&self, source: &str, reasons: impl IntoIterator<Item = &'static str>) {
        self.accepted(source, 0);
        for reason in reasons {
            let source = source.to_owned();
            drop(self.refused.get_or_create(&Refused { source, reason }));
        }
    }

    pub fn accepted(&self, source: &str, images: u64) {
        let source = source.to_owned();
        self.accepted
            .get_or_create(&Source { source })
            .inc_by(images);
    }

    pub fn refused(&self, source: &str, reason: &'static str) {
        let source = source.to_owned();
        self.refused
            .get_or_create(&Refused { source, reason })
            .inc();
    }

    #[cfg(test)]
    pub(crate) fn refusals(&self, source: &str, reason: &'static str) -> u64 {
        let source = source.to_owned();
        self.refused
            .get_or_create(&Refused { source, reason })
            .get()
    }

    pub fn inferred(&self, seconds: f64) {
        self.inference.observe(seconds);
    }

    pub fn page(&self, snapshot: &Snapshot) -> String {
        let mut page = Page(Registry::with_prefix("scansided"));
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        let build = Info::new(version);
        page.0
            .register("build", "Version of the program, always 1", build);
        let Ledger {
            received,
            published,
            pending,
            quarantined,
            rejected,
            dropped,
            messages,
        } = snapshot.ledger;
        page.counter(
            "images_received",
            "Images taken, and images refused at the door and kept in quarantine; the sum of the next five",
            received,
        );
        page.counter(
            "images_published",
            "Images whose results the broker acknowledged",
            published,
        );
        page.counter(
            "images_dropped",
            "Images taken out of quarantine for good",
            dropped,
        );
        for (name, help, value) in [
            (
                "images_pending",
                "Images accepted, in hand, or waiting for the broker",
                pending,
            ),
            (
                "images_quarantined",
                "Images in quarantine after they were accepted",
                quarantined,
            ),
            (
                "images_rejected",
                "Images in quarantine that were refused at the door",
                rejected,
            ),
            (
                "outbox_messages",
                "Messages that the broker did not acknowledge yet",
                messages,
            ),
            (
                "outbox_file_bytes",
                "Size of the outbox on the disk",
                snapshot.outbox_file_bytes,
            ),
        ] {
            page.gauge(name, help, value as f64);
        }
        self.sources(&mut page);
        page.moment(snapshot, self.started_s);
        page.segmentations(snapshot.segmentations.as_ref());
        page.certificates(&snapshot.certificates);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_text::encode(&mut text, &page.0);
        text
    }

    fn sources(&self, page: &mut Page) {
        page.0.register(
            "source_accepted_images",
            "Images accepted, by source",
            self.accepted.clone(),
        );
        page.0.register(
            "source_refusals",
            "What a source did not take, by reason: the sender was told, or the file stays or is quarantined",
            self.refused.clone(),
        );
        page.0.register(
            "inference_seconds",
            "Time that the network took for one image",
            self.inference.clone(),
        );
    }
}

struct Page(Registry);

impl Page {
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let gauge: Gauge<f64, AtomicU64> = Gauge::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn certificates(&mut self, certificates: &[(String, SystemTime)]) {
        let family: Family<CertificateFile, Gauge<f64, AtomicU64>> = Family::default();
        for (file, end) in certificates {
            let since = end.duration_since(UNIX_EPOCH).unwrap_or_default();
            let file = CertificateFile { file: file.clone() };
            family.get_or_create(&file).set(since.as_secs_f64());
        }
        self.0.register(
            "tls_certificate_expiry_timestamp_seconds",
            "When the first certificate in a file of the configuration expires, since 1970",
            family,
        );
    }

    fn segmentations(&mut self, counts: Option<&Segmentations>) {
        let Some(counts) = counts else { return };
        for (name, help, value) in [
            (
                "segmentations_waiting",
                "Segmentations that the PACS has not taken yet",
                counts.waiting as f64,
            ),
            (
                "segmentations_waiting_bytes",
                "Their size, which seg.send_to.waiting_max_bytes bounds",
                counts.waiting_bytes as f64,
            ),
            (
                "segmentations_oldest_waiting_age_seconds",
                "How long ago the oldest of them was made, 0 without one",
                counts.oldest_waiting_s as f64,
            ),
            (
                "segmentations_refused",
                "Segmentations that the PACS refused and that lie aside",
                counts.refused as f64,
            ),
        ] {
            self.gauge(name, help, value);
        }
    }

    fn moment(&mut self, snapshot: &Snapshot, started_s: f64) {
        let SinceStart {
            acknowledged,
            no_subscribers,
            connects,
            ..
        } = snapshot.counts;
        self.counter(
            "mqtt_acknowledged_messages",
            "Results and events that the broker acknowledged",
            acknowledged,
        );
        self.counter(
            "mqtt_unheard_messages",
            "Of these, those that no client was subscribed to",
            no_subscribers,
        );
        self.counter(
            "mqtt_connects",
            "Connections to the broker that came about; every one after the first is a reconnect",
            connects,
        );
        for (name, help, value) in [
            (
                "mqtt_connected",
                "Whether the broker talks to this box",
                f64::from(u8::from(snapshot.mqtt_connected)),
            ),
            (
                "oldest_pending_age_seconds",
                "How long the oldest pending image has waited, 0 without one",
                snapshot.oldest_pending.as_secs_f64(),
            ),
            (
                "image_in_hand_seconds",
                "How long the inference thread has had the image it works on, 0 without one",
                snapshot.in_hand.as_secs_f64(),
            ),
            (
                "inference_stuck",
                "Whether that is longer than pipeline.image_timeout_s, when systemd restarts the daemon",
                f64::from(u8::from(snapshot.stuck)),
            ),
            (
                "start_time_seconds",
                "When the process started, since 1970",
                started_s,
            ),
        ] {
            self.gauge(name, help, value);
        }
        if let Some(free) = snapshot.disk_free_bytes {
            let help = "Free on the disk of the state directory";
            self.gauge("disk_free_bytes", help, free as f64);
        }
    }
}
