//! The daemon under test, in a temporary folder with its configuration, inbox, bundle, state directory and log.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::sample_bundle;

use crate::harness::images;
use crate::harness::process::{Process, wait_for};

pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    process: Option<Process>,
    /// Where the log of the running process begins.
    log_start: usize,
}

impl Daemon {
    /// A daemon that is not running yet, for a broker on this port. `config_extra` follows the section `[mqtt]`.
    pub(crate) fn new(broker_port: u16, config_extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["inbox", "bundle"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        // mosquitto drops root's rights and has to write here.
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        sample_bundle::write(&path.join("bundle"));
        let config = format!(
            "node = \"box-1\"\n[model]\nbundle = \"bundle\"\n\
             [state]\ndirectory = \"state\"\nmin_free_bytes = 0\n\
             [[folder]]\nname = \"inbox\"\ndirectory = \"inbox\"\npoll_interval_ms = 50\n\
             stable_ms = 20\n\
             [mqtt]\nhost = \"127.0.0.1\"\nport = {broker_port}\nack_timeout_ms = 2000\n\
             connect_timeout_s = 2\nbackoff_max_ms = 2000\n{config_extra}\n"
        );
        fs::write(path.join("daemon.toml"), config).unwrap();
        Self {
            folder,
            process: None,
            log_start: 0,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn replace_in_config(&self, from: &str, to: &str) {
        let path = self.path().join("daemon.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    }

    pub(crate) fn start(&mut self) {
        self.start_with_env(&[]);
    }

    pub(crate) fn start_with_env(&mut self, environment: &[(&str, &str)]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path().join("daemon.log"))
            .unwrap();
        self.log_start = log.metadata().unwrap().len() as usize;
        let mut command = self.command(&["run"]);
        command
            .env("MALLOC_ARENA_MAX", "1") // as in packaging/scansided.service
            .envs(environment.iter().copied())
            .stderr(log);
        self.process = Some(Process(command.spawn().unwrap()));
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the daemon was started")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process().0.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process().signal(name);
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.as_mut().unwrap().kill();
    }

    /// Sends SIGTERM; a clean stop exits with 0.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal("-TERM");
        let status = process.0.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Whether the process ended by itself.
    pub(crate) fn has_exited(&mut self) -> bool {
        let process = self.process.as_mut().unwrap();
        process.0.try_wait().unwrap().is_some()
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

    /// Runs a command of the program; gives the exit code and what was printed.
    pub(crate) fn cli(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), printed + &errors)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("daemon.log")).unwrap()
    }

    /// The number of log lines that contain all of these words, of every process so far.
    pub(crate) fn n_log_lines(&self, words: &[&str]) -> usize {
        let log = self.log();
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(has_all).count()
    }

    /// Waits until the running process has logged this.
    pub(crate) fn wait_for_log(&self, words: &str) {
        wait_for(words, || self.log()[self.log_start..].contains(words));
    }

    /// Waits until so many images were segmented, by all processes of the test.
    pub(crate) fn wait_for_segmented(&self, count: usize) {
        wait_for(&format!("{count} segmented images"), || {
            self.n_log_lines(&["image segmented"]) >= count
        });
    }

    /// Waits until the broker has acknowledged every message.
    pub(crate) fn wait_until_published(&self) {
        wait_for("PUBACKs", || {
            self.cli(&["ledger", "show"]).1.contains("\"messages\":0")
        });
    }

    /// Waits until no input is left, stops the daemon and gives the ledger, which balances.
    pub(crate) fn drain(&mut self) -> String {
        self.wait_for_log("ready");
        // The last PUBACK may still be on its way to the daemon, and an input is deleted when it arrives.
        for name in ["inbox", "state/accepted"] {
            let folder = self.path().join(name);
            wait_for(&format!("an empty {name}"), || holds_no_file(&folder));
        }
        self.stop();
        let (code, ledger) = self.cli(&["ledger", "verify"]);
        assert_eq!(code, 0, "{ledger}");
        ledger
    }

    fn inbox(&self) -> PathBuf {
        self.path().join("inbox")
    }

    pub(crate) fn inbox_is_empty(&self) -> bool {
        holds_no_file(&self.inbox())
    }

    /// Puts [`images::png`] into the inbox.
    pub(crate) fn drop_image(&self, number: usize) {
        self.drop_bytes(&format!("{number}.png"), &images::png(number));
    }

    /// Puts [`images::striped_png`] into the inbox.
    pub(crate) fn drop_striped_image(&self, number: usize, side: u32) {
        self.drop_bytes(&format!("{number}.png"), &images::striped_png(number, side));
    }

    /// Puts a file into the inbox that ends in quarantine with an event.
    pub(crate) fn drop_garbage(&self, number: usize) {
        let bytes = format!("no image {number}");
        self.drop_bytes(&format!("garbage-{number}.png"), bytes.as_bytes());
    }

    /// Writes beside the final name and renames, so that the daemon sees the whole file.
    pub(crate) fn drop_bytes(&self, name: &str, bytes: &[u8]) {
        let part = self.inbox().join(name).with_extension("part");
        fs::write(&part, bytes).unwrap();
        fs::rename(&part, self.inbox().join(name)).unwrap();
    }

    /// Copies a file with its mode into the inbox.
    pub(crate) fn drop_file(&self, file: &Path) {
        let part = self.inbox().join("copy.part");
        fs::copy(file, &part).unwrap();
        fs::rename(&part, self.inbox().join(file.file_name().unwrap())).unwrap();
    }

    /// Writes [`images::png`] outside of the inbox and gives its path.
    pub(crate) fn image_file(&self, number: usize) -> PathBuf {
        let path = self.path().join(format!("{number}.png"));
        fs::write(&path, images::png(number)).unwrap();
        path
    }
}

fn holds_no_file(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().all(|entry| {
        let path = entry.unwrap().path();
        path.is_dir() && holds_no_file(&path)
    })
}
