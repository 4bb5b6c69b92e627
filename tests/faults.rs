//! The daemon's promise against a real mosquitto: whatever dies, every accepted image ends published,
//! and an independent subscriber has seen each result at least once with one job id.
//!
//! SCANSIDE_LONG=1 stops the broker for 30 s instead of 5. Without mosquitto the tests say SKIPPED;
//! with SCANSIDE_REQUIRE_PEERS they fail.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail by panic and say what they skip"
)]

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use site::{Site, mosquitto};

#[path = "sample_bundle.rs"]
mod sample_bundle;
#[path = "faults/site.rs"]
mod site;

const IMAGES: usize = 200;

#[test]
fn the_broker_is_away() {
    if mosquitto().is_none() {
        return;
    }
    let long = std::env::var_os("SCANSIDE_LONG").is_some();
    let away = Duration::from_secs(if long { 30 } else { 5 });
    let mut site = Site::new("", "");
    (0..IMAGES / 2).for_each(|number| site.drop_image(number));
    site.wait_for_results(IMAGES / 8);
    site.broker.signal("-TERM");
    site.broker.0.wait().unwrap();
    (IMAGES / 2..IMAGES).for_each(|number| site.drop_image(number));
    sleep(away);
    site.restart_broker();
    site.settle(IMAGES);
}

#[test]
fn the_broker_hangs_and_is_killed() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "");
    // A stream, so that publishes are under way at every moment.
    for number in 0..IMAGES {
        site.drop_image(number);
        if number == IMAGES / 4 {
            site.wait_for_results(IMAGES / 8);
            site.broker.signal("-STOP");
        }
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_secs(3));
    site.broker.signal("-KILL");
    site.broker.0.wait().unwrap();
    site.restart_broker();
    site.settle(IMAGES);
}

#[test]
fn the_daemon_is_killed() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "");
    let mut dropped = 0;
    for kill in 1..=5 {
        let until = IMAGES * kill / 5;
        while dropped < until {
            site.drop_image(dropped);
            dropped += 1;
        }
        // In the middle of the batch, each time elsewhere.
        site.wait_for_results(until - IMAGES / 5 + kill * 5);
        site.daemon.as_mut().unwrap().kill();
        site.start_daemon();
    }
    site.settle(IMAGES);
}

#[test]
fn results_above_the_brokers_limit_are_split() {
    if mosquitto().is_none() {
        return;
    }
    // The masks of these images take about 1300 bytes, the rest of a result 900.
    let site = Site::new("max_packet_size 1500", "");
    (0..20).for_each(|number| site.drop_striped_image(number));
    site.wait_for_results(20);
    for line in site.lines.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        assert!(report["masks"]["parts"].as_u64() >= Some(1), "{line}");
    }
    site.settle(20);
}
