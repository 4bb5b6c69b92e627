//! Folder, broker, independent subscriber and daemon of one test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sample_bundle;

/// Sent until the subscriber hears it; not counted.
const PROBE: &str = "probe";

/// For a busy machine; every wait ends as soon as what it waits for is there.
const PATIENCE: Duration = Duration::from_mins(2);

/// A child that does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.0.id().to_string()])
            .status();
        assert!(status.unwrap().success(), "kill {name}");
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Folder, broker, subscriber and daemon of one test.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    port: u16,
    pub(crate) broker: Process,
    subscriber: Process,
    pub(crate) lines: Arc<Mutex<Vec<String>>>,
    pub(crate) daemon: Option<Process>,
}

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
         persistence_location {}/\nautosave_interval 1\nautosave_on_changes true\n\
         max_queued_messages 0\nmax_inflight_messages 0\n{extra}\n",
        folder.display()
    );
    fs::write(&config, text).unwrap();
    let log = File::create(folder.join("mosquitto.log")).unwrap();
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

fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < patience,
            "{what} did not happen in {patience:?}"
        );
        sleep(Duration::from_millis(20));
    }
}

impl Site {
    pub(crate) fn new(broker_extra: &str, mqtt_extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["inbox", "bundle"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        // mosquitto gives up root's rights and has to write here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(path, open).unwrap();
        sample_bundle::write(&path.join("bundle"));
        // Taken and given back: free a moment later too, because nobody else asks for it.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "node = \"box-1\"\n[model]\nbundle = \"bundle\"\n\
             [state]\ndirectory = \"state\"\nmin_free_bytes = 0\n\
             [[folder]]\nname = \"inbox\"\ndirectory = \"inbox\"\npoll_interval_ms = 50\n\
             stable_ms = 20\n\
             [mqtt]\nhost = \"127.0.0.1\"\nport = {port}\nack_timeout_ms = 2000\n\
             connect_timeout_s = 2\nbackoff_max_ms = 2000\n{mqtt_extra}\n"
        );
        fs::write(path.join("daemon.toml"), config).unwrap();
        let broker = start_broker(path, port, broker_extra);
        let (subscriber, lines) = start_subscriber(port);
        let mut site = Self {
            folder,
            port,
            broker,
            subscriber,
            lines,
            daemon: None,
        };
        site.start_daemon();
        site
    }

    pub(crate) fn start_daemon(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("daemon.log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_scansided"))
            .arg("run")
            .arg("--config")
            .arg(self.folder.path().join("daemon.toml"))
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(Process(child));
    }

    pub(crate) fn restart_broker(&mut self) {
        self.broker = start_broker(self.folder.path(), self.port, "");
    }

    /// Stripes: a mask of many runs.
    pub(crate) fn drop_striped_image(&self, number: usize) {
        let pixels = image::GrayImage::from_fn(160, 160, |x, y| {
            let mark = u8::from(y == 159 && number >> x.min(31) & 1 == 1);
            image::Luma([if y / 20 % 2 == 0 { 220 } else { 10 + mark }])
        });
        self.drop_pixels(number, &pixels);
    }

    /// A bright rectangle on dark ground.
    pub(crate) fn drop_image(&self, number: usize) {
        let side = 40;
        let pixels = image::GrayImage::from_fn(side, side, |x, y| {
            let bright = x > 8 && x < 30 && y > 8 && y < 20 + (number % 16) as u32;
            // The last row makes every file another one.
            let mark = u8::from(y == side - 1 && number >> x & 1 == 1);
            image::Luma([if bright { 220 } else { 10 + mark }])
        });
        self.drop_pixels(number, &pixels);
    }

    /// Moves an image into the inbox, as a careful sender does.
    fn drop_pixels(&self, number: usize, pixels: &image::GrayImage) {
        let inbox = self.folder.path().join("inbox");
        let part = inbox.join(format!("{number}.part"));
        pixels
            .save_with_format(&part, image::ImageFormat::Png)
            .unwrap();
        fs::rename(&part, part.with_extension("png")).unwrap();
    }

    /// Results as the subscriber got them: input digest -> job ids.
    fn received(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut results: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in self.lines.lock().unwrap().iter() {
            let report: Value = serde_json::from_str(line).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            results
                .entry(text(&report["image"]["sha256"]))
                .or_default()
                .insert(text(&report["job_id"]));
        }
        results
    }

    pub(crate) fn wait_for_results(&self, count: usize) {
        wait_for(&format!("result {count}"), PATIENCE, || {
            self.received().len() >= count
        });
    }

    /// Everything arrived once or more, and the books are right.
    pub(crate) fn settle(mut self, images: usize) {
        let start = Instant::now();
        while self.received().len() < images {
            if start.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.path().join("daemon.log")).unwrap();
                panic!(
                    "{} of {images} results arrived\n{log}",
                    self.received().len()
                );
            }
            sleep(Duration::from_millis(50));
        }
        // The last PUBACK may still be on its way to the daemon; an input leaves with it.
        for name in ["inbox", "state/accepted/inbox"] {
            let folder = self.folder.path().join(name);
            wait_for(&format!("an empty {name}"), PATIENCE, || {
                fs::read_dir(&folder).unwrap().count() == 0
            });
        }
        let mut daemon = self.daemon.take().unwrap();
        daemon.signal("-TERM");
        assert!(
            daemon.0.wait().unwrap().success(),
            "a clean stop exits with 0"
        );
        let received = self.received();
        assert_eq!(received.len(), images);
        for (image, jobs) in &received {
            assert_eq!(jobs.len(), 1, "copies of {image} carry different job ids");
        }
        let output = Command::new(env!("CARGO_BIN_EXE_scansided"))
            .args(["ledger", "verify", "--config"])
            .arg(self.folder.path().join("daemon.toml"))
            .output()
            .unwrap();
        let ledger = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{ledger}");
        assert!(
            ledger.contains("pending 0 + quarantined 0 + rejected 0"),
            "{ledger}"
        );
        let copies = self.lines.lock().unwrap().len() - images;
        eprintln!("{images} images, {copies} copies; {ledger}");
        self.subscriber.kill();
    }
}

/// Another MQTT implementation with a session of its own, so that a broker restart loses it nothing.
fn start_subscriber(port: u16) -> (Process, Arc<Mutex<Vec<String>>>) {
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
    let (output, sink) = (child.stdout.take().unwrap(), Arc::clone(&lines));
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let line = line.unwrap();
            if line == PROBE {
                stands.store(true, Ordering::Relaxed);
            } else {
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
    (Process(child), lines)
}
