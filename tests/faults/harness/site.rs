//! A daemon with mosquitto as its broker and `mosquitto_sub` as an independent subscriber.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::process::{Process, TIMEOUT, free_port, wait_for};

/// A message that is sent until the subscriber has it; it is not counted.
const PROBE: &str = "probe";

/// With `max_queued_messages 0`, mosquitto 2.0.11 disconnects a client after a PUBACK with an error.
const LARGE_QUEUES: &str = "max_queued_messages 100000\nmax_inflight_messages 0\n";

/// Daemon, broker and subscriber of one test.
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    port: u16,
    broker_extra: String,
    pub(crate) broker: Process,
    subscriber: Process,
    pub(crate) payloads: Arc<Mutex<Vec<String>>>,
    jobs_by_image: Arc<Mutex<JobsByImage>>,
}

/// Digest of an image -> job ids of its results.
type JobsByImage = BTreeMap<String, BTreeSet<String>>;

/// What the subscriber received so far; `payloads` are in order, with copies.
struct Subscriber {
    process: Process,
    payloads: Arc<Mutex<Vec<String>>>,
    jobs_by_image: Arc<Mutex<JobsByImage>>,
}

/// The program, if it is installed. Without it the test is skipped with a message, or fails where it is required.
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
    wait_for("the broker", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    broker
}

impl Site {
    /// `broker_extra` are lines of `mosquitto.conf`, `config_extra` follows `[mqtt]` in the daemon's configuration.
    pub(crate) fn new(broker_extra: &str, config_extra: &str) -> Self {
        Self::with_broker(&format!("{LARGE_QUEUES}{broker_extra}"), config_extra)
    }

    /// A broker with no other settings than these, and so with the default limits of its queues.
    pub(crate) fn with_broker(broker_extra: &str, config_extra: &str) -> Self {
        let port = free_port();
        Self::start(Daemon::new(port, config_extra), port, broker_extra)
    }

    /// The daemon connects to `daemon_port`. Where `broker_extra` opens a listener there, the subscriber has another one.
    pub(crate) fn at(daemon_port: u16, broker_extra: &str, config_extra: &str) -> Self {
        let port = if broker_extra.contains(&format!("listener {daemon_port} ")) {
            free_port()
        } else {
            daemon_port
        };
        Self::with(Daemon::new(daemon_port, config_extra), port, broker_extra)
    }

    /// Starts a daemon that was prepared, with a broker and a subscriber at `port`.
    pub(crate) fn with(daemon: Daemon, port: u16, broker_extra: &str) -> Self {
        Self::start(daemon, port, &format!("{LARGE_QUEUES}{broker_extra}"))
    }

