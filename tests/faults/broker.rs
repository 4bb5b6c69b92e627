//! Mosquitto away, hung, killed, with limits and with rules; a scripted broker that is silent or breaks connections.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::process::wait_for;
use crate::harness::scripted_broker::{self, Reply};
use crate::harness::site::{Site, mosquitto};

const IMAGES: usize = 200;

#[test]
fn the_broker_is_away() {
    if mosquitto().is_none() {
        return;
    }
    an_outage_amid_a_stream(Site::new("", ""));
}

pub(crate) fn an_outage_amid_a_stream(mut site: Site) {
    let away = Duration::from_secs(if crate::long() { 30 } else { 5 });
    (0..IMAGES / 2).for_each(|number| site.daemon.drop_image(number));
    site.wait_for_results(IMAGES / 8);
    site.broker.signal("-TERM");
    site.broker.0.wait().unwrap();
    (IMAGES / 2..IMAGES).for_each(|number| site.daemon.drop_image(number));
    sleep(away);
    site.restart_broker();
    site.assert_published(IMAGES, 0);
}

#[test]
fn the_broker_hangs_and_is_killed() {
    if mosquitto().is_none() {
        return;
    }
    a_kill_amid_a_stream(Site::new("log_type all", ""));
}

/// The broker logs every packet (`log_type all`).
pub(crate) fn a_kill_amid_a_stream(mut site: Site) {
    let rounds = if crate::long() { 20 } else { 1 };
    for round in 0..rounds {
        // A stream of images, so that publishes are in flight at every moment.
        for number in 0..IMAGES {
            site.daemon.drop_image(IMAGES * round + number);
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
    let lost = site.replay_lost(IMAGES * rounds);
    eprintln!("{rounds} kills of the broker, which lost {lost} acknowledged results");
    site.assert_published(IMAGES * rounds, 0);
}

#[test]
fn the_daemon_is_killed() {
    if mosquitto().is_none() {
        return;
    }
    kills_of_the_daemon(Site::new("", ""));
}

pub(crate) fn kills_of_the_daemon(mut site: Site) {
    let (kills, batch) = if crate::long() { (500, 8) } else { (5, 40) };
    for kill in 0..kills {
        let first = batch * kill;
        (first..first + batch).for_each(|number| site.daemon.drop_image(number));
        // Each kill comes at another place in the batch.
        site.wait_for_results(first + 1 + kill * 7 % (batch - 2));
        site.daemon.kill();
        site.daemon.start();
    }
    site.assert_published(batch * kills, 0);
    eprintln!("{kills} kills");
}

#[test]
fn results_above_the_brokers_limit_are_split() {
    if mosquitto().is_none() {
        return;
    }
    // The masks of these images take about 1300 bytes, the rest of a result 900.
    let site = Site::new("max_packet_size 1500", "");
    (0..20).for_each(|number| site.daemon.drop_striped_image(number, 160));
    site.wait_for_results(20);
    for line in site.payloads.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        assert!(report["masks"]["parts"].as_u64() >= Some(1), "{line}");
    }
    site.assert_published(20, 0);
}

/// The parts of a result have to fit as well; their sizes are checked before the first one is sent.
#[test]
fn parts_above_the_brokers_limit_are_split_again() {
    if mosquitto().is_none() {
        return;
    }
    // Masks of about 2600 bytes are above `inline_max_bytes`, and one part is above the limit of the broker.
    let site = Site::new("max_packet_size 1500", "inline_max_bytes = 2000");
    (0..10).for_each(|number| site.daemon.drop_striped_image(number, 320));
    site.wait_for_results(10);
    for line in site.payloads.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        assert!(report["masks"]["bytes"].as_u64() > Some(1500), "{line}");
    }
    site.assert_published(10, 0);
}

/// More events are refused than the window holds, and they are at the head of the outbox.
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
    (0..REFUSED).for_each(|number| site.daemon.drop_garbage(number));
    wait_for("the quarantine", || {
        site.daemon.n_log_lines(&["image quarantined"]) == REFUSED
    });
    (0..20).for_each(|number| site.daemon.drop_image(number));
    site.wait_for_results(20);
    let refusals = ["the broker refuses this topic", "not authorized (0x87)"];
    for topic in ["box-1/availability", "box-1/event"] {
        let words = [refusals[0], refusals[1], topic];
        assert_eq!(site.daemon.n_log_lines(&words), 1, "{}", site.daemon.log());
    }
    assert_eq!(site.daemon.n_log_lines(&["connected to the broker"]), 1);

    // The broker allows the topic while the connection stands, and the events follow by themselves.
    let mut events = site.start_event_subscriber(REFUSED);
    std::fs::write(&file, "topic readwrite #\n").unwrap();
    site.broker.signal("-HUP");
    assert!(events.0.wait().unwrap().success(), "every event arrives");
    assert_eq!(site.daemon.n_log_lines(&["connected to the broker"]), 1);
    site.assert_published(20, REFUSED);
}

#[test]
fn a_silent_broker_quarantines_no_message() {
    let port = scripted_broker::start(|connection, topic| {
        if connection <= 2 && topic.contains("/result/") {
            Reply::Nothing
        } else {
            Reply::Puback(0)
        }
    });
    let mut daemon = Daemon::new(port, "strikes_max = 1");
    daemon.start();
    daemon.drop_image(0);
    let ledger = daemon.drain();
    assert!(
        ledger.contains("published 1 + pending 0 + quarantined 0"),
        "{ledger}\n{}",
        daemon.log()
    );
    assert_eq!(daemon.n_log_lines(&["connected to the broker"]), 3);
}

#[test]
fn every_outage_is_logged_and_so_is_a_topic_without_subscribers() {
    const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    let port = scripted_broker::start(|connection, topic| {
        if connection <= 2 && topic.contains("/result/") {
            Reply::Close
        } else {
            Reply::Puback(NO_MATCHING_SUBSCRIBERS)
        }
    });
    let mut daemon = Daemon::new(port, "");
    daemon.start();
    (0..3).for_each(|number| daemon.drop_image(number));
    let ledger = daemon.drain();
    assert!(ledger.contains("published 3 + pending 0"), "{ledger}");
    // The same line appears twice, with a connection in between.
    let outages = daemon.n_log_lines(&["no connection to the broker", "results are kept"]);
    assert_eq!(outages, 2, "{}", daemon.log());
    let no_subscribers = daemon.n_log_lines(&["nobody subscribes", "box-1/result/inbox"]);
    assert_eq!(no_subscribers, 1, "{}", daemon.log());
}
