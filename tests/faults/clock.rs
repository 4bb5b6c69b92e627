//! Fault F11: the wall clock starts in 1970 and jumps.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;

use crate::harness::preload;
use crate::harness::site::{Site, mosquitto};

const IMAGES: usize = 10;
const DAY_S: i64 = 86_400;

/// The file with the offset of the daemon's clock.
struct Shift(PathBuf);

impl Shift {
    fn set(&self, seconds: i64) {
        let next = self.0.with_extension("next");
        fs::write(&next, seconds.to_string()).unwrap();
        fs::rename(next, &self.0).unwrap();
    }
}

#[test]
fn the_clock_jumps() {
    if mosquitto().is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(library) = preload::build(scratch.path()) else {
        return;
    };
    let shift = Shift(scratch.path().join("shift"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    shift.set(-(now.unwrap().as_secs() as i64));
    let mut site = Site::new("", "");
    site.daemon.wait_for_log("ready");
    site.daemon.kill();
    site.daemon.start_with_env(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("CLOCK_SHIFT", shift.0.to_str().unwrap()),
    ]);
    site.daemon.wait_for_log("ready");
    site.daemon.drop_garbage(0);
    let jumps = [
        None,
        Some(0),
        Some(365 * DAY_S),
        Some(-DAY_S),
        Some(40 * DAY_S),
    ];
    for (round, jump) in jumps.iter().enumerate() {
        if let Some(seconds) = jump {
            shift.set(*seconds);
        }
        for number in IMAGES * round..IMAGES * (round + 1) {
            site.daemon.drop_image(number);
        }
        site.wait_for_results(IMAGES * (round + 1));
    }
    // A start with the right time finds a file of 1970 in quarantine and must not take it for old.
    site.daemon.kill();
    site.daemon.start();
    site.daemon.wait_for_log("ready");
    let (code, listed) = site.daemon.cli(&["quarantine", "list"]);
    assert_eq!((code, listed.lines().count() > 0), (0, true), "{listed}");
    assert!(
        !site.daemon.log().contains("quarantine is above its limit"),
        "a jump of the clock is no age\n{}",
        site.daemon.log()
    );
    assert_in_order(&site.payloads.lock().unwrap());
    site.assert_published(IMAGES * jumps.len(), 1);
}

/// Results that were not acknowledged before the kill are published once more, and these copies do not count.
fn assert_in_order(payloads: &[String]) {
    let numbers: Vec<u64> = payloads
        .iter()
        .map(|line| {
            let report: Value = serde_json::from_str(line).unwrap();
            report["seq"].as_u64().unwrap()
        })
        .collect();
    let first: Vec<u64> = (0..numbers.len())
        .filter(|&at| !numbers[..at].contains(&numbers[at]))
        .map(|at| numbers[at])
        .collect();
    assert!(
        first.is_sorted(),
        "results came in another order: {numbers:?}"
    );
}
