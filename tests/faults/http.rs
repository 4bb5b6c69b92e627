//! Images by HTTP POST: what was answered with 202 survives a kill of the daemon.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::harness::http;
use crate::harness::images;
use crate::harness::process::{free_port, wait_for};
use crate::harness::site::{Site, mosquitto};

#[test]
fn a_killed_daemon_has_every_image_that_it_answered_with_202() {
    const IMAGES: usize = 200;
    const SENDERS: usize = 4;
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let mut site = Site::new("", &http::config_section(port));
    let (next, jobs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= IMAGES {
                        return;
                    }
                    // An image that was accepted without an answer is sent again, and its copy has the same job id.
                    wait_for("202", || match http::post(port, &images::png(number)) {
                        Ok((202, receipt)) => {
                            jobs.lock().unwrap().push(receipt["job"].as_u64().unwrap());
                            true
                        }
                        Ok((status, answer)) => panic!("{status} {answer}"),
                        Err(_) => false,
                    });
                }
            });
        }
        for kill in 1..=4 {
            wait_for("answers", || {
                jobs.lock().unwrap().len() >= kill * IMAGES / 6
            });
            sleep(Duration::from_millis(3 * kill as u64));
            site.daemon.kill();
            site.daemon.start();
        }
    });
    site.wait_for_results(IMAGES);
    let jobs = jobs.into_inner().unwrap();
    assert_eq!(jobs.len(), IMAGES);
    for job in jobs {
        let (code, text) = site
            .daemon
            .cli(&["ledger", "show", &job.to_string(), "--json"]);
        assert_eq!(code, 0, "job {job} was answered with 202: {text}");
        let history: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(history["source"], "http");
    }
    site.assert_published(IMAGES, 0);
}

/// The counters of the metrics balance as those of the ledger do.
#[test]
fn metrics_and_probes_say_what_the_ledger_says() {
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let site = Site::new("", &http::config_section(port));
    site.daemon.wait_for_log("ready");
    (0..5).for_each(|number| assert_eq!(http::post(port, &images::png(number)).unwrap().0, 202));
    site.daemon.drop_garbage(0);
    site.wait_for_results(5);
    wait_for("the quarantine", || {
        site.daemon.n_log_lines(&["image quarantined"]) == 1
    });
    let lines = [
        "scansided_images_received_total 6",
        "scansided_images_published_total 5",
        "scansided_images_pending 0",
        "scansided_images_quarantined 1",
        "scansided_source_accepted_images_total{source=\"http\"} 5",
        "scansided_source_accepted_images_total{source=\"inbox\"} 1",
        "scansided_inference_seconds_count 5",
        "scansided_mqtt_connected 1",
        "scansided_outbox_messages 0",
    ];
    let mut page = String::new();
    wait_for("the page", || {
        page = http::get(port, "/metrics").unwrap().1;
        let has = |line: &&str| {
            page.lines()
                .any(|found| found.trim_end_matches(".0") == *line)
        };
        lines.iter().all(has)
    });
    assert_eq!(http::get(port, "/healthz").unwrap().0, 200);
    let (status, ready) = http::get(port, "/readyz").unwrap();
    assert!(
        status == 200 && ready.contains("\"state\":\"ready\""),
        "{ready}"
    );
    site.assert_published(5, 1);
}
