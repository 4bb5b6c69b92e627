//! What operators ask of a box, each question with the command or place that answers it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use phantom::Heart;
use phantom::dicom::Ids;
use serde_json::Value;

use crate::http;
use crate::sender;
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, Process, Station, free_port, png, wait_for};

/// An independent subscriber to one topic of a node, until so many messages came.
struct Hearing(Process);

impl Hearing {
    fn of(port: u16, topic: &str, count: usize) -> Self {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &port.to_string(), "-V", "5", "-q", "1", "-W", "100"]);
        command.args(["-C", &count.to_string(), "-t", topic]);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        // The subscription has to stand before what it waits for.
        std::thread::sleep(std::time::Duration::from_millis(500));
        Self(Process(child))
    }

    fn heard(mut self) -> Vec<Value> {
        let mut text = String::new();
        let mut output = self.0.0.stdout.take().unwrap();
        output.read_to_string(&mut text).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Numbers of the jobs that `ledger find` knows of this.
fn found(station: &Station, word: &str) -> BTreeSet<u64> {
    let (_, text) = station.ask(&["ledger", "find", word, "--json"]);
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{text}")))
        .map(|life| life["job"].as_u64().unwrap())
        .collect()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn an_image_is_found_by_digest_result_and_uid_with_its_sender() {
    if !sender::dcmtk() {
        return;
    }
    let (scp, door) = (free_port(), free_port());
    let sections = sender::section(scp) + &http::section(door);
    let mut site = Site::new("", &sections);
    // The event about the new state directory is out of the way.
    site.station.wait_for_word("ready");
    site.station.wait_until_published();
    let events = Hearing::of(site.port(), "scanside/v1/box-1/event", 1);
    // A scanner's, as the first job.
    let phantom = Heart::new(7).slice_sized(1, 3, 0.0, 256);
    let ids = Ids::new(&phantom, 1, 1);
    let file = site.station.path().join("object.dcm");
    phantom::dicom::write(&file, &phantom, &ids).unwrap();
    assert!(sender::deliver(scp, &[file], &[]));
    site.wait_for_results(1);
    let result: Value = serde_json::from_str(&site.lines.lock().unwrap()[0]).unwrap();
    assert_eq!(result["job"], 1, "{result}");
    let posted = http::post(door, &png(3)).unwrap().1;
    assert_eq!(posted["job"], 2);
    site.wait_for_results(2);
    site.station.drop_garbage(1);
    let event = &events.heard()[0];
    assert_eq!(
        (&event["event"], &event["job"]),
        (&"quarantined".into(), &3.into())
    );

    let hashed = text(&result["image"]["identifiers"]["sop_instance_uid"]).to_owned();
    let digest = text(&result["image"]["sha256"]).to_owned();
    let ask_all = |station: &Station| {
        for (word, job) in [
            (&*digest, 1),
            (&digest[..8], 1),
            (text(&result["job_id"]), 1),
            (&*hashed, 1),
            (&*ids.sop_instance_uid, 1),
            ("1", 1),
            (text(&posted["sha256"]), 2),
            (text(&event["job_id"]), 3),
        ] {
            assert_eq!(found(station, word), BTreeSet::from([job]), "{word}");
        }
        assert!(found(station, &"0".repeat(64)).is_empty());
        let (code, words) = station.ask(&["ledger", "find", &ids.sop_instance_uid]);
        let seq = &result["seq"];
        for part in [
            "job 1 from scanner: published",
            "\nsent by CT1 at 127.0.0.1\n",
            &format!("message result/scanner: seq {seq}, part 0"),
            &format!("hashed: {hashed}"),
        ] {
            assert!(code == 0 && words.contains(part), "{part}: {words}");
        }
        let (code, words) = station.ask(&["ledger", "find", "image-7"]);
        assert!(code == 1 && words.contains("SOP Instance UID"), "{words}");
        let (_, all) = station.ask(&["ledger", "list"]);
        let begins: Vec<&str> = all.lines().map(|line| &line[..5]).collect();
        assert_eq!(begins, ["job 3", "job 2", "job 1"], "{all}");
        assert!(all.contains("  http  127.0.0.1  published, seq "), "{all}");
        let listed = |arguments: &[&str]| {
            let (code, text) = station.ask(&[&["ledger", "list", "--json"], arguments].concat());
            assert_eq!(code, 0, "{text}");
            text.lines().count()
        };
        assert_eq!(listed(&["--state", "quarantined", "--source", "inbox"]), 1);
        assert_eq!(listed(&["--state", "published"]), 2);
        assert_eq!(listed(&["--since", "2020-01-01", "--limit", "2"]), 2);
        assert_eq!(listed(&["--since", "2999-01-01"]), 0);
    };
    ask_all(&site.station);
    for part in ["CT1 at 127.0.0.1", "127.0.0.1"] {
        assert!(
            site.station.said(&["image accepted", part]) >= 1,
            "{}",
            site.station.log()
        );
    }
    site.station.stop_daemon();
    ask_all(&site.station);
    site.station.start_daemon();
    for line in site.lines.lock().unwrap().iter() {
        assert!(
            !line.contains("CT1") && !line.contains("127.0.0.1"),
            "{line}"
        );
    }
    site.settle(2, 1);
}

/// The PACS is away, and later it refuses.
#[test]
fn segmentations_that_wait_are_counted_said_listed_and_tried_again() {
    if mosquitto().is_none() {
        return;
    }
    let (door, full, pacs) = (free_port(), free_port(), free_port());
    let sections = format!(
        "{}\n[[dicom]]\nname = \"full\"\nport = {full}\nobject_max_bytes = 100\n\
         [seg]\nquiet_s = 1\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {pacs}\n\
         called_ae_title = \"SCANSIDE\"\nretry_min_ms = 10\nretry_max_ms = 300\nattempts_max = 2",
        http::section(door)
    );
    let mut site = Site::new("", &sections);
    let folder = tempfile::tempdir().unwrap();
    for file in sender::one_series(folder.path(), 3) {
        site.station.drop_file(&file);
    }
    site.station.wait_for_word("segmentations cannot be sent");
    let metric = |name: &str| {
        let page = http::get(door, "/metrics").unwrap().1;
        let start = format!("scansided_segmentations_{name} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&start));
        value.map(|value| value.parse::<f64>().unwrap())
    };
    wait_for("the gauges", PATIENCE, || metric("waiting") == Some(1.0));
    assert_eq!(metric("refused"), Some(0.0));
    wait_for("an age", PATIENCE, || {
        metric("oldest_waiting_age_seconds") >= Some(1.0)
    });
    // Long enough to be no passing trouble; images are taken all the same.
    let ready = || http::get(door, "/readyz").unwrap();
    wait_for("the reason", PATIENCE, || {
        ready().1.contains("segmentations_waiting")
    });
    let (status, said) = ready();
    assert!(
        status == 200 && said.contains("1 wait for SCANSIDE at 127.0.0.1:"),
        "{said}"
    );
    wait_for("the state", PATIENCE, || {
        let state = site.retained("state");
        state["reasons"] == serde_json::json!(["segmentations_waiting"])
            && state["state"] == "degraded"
    });
    let list = |site: &Site| site.station.ask(&["segmentations", "list"]).1;
    let words = list(&site);
    assert!(
        words.starts_with("series ") && words.contains("waits: since 2"),
        "{words}"
    );

    // A PACS that has no room for anything.
    site.station.stop_daemon();
    site.station
        .replace_in_config(&format!("port = {pacs}"), &format!("port = {full}"));
    site.station.start_daemon();
    site.station.wait_for_word("segmentation refused");
    wait_for("the gauge", PATIENCE, || metric("refused") == Some(1.0));
    let words = list(&site);
    assert!(
        words.contains("refused: SCANSIDE answered A700H after 2 attempts"),
        "{words}"
    );
    let series = words.split_whitespace().nth(1).unwrap().to_owned();
    let (code, words) = site
        .station
        .ask(&["segmentations", "retry", &series, "unknown"]);
    assert!(
        code == 1 && words.contains(&format!("{series} is tried again")),
        "{words}"
    );
    assert!(words.contains("series unknown is not here"), "{words}");
    wait_for("another try", PATIENCE, || {
        site.station.said(&["segmentation refused"]) == 2
    });
    site.station.stop_daemon();
    // Without a daemon too.
    let (code, words) = site.station.ask(&["segmentations", "retry", "--all"]);
    assert_eq!(code, 0, "{words}");
    assert!(list(&site).contains("waits: not tried yet"));
    site.station.start_daemon();
    site.settle(3, 0);
}

#[test]
fn readyz_says_since_when_the_broker_is_there_or_away() {
    if mosquitto().is_none() {
        return;
    }
    let door = free_port();
    let mut site = Site::new("", &http::section(door));
    site.station.wait_for_word("connected to the broker");
    let mqtt = || {
        let (status, text) = http::get(door, "/readyz").unwrap();
        assert_eq!(status, 200, "a broker that is away holds up nothing");
        let ready: Value = serde_json::from_str(&text).unwrap();
        self::text(&ready["mqtt"]).to_owned()
    };
    let connected = mqtt();
    assert!(connected.starts_with("connected since 20"), "{connected}");
    site.broker.kill();
    wait_for("an outage", PATIENCE, || {
        mqtt().starts_with("away since 20")
    });
    wait_for("its reason", PATIENCE, || {
        mqtt().to_lowercase().contains("refused")
    });
    let since = mqtt()[..35].to_owned();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(mqtt()[..35], since, "each try is the same outage");
    site.restart_broker();
    wait_for("a connection", PATIENCE, || {
        mqtt().starts_with("connected since")
    });
    assert_ne!(mqtt(), connected);
    site.settle(0, 0);
}

#[test]
fn a_new_state_directory_and_one_of_another_node_are_said() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "");
    let new = [
        "not the state directory of before",
        "seq begins at 1",
        "restore it",
    ];
    site.station.wait_for_word("ready");
    assert_eq!(site.station.said(&new), 1, "{}", site.station.log());
    site.station.drop_image(1);
    site.wait_for_results(1);
    let info = site.retained("info");
    let made = info["state_directory"]["created_at"].clone();
    assert!(text(&made).starts_with("20"), "{info}");
    site.station.kill_daemon();
    site.station.start_daemon();
    site.station.wait_for_word("ready");
    assert_eq!(site.station.said(&new), 1, "once");
    site.station.wait_until_published();
    site.station.stop_daemon();

    site.station.replace_in_config("\"box-1\"", "\"box-2\"");
    let (_, words) = site.station.ask(&["check"]);
    assert!(words.contains("it is that of node box-1"), "{words}");
    let events = Hearing::of(site.port(), "scanside/v1/box-2/event", 1);
    let infos = Hearing::of(site.port(), "scanside/v1/box-2/info", 1);
    site.station.start_daemon();
    let event = &events.heard()[0];
    assert_eq!(
        (&event["event"], &event["node_before"]),
        (&"state_renamed".into(), &"box-1".into())
    );
    assert_eq!(event["seq"], 3, "after the new directory and the image");
    let info = &infos.heard()[0];
    assert_eq!(info["state_directory"]["node_before"], "box-1", "{info}");
    assert_eq!(info["state_directory"]["created_at"], made);
    assert_eq!(site.station.said(&["was that of node box-1"]), 1);
    site.station.wait_until_published();
    site.station.stop_daemon();

    // The books are lost, and the rest is there.
    fs::remove_file(site.station.path().join("state/outbox.redb")).unwrap();
    let (_, words) = site.station.ask(&["check"]);
    assert!(words.contains("has no outbox yet"), "{words}");
    let events = Hearing::of(site.port(), "scanside/v1/box-2/event", 1);
    site.station.start_daemon();
    let event = &events.heard()[0];
    assert_eq!(
        (&event["event"], &event["seq"]),
        (&"state_created".into(), &1.into())
    );
    assert!(
        text(&event["words"]).contains("an earlier one left accepted, identifiers.key"),
        "{event}"
    );
    site.station.wait_until_published();
    site.station.stop_daemon();
}
