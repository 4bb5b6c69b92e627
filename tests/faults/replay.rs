//! A replay sends what a broker dropped for a subscriber again, unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::harness::process::wait_for;
use crate::harness::site::{Site, mosquitto};

const IMAGES: usize = 120;
const QUEUED: usize = 20;
const RESULTS: &str = "scanside/v1/box-1/result/#";

/// A subscriber with a persistent session, besides the site's own.
struct Subscriber {
    port: u16,
    topic: &'static str,
}

impl Subscriber {
    /// Subscribes and disconnects, so that the broker queues what follows.
    fn subscribe(site: &Site, topic: &'static str) -> Self {
        let this = Self {
            port: site.port(),
            topic,
        };
        let status = this.command().arg("-E").status().unwrap();
        assert!(status.success());
        this
    }

    fn command(&self) -> Command {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &self.port.to_string(), "-V", "5", "-q", "1"]);
        command.args(["-i", "ward-7", "-c", "-x", "3600", "-t", self.topic]);
        command
    }

    /// The messages that arrive within this time.
    fn receive(&self, seconds: u64) -> Vec<Message> {
        let output = self
            .command()
            .args(["-W", &seconds.to_string(), "-F", "%P|%t|%p"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let split = |line: &str| {
            let mut fields = line.splitn(3, '|');
            Message {
                replayed: fields.next().unwrap().contains("replayed:true"),
                topic: fields.next().unwrap().to_owned(),
                payload: fields.next().unwrap().to_owned(),
            }
        };
        text.lines().map(split).collect()
    }
}

struct Message {
    /// The user property `replayed`.
    replayed: bool,
    topic: String,
    payload: String,
}

fn seq(payload: &str) -> u64 {
    let report: Value = serde_json::from_str(payload).unwrap();
    report["seq"].as_u64().unwrap()
}

/// A payload as a replay sends it.
pub(crate) fn as_replayed(original: &str) -> String {
    original.replace("\"replay\":false", "\"replay\":true")
}

/// The payload of each result as it was first published, by sequence number.
fn originals(site: &Site) -> BTreeMap<u64, String> {
    let lines = site.payloads.lock().unwrap();
    lines.iter().map(|line| (seq(line), line.clone())).collect()
}

/// A site whose broker dropped results for an absent subscriber, and the sequence numbers that the subscriber received.
fn missing_results() -> (Site, Subscriber, BTreeSet<u64>) {
    // The site's own subscriber is connected all the time, so the limit does not affect it.
    let limits = format!("max_inflight_messages 20\nmax_queued_messages {QUEUED}");
    let site = Site::with_broker(&limits, "");
    let away = Subscriber::subscribe(&site, RESULTS);
    for number in 0..IMAGES {
        site.daemon.drop_image(number);
    }
    site.wait_for_results(IMAGES);
    site.daemon.wait_until_published();
    let messages = away.receive(2);
    let numbers: BTreeSet<u64> = messages
        .iter()
        .map(|message| seq(&message.payload))
        .collect();
    assert!(messages.iter().all(|messages| !messages.replayed));
    assert!(
        numbers.len() < IMAGES,
        "the broker dropped nothing: {numbers:?}"
    );
    (site, away, numbers)
}

#[test]
fn a_subscriber_gets_again_what_the_broker_dropped() {
    if mosquitto().is_none() {
        return;
    }
    let (site, away, received) = missing_results();
    let originals = originals(&site);
    let missing: BTreeSet<u64> = originals
        .keys()
        .copied()
        .filter(|s| !received.contains(s))
        .collect();
    let (from, to) = (*missing.first().unwrap(), *missing.last().unwrap());
    let messages = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| away.receive(8));
        std::thread::sleep(std::time::Duration::from_secs(1));
        let (code, text) = site.daemon.cli(&[
            "replay",
            "--from-seq",
            &from.to_string(),
            "--to-seq",
            &to.to_string(),
        ]);
        assert_eq!(code, 0, "{text}");
        // The event about the new state directory has a sequence number too.
        let last = IMAGES + 1;
        let range = format!("come again, seq {from} to {to}; seq 1 to {last} are kept");
        assert!(text.contains(&range), "{text}");
        receiving.join().unwrap()
    });
    for Message {
        payload, replayed, ..
    } in &messages
    {
        assert!(replayed, "{payload}");
        assert_eq!(
            *payload,
            as_replayed(&originals[&seq(payload)]),
            "as it was"
        );
    }
    let came: BTreeSet<u64> = messages
        .iter()
        .map(|message| seq(&message.payload))
        .collect();
    assert!(missing.is_subset(&came), "{missing:?} of {came:?}");
    eprintln!(
        "{IMAGES} results, {} messages at first, {} missing, {} replayed",
        received.len(),
        missing.len(),
        messages.len()
    );
    let (code, text) = site.daemon.cli(&["replay", "--from-seq", "9999"]);
    assert_eq!(code, 1);
    assert!(text.contains("nothing of this is kept; seq 1 to"), "{text}");
    site.assert_published(IMAGES, 0);
}

/// The replay is requested without a daemon, and the daemon is then killed again and again.
#[test]
fn a_replay_goes_on_after_kills() {
    if mosquitto().is_none() {
        return;
    }
    // The masks are published in parts, which are replayed too.
    let mut site = Site::new("", "window_max_messages = 2\ninline_max_bytes = 1024");
    (0..IMAGES).for_each(|number| site.daemon.drop_striped_image(number, 160));
    site.wait_for_results(IMAGES);
    site.daemon.wait_until_published();
    site.daemon.stop();
    let originals = originals(&site);
    site.payloads.lock().unwrap().clear();
    let masks = Subscriber::subscribe(&site, "scanside/v1/box-1/mask/#");

    let (code, text) = site.daemon.cli(&["replay", "--from-seq", "1"]);
    assert_eq!(code, 0, "{text}");
    let promised = format!("{IMAGES} results in ");
    assert!(text.contains(&promised), "{text}");
    for kill in 1..=4 {
        site.daemon.start();
        // Each kill comes later in the replay.
        wait_for("replayed results", || {
            site.payloads.lock().unwrap().len() > kill * IMAGES / 8
        });
        site.daemon.kill();
    }
    site.daemon.start();
    site.wait_for_results(IMAGES);
    site.daemon.wait_for_log("replay finished");
    let copies = site.payloads.lock().unwrap().len();
    for line in site.payloads.lock().unwrap().iter() {
        assert_eq!(*line, as_replayed(&originals[&seq(line)]), "as it was");
    }
    let messages = masks.receive(2);
    assert!(messages.iter().all(|message| message.replayed));
    let parts: BTreeSet<String> = messages.into_iter().map(|message| message.topic).collect();
    let expected: u64 = originals
        .values()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|report| report["masks"]["parts"].as_u64().unwrap())
        .sum();
    assert_eq!(parts.len() as u64, expected);
    eprintln!("{IMAGES} results, {copies} copies and {expected} masks in a replay with 4 kills");
    let (code, ledger) = site.daemon.cli(&["ledger", "verify"]);
    assert_eq!(code, 0, "{ledger}");
    assert!(
        ledger.contains(&format!("published {IMAGES} + pending 0")),
        "{ledger}"
    );
    // A replay that ended does not start again.
    site.daemon.stop();
    site.payloads.lock().unwrap().clear();
    site.daemon.start();
    site.daemon.wait_for_log("connected to the broker");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(site.payloads.lock().unwrap().len(), 0);
    site.daemon.stop();
}
