//! What other MQTT programs ask of the daemon, and that no request is lost when it is killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::replay::again;
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, wait_for};

const IMAGES: usize = 40;
const ROOT: &str = "scanside/v1/box-1";
const ALLOWED: &str = "requests = [\"replay\", \"segment\"]\nrequest_max_bytes = 2000";

fn client(site: &Site, program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-p", &site.port().to_string(), "-V", "5", "-q", "1"]);
    command
}

/// A session that keeps what comes on a topic.
fn listener(site: &Site, topic: &str) -> Command {
    let mut command = client(site, "mosquitto_sub");
    command.args(["-i", "viewer", "-c", "-x", "3600", "-t", topic]);
    command
}

/// Subscribes and leaves, so that nothing is missed.
fn enrol(site: &Site, topic: &str) {
    assert!(listener(site, topic).arg("-E").status().unwrap().success());
}

fn publish(site: &Site, verb: &str, file: &Path, more: &[&str]) {
    let mut publish = client(site, "mosquitto_pub");
    publish.args(["-t", &format!("{ROOT}/request/{verb}"), "-f", text(file)]);
    assert!(publish.args(more).status().unwrap().success());
}

/// Asks as any program would, with a response topic and correlation data.
fn ask(site: &Site, verb: &str, payload: &[u8]) -> Value {
    const ANSWERS: &str = "viewer/answers";
    let file = site.station.path().join("request");
    std::fs::write(&file, payload).unwrap();
    enrol(site, ANSWERS);
    let response_topic = ["-D", "publish", "response-topic", ANSWERS];
    let correlation = ["-D", "publish", "correlation-data", "a-7"];
    publish(site, verb, &file, &[response_topic, correlation].concat());
    let output = listener(site, ANSWERS)
        .args(["-F", "%D|%p", "-C", "1", "-W", "30"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (correlation, response) = text.trim().split_once('|').unwrap_or_else(|| {
        let words = String::from_utf8_lossy(&output.stderr);
        panic!("no answer: {text} {words}\n{}", site.station.log())
    });
    assert_eq!(correlation, "a-7");
    let response: Value = serde_json::from_str(response).unwrap();
    assert_eq!(response["schema"], "response/1");
    assert_eq!(response["verb"], verb);
    response
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_image_comes_as_a_request_and_its_result_again_on_another() {
    if mosquitto().is_none() {
        return;
    }
    let site = Site::new("", ALLOWED);
    site.station.wait_for_word("requests are taken");
    let image = std::fs::read(site.station.image_file(1)).unwrap();
    let said = ask(&site, "segment", &image);
    assert_eq!(said["status"], "ok", "{said}");
    assert_eq!(said["id"], "a-7");
    assert_eq!(said["result"], "result/mqtt");
    site.wait_for_results(1);
    site.station.wait_until_published();
    let first = site.lines.lock().unwrap()[0].clone();
    let result: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(result["image"]["sha256"], said["input"]["sha256"]);
    assert_eq!(result["source"], "mqtt");

    let said = ask(
        &site,
        "replay",
        br#"{"id":"gap","from_seq":1,"source":"mqtt"}"#,
    );
    assert_eq!(
        (&said["status"], &said["id"]),
        (&"ok".into(), &"gap".into())
    );
    assert_eq!(
        (&said["results"], &said["kept"]["last_seq"]),
        // After the event about the new state directory.
        (&1.into(), &2.into())
    );
    wait_for("the replay", PATIENCE, || {
        site.lines.lock().unwrap().len() == 2
    });
    assert_eq!(site.lines.lock().unwrap()[1], again(&first), "as it was");

    let said = ask(&site, "segment", &[7; 2001]);
    assert_eq!(
        (&said["status"], &said["code"]),
        (&"error".into(), &"too_large".into())
    );
    let said = ask(&site, "replay", b"from the start");
    assert_eq!(said["code"], "unreadable");
    site.settle(1, 0);
}

#[test]
fn nothing_is_taken_unless_it_is_allowed() {
    if mosquitto().is_none() {
        return;
    }
    let site = Site::new("", "requests = [\"replay\"]");
    site.station.wait_for_word("requests are taken");
    publish(&site, "segment", &site.station.image_file(1), &[]);
    let wish = br#"{"from_seq":1,"source":"mqtt"}"#;
    assert_eq!(ask(&site, "replay", wish)["messages"], 0);
    site.settle(0, 0);
}

/// Requests keep coming while the daemon is killed again and again, and wait while it is away.
#[test]
fn a_kill_amid_requests_loses_none() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", ALLOWED);
    site.station.wait_for_word("requests are taken");
    let responses = format!("{ROOT}/response/segment");
    enrol(&site, &responses);
    for number in 0..IMAGES {
        publish(&site, "segment", &site.station.image_file(number), &[]);
        if number % 8 == 5 {
            sleep(Duration::from_millis(number as u64));
            site.station.kill_daemon();
        }
        if number % 8 == 7 {
            site.station.start_daemon();
            site.station.wait_for_word("requests are taken");
        }
    }
    site.wait_for_results(IMAGES);
    // The last responses may still be under way.
    wait_for("an empty outbox", PATIENCE, || {
        site.station
            .ask(&["ledger", "show"])
            .1
            .contains("\"pending\":0")
    });
    let output = listener(&site, &responses).args(["-W", "3"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let responses: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        responses.iter().all(|said| said["status"] == "ok"),
        "{text}"
    );
    let answered: BTreeSet<&str> = responses
        .iter()
        .map(|said| said["input"]["sha256"].as_str().unwrap())
        .collect();
    assert_eq!(answered.len(), IMAGES);
    eprintln!(
        "{IMAGES} images as requests, {} responses, 5 kills",
        responses.len()
    );
    site.settle(IMAGES, 0);
}
