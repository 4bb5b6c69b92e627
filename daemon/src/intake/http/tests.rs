use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde_json::Value;

use super::*;
use crate::outbox::Outbox;
use crate::outbox::job::JobNumber;
use crate::tls::credentials::Credentials;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and the rest of it";

struct Box {
    folder: tempfile::TempDir,
    intake: Intake,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    queue: mpsc::Receiver<JobNumber>,
    thread: JoinHandle<Result<(), HttpError>>,
}

/// A port whose queue has two places.
fn open(edit: impl FnOnce(&mut config::Http, &mut Intake)) -> Box {
    let folder = tempfile::tempdir().unwrap();
    let mut config: config::Http = toml::from_str("idle_timeout_s = 1").unwrap();
    let (mut intake, queue) = Intake::of(folder.path(), 2);
    edit(&mut config, &mut intake);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port {
        config,
        listener,
        image_timeout: Duration::from_millis(100),
        grace: Duration::from_secs(2),
    };
    let (stop, stopped) = watch::channel(false);
    let given = intake.clone();
    let thread = thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(run(port, given, stopped))
    });
    Box {
        folder,
        intake,
        address,
        stop,
        queue,
        thread,
    }
}

impl Box {
    fn exchange(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!("{head}\r\nHost: box\r\nConnection: close\r\n");
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &length).as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        answer(stream)
    }

    fn post(&self, headers: &str, body: &[u8]) -> (u16, Value) {
        let (status, text) = self.exchange(&format!("POST /v1/images HTTP/1.1{headers}"), body);
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.exchange(&format!("GET {path} HTTP/1.1"), b"")
    }

    fn spooled(&self) -> Vec<Vec<u8>> {
        let folder = self.intake.spool.accepted.join("http");
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect()
    }

    /// Nothing half-way is left beside the spool.
    fn nothing_under_way(&self) -> bool {
        let entries = fs::read_dir(&self.intake.spool.accepted).unwrap();
        entries
            .into_iter()
            .all(|entry| entry.unwrap().path().is_dir())
    }

    fn close(self) {
        self.stop.send(true).unwrap();
        self.thread.join().unwrap().unwrap();
        drop(self.intake);
        // Every hand is off the outbox.
        Outbox::open(self.folder.path()).unwrap();
    }
}

fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_image_is_durable_when_it_is_answered() {
    let mut port = open(|_, _| ());
    let (status, receipt) = port.post("", PNG);
    assert_eq!(status, 202, "{receipt}");
    assert_eq!(receipt["job"], 1);
    assert_eq!(receipt["bytes"], PNG.len());
    assert_eq!(receipt["sha256"], crate::report::sha256(PNG));
    assert_eq!(port.spooled(), [PNG]);
    assert_eq!(port.intake.outbox.jobs().unwrap()[0].1.source, "http");
    assert_eq!(port.queue.try_recv().unwrap(), 1);
    // A copy is another acceptance, as a copy in an inbox is.
    assert_eq!(port.post("", PNG).1["job"], 2);
    port.close();
}

#[test]
fn what_cannot_be_taken_is_answered_with_words_and_leaves_nothing() {
    struct Case {
        headers: &'static str,
        body: &'static [u8],
        status: u16,
        code: &'static str,
    }
    let port = open(|config, _| config.body_max_bytes = 100);
    let cases = [
        Case {
            headers: "",
            body: b"",
            status: 400,
            code: "empty",
        },
        Case {
            headers: "",
            body: b"no image",
            status: 415,
            code: "not_an_image",
        },
        Case {
            headers: "\r\nContent-Type: multipart/form-data; boundary=x",
            body: b"--x\r\n",
            status: 415,
            code: "not_an_image",
        },
        Case {
            headers: "",
            body: &[0xff; 101],
            status: 413,
            code: "too_large",
        },
        Case {
            headers: "\r\nOrigin: http://example.org",
            body: PNG,
            status: 403,
            code: "foreign",
        },
    ];
    for case in cases {
        let (status, answer) = port.post(case.headers, case.body);
        assert_eq!(status, case.status, "{answer}");
        assert_eq!(answer["code"], case.code);
        assert!(!answer["remedy"].as_str().unwrap().is_empty());
    }
    assert_eq!(port.get("/v1/image").0, 404);
    assert_eq!(port.get("/v1/images").0, 405);
    let (_, page) = port.get("/metrics");
    let line = "scansided_source_refusals_total{source=\"http\",reason=\"not_an_image\"} 2";
    assert!(page.contains(line), "{page}");
    assert!(port.spooled().is_empty() && port.nothing_under_way());
    assert_eq!(port.intake.outbox.ledger().unwrap().received, 0);
    port.close();
}

/// The length is not announced, so only the bytes themselves say that it is too much.
#[test]
fn a_body_without_a_length_is_held_to_its_limit() {
    let port = open(|config, _| config.body_max_bytes = 1000);
    let send = |chunks: usize| {
        let mut stream = TcpStream::connect(port.address).unwrap();
        let head = "POST /v1/images HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for number in 0..chunks {
            let mut piece = [7; 256];
            if number == 0 {
                piece[..PNG.len()].copy_from_slice(PNG);
            }
            stream.write_all(b"100\r\n").unwrap();
            stream.write_all(&piece).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        answer(stream).0
    };
    assert_eq!(send(3), 202);
    assert_eq!(send(4), 413);
    assert_eq!(port.spooled().len(), 1);
    wait_for("the rest", || port.nothing_under_way());
    port.close();
}

