//! Folder and daemon of one test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::sample_bundle;

/// For a busy machine; every wait ends as soon as what it waits for is there.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

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

pub(crate) fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < patience,
            "{what} did not happen in {patience:?}"
        );
        sleep(Duration::from_millis(20));
    }
}

pub(crate) struct Station {
    folder: tempfile::TempDir,
    daemon: Option<Process>,
    /// Where the log of the running daemon begins.
    log_start: usize,
}

impl Station {
    /// A daemon that is not running yet, for a broker on this port.
    pub(crate) fn new(port: u16, mqtt_extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["inbox", "bundle"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        // mosquitto gives up root's rights and has to write here.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(path, open).unwrap();
        sample_bundle::write(&path.join("bundle"));
        let config = format!(
            "node = \"box-1\"\n[model]\nbundle = \"bundle\"\n\
             [state]\ndirectory = \"state\"\nmin_free_bytes = 0\n\
             [[folder]]\nname = \"inbox\"\ndirectory = \"inbox\"\npoll_interval_ms = 50\n\
             stable_ms = 20\n\
             [mqtt]\nhost = \"127.0.0.1\"\nport = {port}\nack_timeout_ms = 2000\n\
             connect_timeout_s = 2\nbackoff_max_ms = 2000\n{mqtt_extra}\n"
        );
        fs::write(path.join("daemon.toml"), config).unwrap();
        Self {
            folder,
            daemon: None,
            log_start: 0,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start_daemon(&mut self) {
        self.start_daemon_in(&[]);
    }

    /// With more environment variables.
    pub(crate) fn start_daemon_in(&mut self, environment: &[(&str, &str)]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("daemon.log"))
            .unwrap();
        self.log_start = log.metadata().unwrap().len() as usize;
        let child = Command::new(env!("CARGO_BIN_EXE_scansided"))
            .arg("run")
            .arg("--config")
            .arg(self.folder.path().join("daemon.toml"))
            .env("MALLOC_ARENA_MAX", "1") // as in packaging/scansided.service
            .envs(environment.iter().copied())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(Process(child));
    }

    pub(crate) fn signal_daemon(&self, name: &str) {
        self.daemon.as_ref().unwrap().signal(name);
    }

    /// `scansided ARGUMENTS --config ...`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scansided"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.path().join("daemon.toml"));
        command
    }

    /// Exit code and what was printed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), words + &complaint)
    }

