//! The daemon's promise against a real mosquitto: whatever dies, every accepted image ends published,
//! and an independent subscriber has seen each result at least once with one job id.
//!
//! SCANSIDE_LONG=1 runs the long versions (`faults/README.md`). Without mosquitto the tests say SKIPPED;
//! with SCANSIDE_REQUIRE_PEERS they fail.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail by panic and say what they skip"
)]

use std::os::unix::net::UnixDatagram;
use std::thread::sleep;
use std::time::Duration;

use script::Answer;
use serde_json::Value;
use site::{Site, mosquitto};
use station::{PATIENCE, Station, free_port, wait_for};

#[path = "faults/aborts.rs"]
mod aborts;
#[path = "faults/bad_models.rs"]
mod bad_models;
#[path = "faults/brokers.rs"]
mod brokers;
#[path = "faults/certificates.rs"]
mod certificates;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/cstore.rs"]
mod cstore;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/full.rs"]
mod full;
#[path = "glibc.rs"]
mod glibc;
#[path = "faults/http.rs"]
mod http;
#[path = "faults/link.rs"]
mod link;
#[path = "faults/models.rs"]
mod models;
#[path = "faults/no_images.rs"]
mod no_images;
#[path = "faults/operators.rs"]
mod operators;
#[path = "faults/outage.rs"]
mod outage;
#[path = "faults/power.rs"]
mod power;
#[path = "faults/preload.rs"]
mod preload;
#[path = "faults/privacy.rs"]
mod privacy;
#[path = "faults/process.rs"]
mod process;
#[path = "faults/quarantine.rs"]
mod quarantine;
#[path = "faults/random.rs"]
mod random;
#[path = "faults/replay.rs"]
mod replay;
#[path = "faults/requests.rs"]
mod requests;
#[path = "faults/rights.rs"]
mod rights;
#[path = "faults/routes.rs"]
mod routes;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "sample_bundle.rs"]
mod sample_bundle;
#[path = "faults/script.rs"]
mod script;
#[path = "faults/seg.rs"]
mod seg;
#[path = "faults/sender.rs"]
mod sender;
#[path = "faults/signer.rs"]
mod signer;
#[path = "faults/site.rs"]
mod site;
#[path = "faults/soak.rs"]
mod soak;
#[path = "faults/station.rs"]
mod station;
#[path = "faults/tls.rs"]
mod tls;

const IMAGES: usize = 200;

/// Whether the faults are the long ones: more of them, for longer.
fn long() -> bool {
    std::env::var_os("SCANSIDE_LONG").is_some()
}

#[test]
fn the_broker_is_away() {
    if mosquitto().is_none() {
        return;
    }
    an_outage_amid_a_stream(Site::new("", ""));
}

fn an_outage_amid_a_stream(mut site: Site) {
    let away = Duration::from_secs(if long() { 30 } else { 5 });
    (0..IMAGES / 2).for_each(|number| site.station.drop_image(number));
    site.wait_for_results(IMAGES / 8);
    site.broker.signal("-TERM");
    site.broker.0.wait().unwrap();
    (IMAGES / 2..IMAGES).for_each(|number| site.station.drop_image(number));
    sleep(away);
    site.restart_broker();
    site.settle(IMAGES, 0);
}

#[test]
fn the_broker_hangs_and_is_killed() {
    if mosquitto().is_none() {
        return;
    }
    a_kill_amid_a_stream(Site::new("log_type all", ""));
}

/// The broker writes all into its log.
fn a_kill_amid_a_stream(mut site: Site) {
    let rounds = if long() { 20 } else { 1 };
    for round in 0..rounds {
        // A stream, so that publishes are under way at every moment.
        for number in 0..IMAGES {
            site.station.drop_image(IMAGES * round + number);
            if number == IMAGES / 4 {
                site.wait_for_results(IMAGES * round + IMAGES / 8);
                site.broker.signal("-STOP");
            }
            sleep(Duration::from_millis(10));
        }
        sleep(Duration::from_secs(3));
        site.broker.signal("-KILL");
        site.broker.0.wait().unwrap();
        site.restart_broker();
    }
    let lost = site.ask_again(IMAGES * rounds);
    eprintln!("{rounds} kills of the broker, which lost {lost} acknowledged results");
    site.settle(IMAGES * rounds, 0);
}

#[test]
fn the_daemon_is_killed() {
    if mosquitto().is_none() {
        return;
    }
    kills_of_the_daemon(Site::new("", ""));
}

fn kills_of_the_daemon(mut site: Site) {
    let (kills, batch) = if long() { (500, 8) } else { (5, 40) };
    for kill in 0..kills {
        let first = batch * kill;
        (first..first + batch).for_each(|number| site.station.drop_image(number));
        // In the middle of the batch, each time elsewhere.
        site.wait_for_results(first + 1 + kill * 7 % (batch - 2));
        site.station.kill_daemon();
        site.station.start_daemon();
    }
    site.settle(batch * kills, 0);
    eprintln!("{kills} kills");
}

#[test]
fn a_daemon_that_is_stopped_while_it_starts_ends_cleanly() {
    let mut station = Station::new(free_port(), "");
    station.start_daemon();
    station.wait_for_word("scansided");
    station.stop_daemon();
}

#[test]
fn results_above_the_brokers_limit_are_split() {
    if mosquitto().is_none() {
        return;
    }
    // The masks of these images take about 1300 bytes, the rest of a result 900.
    let site = Site::new("max_packet_size 1500", "");
    (0..20).for_each(|number| site.station.drop_striped_image(number, 160));
    site.wait_for_results(20);
    for line in site.lines.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        assert!(report["masks"]["parts"].as_u64() >= Some(1), "{line}");
    }
    site.settle(20, 0);
}

