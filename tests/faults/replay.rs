//! What a broker dropped for a subscriber comes again, as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, wait_for};

const IMAGES: usize = 120;
const QUEUED: usize = 20;
const RESULTS: &str = "scanside/v1/box-1/result/#";

/// A session that outlives its connections, apart from the site's own.
struct Subscriber {
    port: u16,
    topic: &'static str,
}

impl Subscriber {
    /// Subscribes and leaves.
    fn enrol(site: &Site, topic: &'static str) -> Self {
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

    /// What comes within this time.
    fn hear(&self, seconds: u64) -> Vec<Heard> {
        let output = self
            .command()
            .args(["-W", &seconds.to_string(), "-F", "%P|%t|%p"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let split = |line: &str| {
            let mut fields = line.splitn(3, '|');
            Heard {
                replayed: fields.next().unwrap().contains("replayed:true"),
                topic: fields.next().unwrap().to_owned(),
                payload: fields.next().unwrap().to_owned(),
            }
        };
        text.lines().map(split).collect()
    }
}

struct Heard {
    /// By its user property.
    replayed: bool,
    topic: String,
    payload: String,
}

fn seq(payload: &str) -> u64 {
    let report: Value = serde_json::from_str(payload).unwrap();
    report["seq"].as_u64().unwrap()
}

/// What such a payload is when it comes again.
pub(crate) fn again(original: &str) -> String {
    original.replace("\"replay\":false", "\"replay\":true")
}

/// Payloads of the independent subscriber by number: what each result was when it was new.
fn originals(site: &Site) -> BTreeMap<u64, String> {
    let lines = site.lines.lock().unwrap();
    lines.iter().map(|line| (seq(line), line.clone())).collect()
}

/// A site whose broker dropped results of a subscriber that was away: the numbers that it has.
fn missing_results() -> (Site, Subscriber, BTreeSet<u64>) {
    // The site's own subscriber reads all the time and has nothing queued.
    let limits = format!("max_inflight_messages 20\nmax_queued_messages {QUEUED}");
    let site = Site::with_broker(&limits, "");
    let away = Subscriber::enrol(&site, RESULTS);
    for number in 0..IMAGES {
        site.station.drop_image(number);
    }
    site.wait_for_results(IMAGES);
    site.station.wait_until_published();
    let heard = away.hear(2);
    let numbers: BTreeSet<u64> = heard.iter().map(|heard| seq(&heard.payload)).collect();
    assert!(heard.iter().all(|heard| !heard.replayed));
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
    let (site, away, had) = missing_results();
    let originals = originals(&site);
    let missing: BTreeSet<u64> = originals
        .keys()
        .copied()
        .filter(|s| !had.contains(s))
        .collect();
    let (from, to) = (*missing.first().unwrap(), *missing.last().unwrap());
    let heard = std::thread::scope(|scope| {
        let hearing = scope.spawn(|| away.hear(8));
        std::thread::sleep(std::time::Duration::from_secs(1));
        let (code, text) = site.station.ask(&[
            "replay",
            "--from-seq",
            &from.to_string(),
            "--to-seq",
            &to.to_string(),
        ]);
        assert_eq!(code, 0, "{text}");
        // With the event about the new state directory.
        let last = IMAGES + 1;
        let range = format!("come again, seq {from} to {to}; seq 1 to {last} are kept");
        assert!(text.contains(&range), "{text}");
        hearing.join().unwrap()
    });
    for Heard {
        payload, replayed, ..
    } in &heard
    {
        assert!(replayed, "{payload}");
        assert_eq!(*payload, again(&originals[&seq(payload)]), "as it was");
    }
    let came: BTreeSet<u64> = heard.iter().map(|heard| seq(&heard.payload)).collect();
    assert!(missing.is_subset(&came), "{missing:?} of {came:?}");
    eprintln!(
        "{IMAGES} results, {} heard at first, {} missing, {} replayed",
        had.len(),
        missing.len(),
        heard.len()
    );
    let (code, text) = site.station.ask(&["replay", "--from-seq", "9999"]);
    assert_eq!(code, 1);
    assert!(text.contains("nothing of this is kept; seq 1 to"), "{text}");
    site.settle(IMAGES, 0);
}

/// Without a daemon, then with one that is killed again and again.
#[test]
fn a_replay_goes_on_after_kills() {
    if mosquitto().is_none() {
        return;
    }
    // Masks in parts, which come again too.
    let mut site = Site::new(
        "",
        "window_max_messages = 2
inline_max_bytes = 1024",
    );
    (0..IMAGES).for_each(|number| site.station.drop_striped_image(number, 160));
    site.wait_for_results(IMAGES);
    site.station.wait_until_published();
    site.station.stop_daemon();
    let originals = originals(&site);
    site.lines.lock().unwrap().clear();
    let masks = Subscriber::enrol(&site, "scanside/v1/box-1/mask/#");

    let (code, text) = site.station.ask(&["replay", "--from-seq", "1"]);
    assert_eq!(code, 0, "{text}");
    let promised = format!("{IMAGES} results in ");
    assert!(text.contains(&promised), "{text}");
    for kill in 1..=4 {
        site.station.start_daemon();
        // In the middle, each time elsewhere.
        wait_for("replayed results", PATIENCE, || {
            site.lines.lock().unwrap().len() > kill * IMAGES / 8
        });
        site.station.kill_daemon();
    }
    site.station.start_daemon();
    site.wait_for_results(IMAGES);
    site.station.wait_for_word("replay finished");
    let copies = site.lines.lock().unwrap().len();
    for line in site.lines.lock().unwrap().iter() {
        assert_eq!(*line, again(&originals[&seq(line)]), "as it was");
    }
    let heard = masks.hear(2);
    assert!(heard.iter().all(|heard| heard.replayed));
    let parts: BTreeSet<String> = heard.into_iter().map(|heard| heard.topic).collect();
    let expected: u64 = originals
        .values()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|report| report["masks"]["parts"].as_u64().unwrap())
        .sum();
    assert_eq!(parts.len() as u64, expected);
    eprintln!("{IMAGES} results, {copies} copies and {expected} masks in a replay with 4 kills");
    let (code, books) = site.station.ask(&["ledger", "verify"]);
    assert_eq!(code, 0, "{books}");
    assert!(
        books.contains(&format!("published {IMAGES} + pending 0")),
        "{books}"
    );
    // A replay that ended does not begin anew.
    site.station.stop_daemon();
    site.lines.lock().unwrap().clear();
    site.station.start_daemon();
    site.station.wait_for_word("connected to the broker");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(site.lines.lock().unwrap().len(), 0);
    site.station.stop_daemon();
}
