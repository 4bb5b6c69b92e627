//! What a process costs, from `/proc`.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

pub(crate) fn resident_mib(id: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}

/// What its open file descriptors stand for.
pub(crate) fn files(id: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    // One may be closed in between.
    entries
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect()
}

/// At rest: the fewest of several looks, because an answer to a command has one for a moment.
pub(crate) fn n_files(id: u32) -> usize {
    let look = |_| {
        sleep(Duration::from_millis(50));
        files(id).len()
    };
    (0..10).map(look).min().unwrap()
}

pub(crate) fn n_threads(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/task")).unwrap().count()
}