/// The parts of a result have to fit as well, and they are only looked at before the first goes out.
#[test]
fn parts_above_the_brokers_limit_are_split_again() {
    if mosquitto().is_none() {
        return;
    }
    // Masks of about 2600 bytes: more than one message here, and more than one part there.
    let site = Site::new("max_packet_size 1500", "inline_max_bytes = 2000");
    (0..10).for_each(|number| site.station.drop_striped_image(number, 320));
    site.wait_for_results(10);
    for line in site.lines.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        assert!(report["masks"]["bytes"].as_u64() > Some(1500), "{line}");
    }
    site.settle(10, 0);
}

/// More refused events than the window holds, at the head of the outbox.
#[test]
fn a_topic_that_the_broker_refuses_blocks_no_other() {
    const REFUSED: usize = 40;
    if mosquitto().is_none() {
        return;
    }
    let rules = tempfile::tempdir().unwrap();
    let file = rules.path().join("acl");
    let results = "topic read #\ntopic write scanside/v1/+/result/#\n";
    std::fs::write(&file, results).unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(rules.path(), readable).unwrap();
    let site = Site::new(&format!("acl_file {}", file.display()), "");
    (0..REFUSED).for_each(|number| site.station.drop_garbage(number));
    wait_for("the quarantine", PATIENCE, || {
        site.station.said(&["image quarantined"]) == REFUSED
    });
    (0..20).for_each(|number| site.station.drop_image(number));
    site.wait_for_results(20);
    let refusals = ["the broker refuses this topic", "not authorized (0x87)"];
    for topic in ["box-1/availability", "box-1/event"] {
        let words = [refusals[0], refusals[1], topic];
        assert_eq!(site.station.said(&words), 1, "{}", site.station.log());
    }
    assert_eq!(site.station.said(&["connected to the broker"]), 1);

    // Allowed while the connection stands: the events follow by themselves.
    let mut events = site.wait_for_events(REFUSED);
    std::fs::write(&file, "topic readwrite #\n").unwrap();
    site.broker.signal("-HUP");
    assert!(events.0.wait().unwrap().success(), "every event arrives");
    assert_eq!(site.station.said(&["connected to the broker"]), 1);
    site.settle(20, REFUSED);
}

#[test]
fn a_silent_broker_makes_no_message_a_culprit() {
    let port = script::start(|connection, topic| {
        if connection <= 2 && topic.contains("/result/") {
            Answer::Nothing
        } else {
            Answer::Code(0)
        }
    });
    let mut station = Station::new(port, "strikes_max = 1");
    station.start_daemon();
    station.drop_image(0);
    let ledger = station.close();
    assert!(
        ledger.contains("published 1 + pending 0 + quarantined 0"),
        "{ledger}\n{}",
        station.log()
    );
    assert_eq!(station.said(&["connected to the broker"]), 3);
}

#[test]
fn every_outage_is_said_and_so_is_that_nobody_listens() {
    const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    let port = script::start(|connection, topic| {
        if connection <= 2 && topic.contains("/result/") {
            Answer::Close
        } else {
            Answer::Code(NO_MATCHING_SUBSCRIBERS)
        }
    });
    let mut station = Station::new(port, "");
    station.start_daemon();
    (0..3).for_each(|number| station.drop_image(number));
    let ledger = station.close();
    assert!(ledger.contains("published 3 + pending 0"), "{ledger}");
    // Twice the same words, with a connection in between.
    let outages = station.said(&["no connection to the broker", "results are kept"]);
    assert_eq!(outages, 2, "{}", station.log());
    let unheard = station.said(&["nobody subscribes", "box-1/result/inbox"]);
    assert_eq!(unheard, 1, "{}", station.log());
}

/// What systemd reads at NOTIFY_SOCKET until `enough`, or nothing comes for two seconds.
fn heard(socket: &UnixDatagram, enough: impl Fn(&str) -> bool) -> Vec<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(n) = socket.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
        if all.last().is_some_and(|last| enough(last)) {
            break;
        }
    }
    all
}

#[test]
fn systemd_hears_ready_alive_and_stopping() {
    let mut station = Station::new(free_port(), "");
    let path = station.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    station.start_daemon_in(&[
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "300000"),
    ]);
    assert_eq!(heard(&socket, |word| word == "READY=1"), ["READY=1"]);
    for _ in 0..3 {
        assert_eq!(heard(&socket, |_| true), ["WATCHDOG=1"]);
    }
    // Frozen, it says nothing, and systemd would start it again.
    station.signal_daemon("-STOP");
    socket.set_nonblocking(true).unwrap();
    heard(&socket, |_| false);
    socket.set_nonblocking(false).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    assert_eq!(heard(&socket, |_| false), [""; 0]);
    station.signal_daemon("-CONT");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(heard(&socket, |_| true), ["WATCHDOG=1"]);
    station.signal_daemon("-HUP");
    let reload = heard(&socket, |word| word == "READY=1");
    let begins = |word: &&String| word.starts_with("RELOADING=1\nMONOTONIC_USEC=");
    assert_eq!(reload.iter().filter(begins).count(), 1, "{reload:?}");
    station.stop_daemon();
    let last = heard(&socket, |word| word == "STOPPING=1");
    assert_eq!(last.last().map(String::as_str), Some("STOPPING=1"));
}
