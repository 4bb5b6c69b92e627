//! A station with a real broker and an independent subscriber.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::station::{PATIENCE, Process, Station, free_port, wait_for};

/// Sent until the subscriber hears it; not counted.
const PROBE: &str = "probe";

/// With `max_queued_messages 0`, mosquitto 2.0.11 drops a client after a PUBACK that refuses.
const PATIENT: &str = "max_queued_messages 100000\nmax_inflight_messages 0\n";

/// Folder, broker, subscriber and daemon of one test.
pub(crate) struct Site {
    pub(crate) station: Station,
    port: u16,
    broker_extra: String,
    pub(crate) broker: Process,
    subscriber: Process,
    pub(crate) lines: Arc<Mutex<Lines>>,
    results: Arc<Mutex<Results>>,
}

/// Results as the subscriber got them.
type Lines = Vec<String>;

/// The same: input digest -> job ids.
type Results = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn mosquitto() -> Option<PathBuf> {
    let found = [
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
        "/usr/bin/mosquitto",
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
            "mosquitto is not installed and SCANSIDE_REQUIRE_PEERS is set"
        );
        eprintln!("SKIPPED: mosquitto is not installed; the broker faults were NOT tested");
    }
    found
}

fn start_broker(folder: &Path, port: u16, extra: &str) -> Process {
    let config = folder.join("mosquitto.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
         persistence_location {}/\nautosave_interval 1\nautosave_on_changes true\n{extra}\n",
        folder.display()
    );
    fs::write(&config, text).unwrap();
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("mosquitto.log"))
        .unwrap();
    let mut command = Command::new(mosquitto().unwrap());
    command
        .arg("-c")
        .arg(config)
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let broker = Process(command.spawn().unwrap());
    wait_for("the broker", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    broker
}

impl Site {
    pub(crate) fn new(broker_extra: &str, mqtt_extra: &str) -> Self {
        Self::with_broker(&format!("{PATIENT}{broker_extra}"), mqtt_extra)
    }

    /// A broker that has only these limits.
    pub(crate) fn with_broker(broker_extra: &str, mqtt_extra: &str) -> Self {
        let port = free_port();
        Self::around(Station::new(port, mqtt_extra), port, broker_extra)
    }

    /// The daemon's broker listens at `daemon_port`, where `broker_extra` opens it.
    pub(crate) fn at(daemon_port: u16, broker_extra: &str, mqtt_extra: &str) -> Self {
        let port = if broker_extra.contains(&format!("listener {daemon_port} ")) {
            free_port()
        } else {
            daemon_port
        };
        Self::with(Station::new(daemon_port, mqtt_extra), port, broker_extra)
    }

    /// Around a station that was prepared for this port.
    pub(crate) fn with(station: Station, port: u16, broker_extra: &str) -> Self {
        Self::around(station, port, &format!("{PATIENT}{broker_extra}"))
    }