    fn start(mut daemon: Daemon, port: u16, broker_extra: &str) -> Self {
        let broker = start_broker(daemon.path(), port, broker_extra);
        let subscriber = Subscriber::start(port);
        daemon.start();
        Self {
            daemon,
            port,
            broker_extra: broker_extra.to_owned(),
            broker,
            payloads: subscriber.payloads,
            jobs_by_image: subscriber.jobs_by_image,
            subscriber: subscriber.process,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn restart_broker(&mut self) {
        self.broker = start_broker(self.daemon.path(), self.port, &self.broker_extra);
    }

    /// Starts the broker again with other settings.
    pub(crate) fn reconfigure_broker(&mut self, broker_extra: &str) {
        broker_extra.clone_into(&mut self.broker_extra);
        self.broker.signal("-TERM");
        self.broker.0.wait().unwrap();
        self.restart_broker();
    }

    /// Replays the results that a killed broker lost: those that it had acknowledged, as its log says (`log_type all`), and
    /// not written to its disk yet. Gives their number.
    pub(crate) fn replay_lost(&self, images: usize) -> usize {
        self.daemon.wait_until_published();
        let start = Instant::now();
        while self.n_results() < images && start.elapsed() < Duration::from_secs(20) {
            sleep(Duration::from_millis(20));
        }
        let lost = images - self.n_results();
        if lost > 0 {
            let log = fs::read_to_string(self.daemon.path().join("mosquitto.log")).unwrap();
            // Topics without a subscriber are acknowledged with rc16.
            let is_ack = |line: &&str| line.contains("PUBACK to box-1") && line.contains("rc0)");
            let acknowledged = log.lines().filter(is_ack).count();
            assert!(
                acknowledged >= images,
                "{acknowledged} of {images} were acknowledged"
            );
            let (code, text) = self.daemon.cli(&["replay", "--from-seq", "1"]);
            assert_eq!(code, 0, "{text}");
        }
        lost
    }

    pub(crate) fn n_results(&self) -> usize {
        self.jobs_by_image.lock().unwrap().len()
    }

    /// Waits for results of so many images; fails when none has arrived for [`TIMEOUT`].
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
                start.elapsed() < TIMEOUT,
                "{received} of {count} results arrived\n{}",
                self.daemon.log()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Asserts that each image has a result, that its copies have one job id, and that the ledger balances.
    pub(crate) fn assert_published(mut self, images: usize, quarantined: usize) {
        self.wait_for_results(images);
        let ledger = self.daemon.drain();
        let received = self.jobs_by_image.lock().unwrap().clone();
        assert_eq!(received.len(), images);
        for (image, jobs) in &received {
            assert_eq!(jobs.len(), 1, "copies of {image} carry different job ids");
        }
        let rest = format!("pending 0 + quarantined {quarantined} + rejected 0");
        assert!(ledger.contains(&rest), "{ledger}");
        let copies = self.payloads.lock().unwrap().len() - images;
        eprintln!("{images} images, {copies} copies; {ledger}");
        self.subscriber.kill();
    }

    /// The retained message of a topic below `scanside/v1/box-1`.
    pub(crate) fn retained(&self, topic: &str) -> Value {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &self.port.to_string(), "-V", "5", "-W", "20"]);
        command.args(["-C", "1", "-t", &format!("scanside/v1/box-1/{topic}")]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "nothing is retained at {topic}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a subscriber that exits after so many events.
    pub(crate) fn start_event_subscriber(&self, count: usize) -> Process {
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

impl Subscriber {
    /// An MQTT implementation other than the daemon's, with a persistent session, so that it misses nothing when the
    /// broker restarts.
    fn start(port: u16) -> Self {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        command.args(["-V", "5", "-q", "1", "-i", "independent", "-c"]);
        command.args(["-x", "3600", "-t", "scanside/v1/+/result/#"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let subscriber = Self {
            process: Process(child),
            payloads: Arc::default(),
            jobs_by_image: Arc::default(),
        };
        let is_subscribed = subscriber.read(output);
        // The subscription has to exist before the first result.
        wait_for("the subscription", || {
            let mut probe = Command::new("mosquitto_pub");
            probe.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
            probe.args(["-t", "scanside/v1/probe/result/probe", "-m", PROBE]);
            assert!(probe.status().unwrap().success());
            sleep(Duration::from_millis(100));
            is_subscribed.load(Ordering::Relaxed)
        });
        subscriber
    }

    /// Reads what `mosquitto_sub` prints, in a thread. Gives whether the probe has arrived.
    fn read(&self, output: ChildStdout) -> Arc<AtomicBool> {
        let is_subscribed = Arc::new(AtomicBool::new(false));
        let probe_arrived = Arc::clone(&is_subscribed);
        let payloads = Arc::clone(&self.payloads);
        let jobs_by_image = Arc::clone(&self.jobs_by_image);
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let line = line.unwrap();
                if line == PROBE {
                    probe_arrived.store(true, Ordering::Relaxed);
                    continue;
                }
                let report: Value = serde_json::from_str(&line).unwrap();
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let (image, job) = (text(&report["image"]["sha256"]), text(&report["job_id"]));
                payloads.lock().unwrap().push(line);
                let mut jobs = jobs_by_image.lock().unwrap();
                jobs.entry(image).or_default().insert(job);
            }
        });
        is_subscribed
    }
}
