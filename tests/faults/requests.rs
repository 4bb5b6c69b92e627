//! Requests over MQTT: their responses, and that none is lost when the daemon is killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::harness::process::wait_for;
use crate::harness::site::{Site, mosquitto};
use crate::replay::as_replayed;

const IMAGES: usize = 40;
const ROOT: &str = "scanside/v1/box-1";
const ALLOWED: &str = "requests = [\"replay\", \"segment\"]\nrequest_max_bytes = 2000";

fn client(site: &Site, program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-p", &site.port().to_string(), "-V", "5", "-q", "1"]);
    command
}

/// `mosquitto_sub` with a persistent session.
fn subscriber(site: &Site, topic: &str) -> Command {
    let mut command = client(site, "mosquitto_sub");
    command.args(["-i", "viewer", "-c", "-x", "3600", "-t", topic]);
    command
}

/// Subscribes and disconnects, so that the broker queues what follows.
fn subscribe(site: &Site, topic: &str) {
    assert!(
        subscriber(site, topic)
            .arg("-E")
            .status()
            .unwrap()
            .success()
    );
}

fn publish(site: &Site, verb: &str, file: &Path, more: &[&str]) {
    let mut publish = client(site, "mosquitto_pub");
    publish.args(["-t", &format!("{ROOT}/request/{verb}"), "-f", text(file)]);
    assert!(publish.args(more).status().unwrap().success());
}

/// Publishes a request with a response topic and correlation data; gives the response.
fn request(site: &Site, verb: &str, payload: &[u8]) -> Value {
    const RESPONSES: &str = "viewer/responses";
    let file = site.daemon.path().join("request");
    std::fs::write(&file, payload).unwrap();
    subscribe(site, RESPONSES);
    let response_topic = ["-D", "publish", "response-topic", RESPONSES];
    let correlation = ["-D", "publish", "correlation-data", "a-7"];
    publish(site, verb, &file, &[response_topic, correlation].concat());
    let output = subscriber(site, RESPONSES)
        .args(["-F", "%D|%p", "-C", "1", "-W", "30"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (correlation, response) = text.trim().split_once('|').unwrap_or_else(|| {
        let words = String::from_utf8_lossy(&output.stderr);
        panic!("no answer: {text} {words}\n{}", site.daemon.log())
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
    site.daemon.wait_for_log("requests are taken");
    let image = std::fs::read(site.daemon.image_file(1)).unwrap();
    let response = request(&site, "segment", &image);
    assert_eq!(response["status"], "ok", "{response}");
    assert_eq!(response["id"], "a-7");
    assert_eq!(response["result"], "result/mqtt");
    site.wait_for_results(1);
    site.daemon.wait_until_published();
    let first = site.payloads.lock().unwrap()[0].clone();
    let result: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(result["image"]["sha256"], response["input"]["sha256"]);
    assert_eq!(result["source"], "mqtt");

    let response = request(
        &site,
        "replay",
        br#"{"id":"gap","from_seq":1,"source":"mqtt"}"#,
    );
    assert_eq!(
        (&response["status"], &response["id"]),
        (&"ok".into(), &"gap".into())
    );
    assert_eq!(
        (&response["results"], &response["kept"]["last_seq"]),
        // The event about the new state directory has sequence number 1.
        (&1.into(), &2.into())
    );
    wait_for("the replay", || site.payloads.lock().unwrap().len() == 2);
    assert_eq!(
        site.payloads.lock().unwrap()[1],
        as_replayed(&first),
        "as it was"
    );

    let response = request(&site, "segment", &[7; 2001]);
    assert_eq!(
        (&response["status"], &response["code"]),
        (&"error".into(), &"too_large".into())
    );
    let response = request(&site, "replay", b"from the start");
    assert_eq!(response["code"], "unreadable");
    site.assert_published(1, 0);
}

#[test]
fn verbs_are_refused_unless_allowed() {
    if mosquitto().is_none() {
        return;
    }
    let site = Site::new("", "requests = [\"replay\"]");
    site.daemon.wait_for_log("requests are taken");
    publish(&site, "segment", &site.daemon.image_file(1), &[]);
    let payload = br#"{"from_seq":1,"source":"mqtt"}"#;
    assert_eq!(request(&site, "replay", payload)["messages"], 0);
    site.assert_published(0, 0);
}

/// Requests arrive while the daemon is killed again and again, and wait at the broker while it is away.
#[test]
fn a_kill_amid_requests_loses_none() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", ALLOWED);
    site.daemon.wait_for_log("requests are taken");
    let responses = format!("{ROOT}/response/segment");
    subscribe(&site, &responses);
    for number in 0..IMAGES {
        publish(&site, "segment", &site.daemon.image_file(number), &[]);
        if number % 8 == 5 {
            sleep(Duration::from_millis(number as u64));
            site.daemon.kill();
        }
        if number % 8 == 7 {
            site.daemon.start();
            site.daemon.wait_for_log("requests are taken");
        }
    }
    site.wait_for_results(IMAGES);
    // The last responses may not be acknowledged yet.
    wait_for("an empty outbox", || {
        site.daemon
            .cli(&["ledger", "show"])
            .1
            .contains("\"pending\":0")
    });
    let output = subscriber(&site, &responses).args(["-W", "3"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let responses: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        responses.iter().all(|response| response["status"] == "ok"),
        "{text}"
    );
    let answered: BTreeSet<&str> = responses
        .iter()
        .map(|response| response["input"]["sha256"].as_str().unwrap())
        .collect();
    assert_eq!(answered.len(), IMAGES);
    eprintln!(
        "{IMAGES} images as requests, {} responses, 5 kills",
        responses.len()
    );
    site.assert_published(IMAGES, 0);
}
