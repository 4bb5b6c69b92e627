//! Images by POST: what was answered with 202 is there whatever dies.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, free_port, png, wait_for};

pub(crate) fn section(port: u16) -> String {
    format!("\n[http]\nlisten = \"127.0.0.1:{port}\"\n")
}

/// Status and body.
pub(crate) fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    exchange(port, &format!("GET {path} HTTP/1.1\r\n"), b"")
}

pub(crate) fn post(port: u16, body: &[u8]) -> io::Result<(u16, Value)> {
    let (status, body) = exchange(port, "POST /v1/images HTTP/1.1\r\n", body)?;
    Ok((status, serde_json::from_str(&body)?))
}

fn exchange(port: u16, head: &str, body: &[u8]) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let rest = format!("Host: box\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head.to_owned() + &rest).as_bytes())?;
    stream.write_all(body)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut = || io::Error::other("the answer is cut off");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(cut)?, body.to_owned()))
}

#[test]
fn a_killed_daemon_has_every_image_that_it_answered_with_202() {
    const IMAGES: usize = 200;
    const SENDERS: usize = 4;
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let mut site = Site::new("", &section(port));
    let (next, jobs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= IMAGES {
                        return;
                    }
                    // What was taken without an answer comes again, and a copy has the same job id.
                    wait_for("202", PATIENCE, || match post(port, &png(number)) {
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
            wait_for("answers", PATIENCE, || {
                jobs.lock().unwrap().len() >= kill * IMAGES / 6
            });
            sleep(Duration::from_millis(3 * kill as u64));
            site.station.kill_daemon();
            site.station.start_daemon();
        }
    });
    site.wait_for_results(IMAGES);
    let jobs = jobs.into_inner().unwrap();
    assert_eq!(jobs.len(), IMAGES);
    for job in jobs {
        let (code, text) = site
            .station
            .ask(&["ledger", "show", &job.to_string(), "--json"]);
        assert_eq!(code, 0, "job {job} was answered with 202: {text}");
        let life: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(life["source"], "http");
    }
    site.settle(IMAGES, 0);
}

/// The metrics' equation is the ledger's, and an image that never ends shows in all three places.
#[test]
fn metrics_and_probes_say_what_the_ledger_says() {
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let site = Site::new("", &section(port));
    site.station.wait_for_word("ready");
    (0..5).for_each(|number| assert_eq!(post(port, &png(number)).unwrap().0, 202));
    site.station.drop_garbage(0);
    site.wait_for_results(5);
    wait_for("the quarantine", PATIENCE, || {
        site.station.said(&["image quarantined"]) == 1
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
    wait_for("the page", PATIENCE, || {
        page = get(port, "/metrics").unwrap().1;
        let has = |line: &&str| {
            page.lines()
                .any(|found| found.trim_end_matches(".0") == *line)
        };
        lines.iter().all(has)
    });
    assert_eq!(get(port, "/healthz").unwrap().0, 200);
    let (status, ready) = get(port, "/readyz").unwrap();
    assert!(
        status == 200 && ready.contains("\"state\":\"ready\""),
        "{ready}"
    );
    site.settle(5, 1);
}
