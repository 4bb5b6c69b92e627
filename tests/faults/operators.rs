//! The questions of operators, with the command or the endpoint that answers each.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use phantom::Heart;
use phantom::dicom::Ids;
use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::dcmtk;
use crate::harness::http;
use crate::harness::images;
use crate::harness::process::{Process, free_port, wait_for};
use crate::harness::site::{Site, mosquitto};

/// An independent subscriber to one topic, which exits after so many messages.
struct Subscription(Process);

impl Subscription {
    fn start(port: u16, topic: &str, count: usize) -> Self {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &port.to_string(), "-V", "5", "-q", "1", "-W", "100"]);
        command.args(["-C", &count.to_string(), "-t", topic]);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        // The subscription has to exist before the first message.
        std::thread::sleep(std::time::Duration::from_millis(500));
        Self(Process(child))
    }

    fn messages(mut self) -> Vec<Value> {
        let mut text = String::new();
        let mut output = self.0.0.stdout.take().unwrap();
        output.read_to_string(&mut text).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Numbers of the jobs that `ledger find` lists.
fn find_jobs(daemon: &Daemon, word: &str) -> BTreeSet<u64> {
    let (_, text) = daemon.cli(&["ledger", "find", word, "--json"]);
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{text}")))
        .map(|history| history["job"].as_u64().unwrap())
        .collect()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn an_image_is_found_by_digest_result_and_uid_with_its_sender() {
    if !dcmtk::is_installed() {
        return;
    }
    let (dicom_port, http_port) = (free_port(), free_port());
    let sections = dcmtk::config_section(dicom_port) + &http::config_section(http_port);
    let mut site = Site::new("", &sections);
    // The event about the new state directory is published before the subscription.
    site.daemon.wait_for_log("ready");
    site.daemon.wait_until_published();
    let events = Subscription::start(site.port(), "scanside/v1/box-1/event", 1);
    // The image of job 1 comes from a scanner.
    let phantom = Heart::new(7).slice_sized(1, 3, 0.0, 256);
    let ids = Ids::new(&phantom, 1, 1);
    let file = site.daemon.path().join("object.dcm");
    phantom::dicom::write(&file, &phantom, &ids).unwrap();
    assert!(dcmtk::storescu(dicom_port, &[file], &[]));
    site.wait_for_results(1);
    let result: Value = serde_json::from_str(&site.payloads.lock().unwrap()[0]).unwrap();
    assert_eq!(result["job"], 1, "{result}");
    let posted = http::post(http_port, &images::png(3)).unwrap().1;
    assert_eq!(posted["job"], 2);
    site.wait_for_results(2);
    site.daemon.drop_garbage(1);
    let event = &events.messages()[0];
    assert_eq!(
        (&event["event"], &event["job"]),
        (&"quarantined".into(), &3.into())
    );

    let image = FirstImage {
        result: &result,
        ids: &ids,
    };
    let find_all = |daemon: &Daemon| {
        image.is_found(daemon);
        for (word, job) in [(&posted["sha256"], 2), (&event["job_id"], 3)] {
            assert_eq!(find_jobs(daemon, text(word)), BTreeSet::from([job]));
        }
        assert_listed(daemon);
    };
    find_all(&site.daemon);
    for part in ["CT1 at 127.0.0.1", "127.0.0.1"] {
        assert!(
            site.daemon.n_log_lines(&["image accepted", part]) >= 1,
            "{}",
            site.daemon.log()
        );
    }
    site.daemon.stop();
    find_all(&site.daemon);
    site.daemon.start();
    for line in site.payloads.lock().unwrap().iter() {
        assert!(
            !line.contains("CT1") && !line.contains("127.0.0.1"),
            "{line}"
        );
    }
    site.assert_published(2, 1);
}

/// The image of job 1, which a scanner sent.
struct FirstImage<'a> {
    result: &'a Value,
    ids: &'a Ids,
}

impl FirstImage<'_> {
    fn is_found(&self, daemon: &Daemon) {
        let digest = text(&self.result["image"]["sha256"]);
        let hashed = text(&self.result["image"]["identifiers"]["sop_instance_uid"]);
        let job_id = text(&self.result["job_id"]);
        let uid = &self.ids.sop_instance_uid;
        for word in [digest, &digest[..8], job_id, hashed, uid, "1"] {
            assert_eq!(find_jobs(daemon, word), BTreeSet::from([1]), "{word}");
        }
        assert!(find_jobs(daemon, &"0".repeat(64)).is_empty());
        let (code, words) = daemon.cli(&["ledger", "find", uid]);
        let seq = &self.result["seq"];
        for part in [
            "job 1 from scanner: published",
            "\nsent by CT1 at 127.0.0.1\n",
            &format!("message result/scanner: seq {seq}, part 0"),
            &format!("hashed: {hashed}"),
        ] {
            assert!(code == 0 && words.contains(part), "{part}: {words}");
        }
        let (code, words) = daemon.cli(&["ledger", "find", "image-7"]);
        assert!(code == 1 && words.contains("SOP Instance UID"), "{words}");
    }
}