    fn around(mut station: Station, port: u16, broker_extra: &str) -> Self {
        let broker = start_broker(station.path(), port, broker_extra);
        let (subscriber, lines, results) = start_subscriber(port);
        station.start_daemon();
        Self {
            station,
            port,
            broker_extra: broker_extra.to_owned(),
            broker,
            subscriber,
            lines,
            results,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn restart_broker(&mut self) {
        self.broker = start_broker(self.station.path(), self.port, &self.broker_extra);
    }

    /// The broker is started again with these settings.
    pub(crate) fn change_broker(&mut self, broker_extra: &str) {
        broker_extra.clone_into(&mut self.broker_extra);
        self.broker.signal("-TERM");
        self.broker.0.wait().unwrap();
        self.restart_broker();
    }

    /// A killed broker loses what it acknowledged and had not written yet. Gives how many results those were, by its own
    /// log (`log_type all`), and has them sent again.
    pub(crate) fn ask_again(&self, images: usize) -> usize {
        self.station.wait_until_published();
        let start = Instant::now();
        while self.n_results() < images && start.elapsed() < Duration::from_secs(20) {
            sleep(Duration::from_millis(20));
        }
        let lost = images - self.n_results();
        if lost > 0 {
            let log = fs::read_to_string(self.station.path().join("mosquitto.log")).unwrap();
            // rc16: of other topics, which nobody subscribes to.
            let is_ack = |line: &&str| line.contains("PUBACK to box-1") && line.contains("rc0)");
            let acknowledged = log.lines().filter(is_ack).count();
            assert!(
                acknowledged >= images,
                "{acknowledged} of {images} were acknowledged"
            );
            let (code, text) = self.station.ask(&["replay", "--from-seq", "1"]);
            assert_eq!(code, 0, "{text}");
        }
        lost
    }

    pub(crate) fn n_results(&self) -> usize {
        self.results.lock().unwrap().len()
    }

    /// Gives up when nothing comes any more.
    pub(crate) fn wait_for_results(&self, count: usize) {
        let (mut start, mut last) = (Instant::now(), 0);
        loop {
            let received = self.n_results();
            if received >= count {
                return;
            }
            if received > last {
                (start, last) = (Instant::now(), received);
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{received} of {count} results arrived\n{}",
                self.station.log()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Everything arrived once or more, and the books are right.
    pub(crate) fn settle(mut self, images: usize, quarantined: usize) {
        self.wait_for_results(images);
        let ledger = self.station.close();
        let received = self.results.lock().unwrap().clone();
        assert_eq!(received.len(), images);
        for (image, jobs) in &received {
            assert_eq!(jobs.len(), 1, "copies of {image} carry different job ids");
        }
        let rest = format!("pending 0 + quarantined {quarantined} + rejected 0");
        assert!(ledger.contains(&rest), "{ledger}");
        let copies = self.lines.lock().unwrap().len() - images;
        eprintln!("{images} images, {copies} copies; {ledger}");
        self.subscriber.kill();
    }

    /// What the broker retains at a topic below the node's root.
    pub(crate) fn retained(&self, topic: &str) -> Value {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &self.port.to_string(), "-V", "5", "-W", "20"]);
        command.args(["-C", "1", "-t", &format!("scanside/v1/box-1/{topic}")]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "nothing is retained at {topic}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits for so many events.
    pub(crate) fn wait_for_events(&self, count: usize) -> Process {
        let mut command = Command::new("mosquitto_sub");
        command
            .args([
                "-p",
                &self.port.to_string(),
                "-V",
                "5",
                "-q",
                "1",
                "-W",
                "60",
            ])
            .args(["-t", "scanside/v1/box-1/event", "-C", &count.to_string()])
            .stdout(Stdio::null());
        Process(command.spawn().unwrap())
    }
}

/// Another MQTT implementation with a session of its own, so that a broker restart loses it nothing.
fn start_subscriber(port: u16) -> (Process, Arc<Mutex<Lines>>, Arc<Mutex<Results>>) {
    let mut child = Command::new("mosquitto_sub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-V",
            "5",
            "-q",
            "1",
        ])
        .args([
            "-i",
            "independent",
            "-c",
            "-x",
            "3600",
            "-t",
            "scanside/v1/+/result/#",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let subscribed = Arc::new(AtomicBool::new(false));
    let stands = Arc::clone(&subscribed);
    let results = Arc::new(Mutex::new(Results::new()));
    let (output, sink) = (child.stdout.take().unwrap(), Arc::clone(&lines));
    let found = Arc::clone(&results);
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let line = line.unwrap();
            if line == PROBE {
                stands.store(true, Ordering::Relaxed);
            } else {
                let report: Value = serde_json::from_str(&line).unwrap();
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let (image, job) = (text(&report["image"]["sha256"]), text(&report["job_id"]));
                found.lock().unwrap().entry(image).or_default().insert(job);
                sink.lock().unwrap().push(line);
            }
        }
    });
    // The subscription has to exist before the first result.
    wait_for("the subscription", PATIENCE, || {
        let mut probe = Command::new("mosquitto_pub");
        probe.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        probe.args(["-t", "scanside/v1/probe/result/probe", "-m", PROBE]);
        assert!(probe.status().unwrap().success());
        sleep(Duration::from_millis(100));
        subscribed.load(Ordering::Relaxed)
    });
    (Process(child), lines, results)
}
