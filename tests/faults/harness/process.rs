//! Child processes of a test, waiting for what they do, and what `/proc` says about them.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(2);

/// A child process that is killed when its test ends.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.0.id().to_string()])
            .status();
        assert!(status.unwrap().success(), "kill {name}");
    }

    pub(crate) fn kill(&mut self) {
        // It may have exited by itself.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `condition` holds; `what` names it in the failure.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < TIMEOUT,
            "{what} did not happen in {TIMEOUT:?}"
        );
        sleep(Duration::from_millis(20));
    }
}

/// The kernel hands out another port at the next call, so this one stays free until the test binds it.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub(crate) fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}

/// The targets of its open file descriptors.
pub(crate) fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // A descriptor may be closed between listing and reading it.
    entries
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect()
}

/// The number of open files of a process at rest. It is the smallest of several samples, because answering a command opens
/// one for a moment.
pub(crate) fn n_open_files(pid: u32) -> usize {
    let sample = |_| {
        sleep(Duration::from_millis(50));
        open_files(pid).len()
    };
    (0..10).map(sample).min().unwrap()
}

pub(crate) fn n_threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}