/// `ledger list` has three jobs, of which two are published and one is in quarantine.
fn assert_listed(daemon: &Daemon) {
    let (_, all) = daemon.cli(&["ledger", "list"]);
    let begins: Vec<&str> = all.lines().map(|line| &line[..5]).collect();
    assert_eq!(begins, ["job 3", "job 2", "job 1"], "{all}");
    assert!(all.contains("  http  127.0.0.1  published, seq "), "{all}");
    let listed = |arguments: &[&str]| {
        let (code, text) = daemon.cli(&[&["ledger", "list", "--json"], arguments].concat());
        assert_eq!(code, 0, "{text}");
        text.lines().count()
    };
    assert_eq!(listed(&["--state", "quarantined", "--source", "inbox"]), 1);
    assert_eq!(listed(&["--state", "published"]), 2);
    assert_eq!(listed(&["--since", "2020-01-01", "--limit", "2"]), 2);
    assert_eq!(listed(&["--since", "2999-01-01"]), 0);
}

/// The PACS is away, and later it refuses.
#[test]
fn waiting_segmentations_are_counted_reported_listed_and_retried() {
    if mosquitto().is_none() {
        return;
    }
    let (http_port, full, pacs) = (free_port(), free_port(), free_port());
    let sections = format!(
        "{}\n[[dicom]]\nname = \"full\"\nport = {full}\nobject_max_bytes = 100\n\
         [seg]\nquiet_s = 1\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {pacs}\n\
         called_ae_title = \"SCANSIDE\"\nretry_min_ms = 10\nretry_max_ms = 300\nattempts_max = 2",
        http::config_section(http_port)
    );
    let mut site = Site::new("", &sections);
    let folder = tempfile::tempdir().unwrap();
    for file in dcmtk::write_series(folder.path(), 3) {
        site.daemon.drop_file(&file);
    }
    site.daemon.wait_for_log("segmentations cannot be sent");
    report_waiting(&site, http_port);

    // A PACS that has no room for any object.
    site.daemon.stop();
    site.daemon
        .replace_in_config(&format!("port = {pacs}"), &format!("port = {full}"));
    site.daemon.start();
    site.daemon.wait_for_log("segmentation refused");
    wait_for("the gauge", || {
        segmentation_metric(http_port, "refused") == Some(1.0)
    });
    retry_refused(&site.daemon);
    site.daemon.stop();
    // Without a daemon the command works too.
    let (code, words) = site.daemon.cli(&["segmentations", "retry", "--all"]);
    assert_eq!(code, 0, "{words}");
    let (_, words) = site.daemon.cli(&["segmentations", "list"]);
    assert!(words.contains("waits: not tried yet"), "{words}");
    site.daemon.start();
    site.assert_published(3, 0);
}

