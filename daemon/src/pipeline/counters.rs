//! Counters of every source with every reason that it can have, at zero from the start.

use crate::config::{Config, MQTT_SOURCE};
use crate::intake::http;
use crate::intake::{dicom, folder};
use crate::mqtt;
use crate::status::metrics::Metrics;

pub(super) fn begin(config: &Config, metrics: &Metrics) {
    for folder in &config.folder {
        metrics.begin(&folder.name, [folder::TOO_LARGE]);
    }
    for port in &config.dicom {
        metrics.begin(&port.name, dicom::refusal_reasons());
    }
    if let Some(port) = &config.http {
        metrics.begin(&port.name, http::refusal_reasons());
    }
    if config.sources().any(|source| source == MQTT_SOURCE) {
        metrics.begin(MQTT_SOURCE, mqtt::refusal_reasons());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::outbox::Ledger;
    use crate::status::Status;
    use crate::status::metrics::Snapshot;

    const EVERYTHING: &str = r#"node = "box-1"
[model]
bundle = "bundle"
[state]
directory = "state"
[[folder]]
name = "ward"
directory = "ward"
[[folder]]
name = "icu"
directory = "icu"
[[dicom]]
name = "pacs"
[http]
listen = "127.0.0.1:8790"
[mqtt]
host = "127.0.0.1"
requests = ["segment"]
"#;

    fn page(config: &str) -> String {
        let config = Config::parse(config, Path::new("daemon.toml")).unwrap();
        let status = Status::default();
        begin(&config, &status.metrics);
        status.metrics.page(&Snapshot {
            ledger: Ledger::default(),
            counts: status.counts(),
            outbox_file_bytes: 0,
            oldest_pending: Duration::ZERO,
            in_hand: Duration::ZERO,
            stuck: false,
            mqtt_connected: false,
            disk_free_bytes: None,
            segmentations: None,
            certificates: Vec::new(),
        })
    }

    /// Reasons that stand at zero for a source.
    fn at_zero<'a>(page: &'a str, source: &str) -> BTreeSet<&'a str> {
        let start = format!("scansided_source_refusals_total{{source=\"{source}\",reason=\"");
        page.lines()
            .filter_map(|line| line.strip_prefix(&start)?.strip_suffix("\"} 0"))
            .collect()
    }

    #[test]
    fn every_source_begins_with_every_reason_at_zero() {
        let page = page(EVERYTHING);
        let cases: [(&str, &[&str]); 5] = [
            ("ward", &["too_large"]),
            ("icu", &["too_large"]),
            (
                "pacs",
                &[
                    "association",
                    "bad_request",
                    "disk_low",
                    "mismatch",
                    "no_data_set",
                    "queue_full",
                    "tls",
                    "too_large",
                ],
            ),
            (
                "http",
                &[
                    "box",
                    "cut_off",
                    "disk_low",
                    "empty",
                    "foreign",
                    "no_place",
                    "not_an_image",
                    "queue_full",
                    "stopping",
                    "tls",
                    "too_large",
                    "too_slow",
                    "unauthorized",
                ],
            ),
            (
                "mqtt",
                &[
                    "disk_low",
                    "empty",
                    "id_too_long",
                    "queue_full",
                    "too_large",
                ],
            ),
        ];
        let mut n_reasons = 0;
        for (source, reasons) in cases {
            assert_eq!(
                at_zero(&page, source).into_iter().collect::<Vec<_>>(),
                reasons,
                "{source} in\n{page}"
            );
            n_reasons += reasons.len();
            let accepted =
                format!("scansided_source_accepted_images_total{{source=\"{source}\"}} 0\n");
            assert!(page.contains(&accepted), "no {accepted} in\n{page}");
        }
        // Nothing of sources that are not there.
        assert_eq!(
            page.matches("scansided_source_refusals_total{").count(),
            n_reasons
        );
        for boundary in ["0.002", "0.05", "0.1", "100"] {
            let bucket = format!("scansided_inference_seconds_bucket{{le=\"{boundary}\"}} 0\n");
            assert!(page.contains(&bucket), "no {bucket} in\n{page}");
        }
    }

    #[test]
    fn replays_alone_make_no_source() {
        let page = page(&EVERYTHING.replace("segment", "replay"));
        assert!(!page.contains("source=\"mqtt\""), "{page}");
    }
}