    pub(crate) fn replace_in_config(&self, from: &str, to: &str) {
        let path = self.path().join("daemon.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    }

    pub(crate) fn daemon_id(&self) -> u32 {
        self.daemon.as_ref().unwrap().0.id()
    }

    /// Waits until so many images were segmented, by all daemons of the test.
    pub(crate) fn wait_for_segmented(&self, count: usize) {
        wait_for(&format!("{count} segmented images"), PATIENCE, || {
            self.said(&["image segmented"]) >= count
        });
    }

    /// Whether it ended by itself.
    pub(crate) fn daemon_ended(&mut self) -> bool {
        let daemon = self.daemon.as_mut().unwrap();
        daemon.0.try_wait().unwrap().is_some()
    }

    pub(crate) fn kill_daemon(&mut self) {
        self.daemon.as_mut().unwrap().kill();
    }

    /// Stripes: a mask of many runs.
    pub(crate) fn drop_striped_image(&self, number: usize, side: u32) {
        let pixels = image::GrayImage::from_fn(side, side, |x, y| {
            let mark = u8::from(y == side - 1 && number >> x.min(31) & 1 == 1);
            let bright = (y / (side / 8)).is_multiple_of(2);
            image::Luma([if bright { 220 } else { 10 + mark }])
        });
        self.drop_pixels(number, &pixels);
    }

    /// A bright rectangle on dark ground.
    pub(crate) fn drop_image(&self, number: usize) {
        self.drop_pixels(number, &picture(number));
    }

    /// The file of such an image elsewhere.
    pub(crate) fn image_file(&self, number: usize) -> PathBuf {
        let path = self.path().join(format!("{number}.png"));
        picture(number).save(&path).unwrap();
        path
    }

    /// Moves an image into the inbox, as a careful sender does.
    fn drop_pixels(&self, number: usize, pixels: &image::GrayImage) {
        let part = self.inbox().join(format!("{number}.part"));
        pixels
            .save_with_format(&part, image::ImageFormat::Png)
            .unwrap();
        fs::rename(&part, part.with_extension("png")).unwrap();
    }

    /// A DICOM file.
    pub(crate) fn drop_bytes(&self, name: &str, bytes: &[u8]) {
        let part = self.inbox().join(format!("{name}.part"));
        fs::write(&part, bytes).unwrap();
        fs::rename(&part, part.with_extension("dcm")).unwrap();
    }

    /// Copies a file into the inbox, as a careful sender does.
    pub(crate) fn drop_file(&self, file: &Path) {
        let part = self.inbox().join("copy.part");
        fs::copy(file, &part).unwrap();
        fs::rename(&part, self.inbox().join(file.file_name().unwrap())).unwrap();
    }

    /// A file that ends in quarantine with an event.
    pub(crate) fn drop_garbage(&self, number: usize) {
        let part = self.inbox().join(format!("garbage-{number}.part"));
        fs::write(&part, format!("no image {number}")).unwrap();
        fs::rename(&part, part.with_extension("png")).unwrap();
    }

    pub(crate) fn inbox_is_empty(&self) -> bool {
        holds_no_file(&self.inbox())
    }

    fn inbox(&self) -> PathBuf {
        self.folder.path().join("inbox")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("daemon.log")).unwrap()
    }

    /// Lines of the log with all of these words.
    pub(crate) fn said(&self, words: &[&str]) -> usize {
        let log = self.log();
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(has_all).count()
    }

    /// Waits for a line of the running daemon.
    pub(crate) fn wait_for_word(&self, word: &str) {
        wait_for(word, PATIENCE, || {
            self.log()[self.log_start..].contains(word)
        });
    }

    /// Waits until the broker has acknowledged everything.
    pub(crate) fn wait_until_published(&self) {
        wait_for("PUBACKs", PATIENCE, || {
            self.ask(&["ledger", "show"]).1.contains("\"messages\":0")
        });
    }

    /// SIGTERM; a clean stop exits with 0.
    pub(crate) fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.signal("-TERM");
        let status = daemon.0.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Waits until no input is left, stops the daemon and gives the books, which are right.
    pub(crate) fn close(&mut self) -> String {
        self.wait_for_word("ready");
        // The last PUBACK may still be on its way to the daemon; an input leaves with it.
        for name in ["inbox", "state/accepted"] {
            let folder = self.path().join(name);
            wait_for(&format!("an empty {name}"), PATIENCE, || {
                holds_no_file(&folder)
            });
        }
        self.stop_daemon();
        let (code, ledger) = self.ask(&["ledger", "verify"]);
        assert_eq!(code, 0, "{ledger}");
        ledger
    }
}

fn picture(number: usize) -> image::GrayImage {
    let side = 40;
    image::GrayImage::from_fn(side, side, |x, y| {
        let bright = x > 8 && x < 30 && y > 8 && y < 20 + (number % 16) as u32;
        // The last row makes every file another one.
        let mark = u8::from(y == side - 1 && number >> x & 1 == 1);
        image::Luma([if bright { 220 } else { 10 + mark }])
    })
}

/// The file that [`Station::drop_image`] drops.
pub(crate) fn png(number: usize) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let format = image::ImageFormat::Png;
    picture(number).write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn holds_no_file(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().all(|entry| {
        let path = entry.unwrap().path();
        path.is_dir() && holds_no_file(&path)
    })
}

/// Taken and given back: free a moment later too, because nobody else asks for it.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