fn segmentation_metric(http_port: u16, name: &str) -> Option<f64> {
    let page = http::get(http_port, "/metrics").unwrap().1;
    let start = format!("scansided_segmentations_{name} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&start));
    value.map(|value| value.parse().unwrap())
}

/// A segmentation that waits for the PACS shows in metrics, readiness, state and list.
fn report_waiting(site: &Site, http_port: u16) {
    let metric = |name: &str| segmentation_metric(http_port, name);
    wait_for("the gauges", || metric("waiting") == Some(1.0));
    assert_eq!(metric("refused"), Some(0.0));
    wait_for("an age", || {
        metric("oldest_waiting_age_seconds") >= Some(1.0)
    });
    // The daemon reports a PACS that is away for longer, and accepts images all the same.
    let ready = || http::get(http_port, "/readyz").unwrap();
    wait_for("the reason", || ready().1.contains("segmentations_waiting"));
    let (status, words) = ready();
    assert!(
        status == 200 && words.contains("1 wait for SCANSIDE at 127.0.0.1:"),
        "{words}"
    );
    wait_for("the state", || {
        let state = site.retained("state");
        state["reasons"] == serde_json::json!(["segmentations_waiting"])
            && state["state"] == "degraded"
    });
    let (_, words) = site.daemon.cli(&["segmentations", "list"]);
    assert!(
        words.starts_with("series ") && words.contains("waits: since 2"),
        "{words}"
    );
}

fn retry_refused(daemon: &Daemon) {
    let (_, words) = daemon.cli(&["segmentations", "list"]);
    assert!(
        words.contains("refused: SCANSIDE answered A700H after 2 attempts"),
        "{words}"
    );
    let series = words.split_whitespace().nth(1).unwrap().to_owned();
    let (code, words) = daemon.cli(&["segmentations", "retry", &series, "unknown"]);
    assert!(
        code == 1 && words.contains(&format!("{series} is tried again")),
        "{words}"
    );
    assert!(words.contains("series unknown is not here"), "{words}");
    wait_for("another try", || {
        daemon.n_log_lines(&["segmentation refused"]) == 2
    });
}

#[test]
fn readyz_says_since_when_the_broker_is_there_or_away() {
    if mosquitto().is_none() {
        return;
    }
    let http_port = free_port();
    let mut site = Site::new("", &http::config_section(http_port));
    site.daemon.wait_for_log("connected to the broker");
    let mqtt = || {
        let (status, text) = http::get(http_port, "/readyz").unwrap();
        assert_eq!(status, 200, "a broker that is away holds up nothing");
        let ready: Value = serde_json::from_str(&text).unwrap();
        self::text(&ready["mqtt"]).to_owned()
    };
    let connected = mqtt();
    assert!(connected.starts_with("connected since 20"), "{connected}");
    site.broker.kill();
    wait_for("an outage", || mqtt().starts_with("away since 20"));
    wait_for("its reason", || mqtt().to_lowercase().contains("refused"));
    let since = mqtt()[..35].to_owned();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(mqtt()[..35], since, "each try is the same outage");
    site.restart_broker();
    wait_for("a connection", || mqtt().starts_with("connected since"));
    assert_ne!(mqtt(), connected);
    site.assert_published(0, 0);
}

#[test]
fn a_new_state_directory_and_one_of_another_node_are_reported() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "");
    let new = [
        "not the state directory of before",
        "seq begins at 1",
        "restore it",
    ];
    site.daemon.wait_for_log("ready");
    assert_eq!(site.daemon.n_log_lines(&new), 1, "{}", site.daemon.log());
    site.daemon.drop_image(1);
    site.wait_for_results(1);
    let info = site.retained("info");
    let made = info["state_directory"]["created_at"].clone();
    assert!(text(&made).starts_with("20"), "{info}");
    site.daemon.kill();
    site.daemon.start();
    site.daemon.wait_for_log("ready");
    assert_eq!(site.daemon.n_log_lines(&new), 1, "once");
    site.daemon.wait_until_published();
    site.daemon.stop();

    site.daemon.replace_in_config("\"box-1\"", "\"box-2\"");
    let (_, words) = site.daemon.cli(&["check"]);
    assert!(words.contains("it is that of node box-1"), "{words}");
    let events = Subscription::start(site.port(), "scanside/v1/box-2/event", 1);
    let infos = Subscription::start(site.port(), "scanside/v1/box-2/info", 1);
    site.daemon.start();
    let event = &events.messages()[0];
    assert_eq!(
        (&event["event"], &event["node_before"]),
        (&"state_renamed".into(), &"box-1".into())
    );
    assert_eq!(event["seq"], 3, "after the new directory and the image");
    let info = &infos.messages()[0];
    assert_eq!(info["state_directory"]["node_before"], "box-1", "{info}");
    assert_eq!(info["state_directory"]["created_at"], made);
    assert_eq!(site.daemon.n_log_lines(&["was that of node box-1"]), 1);
    site.daemon.wait_until_published();
    site.daemon.stop();

    // The outbox is lost, and the rest of the state directory is there.
    fs::remove_file(site.daemon.path().join("state/outbox.redb")).unwrap();
    let (_, words) = site.daemon.cli(&["check"]);
    assert!(words.contains("has no outbox yet"), "{words}");
    let events = Subscription::start(site.port(), "scanside/v1/box-2/event", 1);
    site.daemon.start();
    let event = &events.messages()[0];
    assert_eq!(
        (&event["event"], &event["seq"]),
        (&"state_created".into(), &1.into())
    );
    assert!(
        text(&event["words"]).contains("an earlier one left accepted, identifiers.key"),
        "{event}"
    );
    site.daemon.wait_until_published();
    site.daemon.stop();
}