#[test]
fn a_token_is_asked_for_before_anything_else() {
    let token = "0123456789abcdef01234567";
    let port = open(|config, intake| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, token).unwrap();
        config.token_file = Some(file);
        let text = "node = \"box-1\"\n[model]\nbundle = \"b\"\n[state]\ndirectory = \"s\"\n[http]\n\
                    [mqtt]\nhost = \"127.0.0.1\"\n";
        let mut whole = Config::parse(text, "daemon.toml".as_ref()).unwrap();
        whole.http = Some(config.clone());
        let credentials = Credentials::load(&whole).unwrap();
        intake.credentials = watch::channel(credentials).1;
    });
    for headers in [
        "",
        "\r\nAuthorization: Bearer 0123456789abcdef01234568",
        "\r\nAuthorization: Basic 0123456789abcdef01234567",
    ] {
        let (status, answer) = port.post(headers, PNG);
        assert_eq!((status, &answer["code"]), (401, &"unauthorized".into()));
    }
    let shown = format!("\r\nAuthorization: Bearer {token}");
    assert_eq!(port.post(&shown, PNG).0, 202);
    assert_eq!(port.get("/healthz").0, 200);
    port.close();
}

#[test]
fn a_full_box_asks_to_come_again() {
    let mut port = open(|_, _| ());
    let ready = |port: &Box| port.get("/readyz");
    for _ in 0..2 {
        assert_eq!(port.post("", PNG).0, 202);
    }
    let head = "POST /v1/images HTTP/1.1";
    let (status, text) = port.exchange(head, PNG);
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("retry-after: 10") && text.contains("queue_full"));
    let (status, text) = ready(&port);
    assert!(status == 503 && text.contains("queue_full"), "{text}");
    port.queue.try_recv().unwrap();
    assert_eq!(ready(&port).0, 200);
    assert_eq!(port.post("", PNG).0, 202);
    port.close();

    let port = open(|_, intake| intake.min_free_bytes = u64::MAX);
    let (status, answer) = port.post("", PNG);
    assert_eq!((status, &answer["code"]), (503, &"disk_low".into()));
    assert!(port.intake.status.reasons().contains(&"disk_low"));
    assert_eq!(ready(&port).0, 503);
    assert!(port.spooled().is_empty());
    port.close();
}

#[test]
fn a_sender_that_stops_in_the_middle_leaves_nothing() {
    let port = open(|_, _| ());
    let begin = || {
        let mut stream = TcpStream::connect(port.address).unwrap();
        let head = "POST /v1/images HTTP/1.1\r\nHost: box\r\nContent-Length: 1000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(PNG).unwrap();
        stream.write_all(&[7; 200]).unwrap();
        stream
    };
    let under_way = begin();
    wait_for("a part", || !port.nothing_under_way());
    drop(under_way);
    wait_for("no part", || port.nothing_under_way());
    // It keeps the connection and says nothing more; nor does one that never says anything.
    let silent = begin();
    let mute = TcpStream::connect(port.address).unwrap();
    assert_eq!(answer(silent).0, 408);
    let mut rest = Vec::new();
    (&mute).read_to_end(&mut rest).unwrap();
    assert!(port.spooled().is_empty() && port.nothing_under_way());
    port.close();
}

#[test]
fn probes_answer_beside_a_full_house_of_senders() {
    let port = open(|config, _| {
        config.connections_max = 2;
        config.idle_timeout_s = 60;
    });
    let senders: Vec<TcpStream> = (0..2)
        .map(|_| TcpStream::connect(port.address).unwrap())
        .collect();
    wait_for("a full house", || port.post("", PNG).0 == 503);
    assert_eq!(port.get("/healthz").0, 200);
    drop(senders);
    wait_for("a place", || port.post("", PNG).0 == 202);
    port.close();
}

/// It asks again and again on one connection and reads nothing of what is answered.
#[test]
fn a_client_that_does_not_listen_gives_its_place_back() {
    let port = open(|config, _| {
        config.connections_max = 1;
        config.request_timeout_s = 1;
    });
    let mut deaf = TcpStream::connect(port.address).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: box\r\n\r\n".repeat(100);
    while deaf.write_all(&request).is_ok() {}
    assert_eq!(port.post("", PNG).0, 503);
    wait_for("its place", || port.post("", PNG).0 == 202);
    port.close();
}

#[test]
fn health_follows_the_inference_thread() {
    let port = open(|_, _| ());
    assert_eq!(port.get("/healthz").0, 200);
    port.intake.status.image_taken();
    thread::sleep(Duration::from_millis(150));
    let (status, text) = port.get("/healthz");
    assert!(status == 503 && text.contains("\"alive\":false"), "{text}");
    port.intake.status.image_done();
    assert_eq!(port.get("/healthz").0, 200);
    port.close();
}

/// Whatever the numbers are, they are those of `scansided ledger verify`.
#[test]
fn metrics_hold_the_ledger() {
    let port = open(|_, _| ());
    assert_eq!(port.post("", PNG).0, 202);
    port.intake.status.metrics.inferred(0.07);
    let (status, page) = port.get("/metrics");
    assert_eq!(status, 200);
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    for line in [
        "scansided_images_received_total 1\n",
        "scansided_images_published_total 0\n",
        "scansided_images_pending 1",
        "scansided_images_quarantined 0",
        "scansided_images_rejected 0",
        "scansided_images_dropped_total 0\n",
        "scansided_source_accepted_images_total{source=\"http\"} 1\n",
        "scansided_inference_seconds_bucket{le=\"0.1\"} 1\n",
        "scansided_inference_seconds_count 1\n",
        "scansided_mqtt_connected 0",
        "scansided_build_info{version=\"0.0.0\"} 1\n",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    port.close();
}
