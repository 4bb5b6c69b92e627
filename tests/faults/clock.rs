//! F11: the wall clock begins in 1970 and jumps.

use std::fs;
use std::time::SystemTime;

use serde_json::Value;

use crate::preload;
use crate::site::{Site, mosquitto};

const IMAGES: usize = 10;
const DAY_S: i64 = 86_400;

#[test]
fn the_clock_jumps() {
    if mosquitto().is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(library) = preload::library(scratch.path()) else {
        return;
    };
    let shift = scratch.path().join("shift");
    let set = |seconds: i64| {
        let next = scratch.path().join("next");
        fs::write(&next, seconds.to_string()).unwrap();
        fs::rename(next, &shift).unwrap();
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    set(-(now.unwrap().as_secs() as i64));
    let mut site = Site::new("", "");
    site.station.wait_for_word("ready");
    site.station.kill_daemon();
    site.station.start_daemon_in(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("CLOCK_SHIFT", shift.to_str().unwrap()),
    ]);
    site.station.wait_for_word("ready");
    site.station.drop_garbage(0);
    let jumps = [
        None,
        Some(0),
        Some(365 * DAY_S),
        Some(-DAY_S),
        Some(40 * DAY_S),
    ];
    for (round, jump) in jumps.iter().enumerate() {
        if let Some(seconds) = jump {
            set(*seconds);
        }
        for number in IMAGES * round..IMAGES * (round + 1) {
            site.station.drop_image(number);
        }
        site.wait_for_results(IMAGES * (round + 1));
    }
    // Of a start with the right time, whose first look finds a file of 1970.
    site.station.kill_daemon();
    site.station.start_daemon();
    site.station.wait_for_word("ready");
    let (code, listed) = site.station.ask(&["quarantine", "list"]);
    assert_eq!((code, listed.lines().count() > 0), (0, true), "{listed}");
    assert!(
        !site.station.log().contains("quarantine is above its limit"),
        "a jump is no age\n{}",
        site.station.log()
    );
    let lines = site.lines.lock().unwrap().clone();
    let numbers: Vec<u64> = lines
        .iter()
        .map(|line| {
            let report: Value = serde_json::from_str(line).unwrap();
            report["seq"].as_u64().unwrap()
        })
        .collect();
    // What was not acknowledged before the kill comes once more.
    let first: Vec<u64> = (0..numbers.len())
        .filter(|&at| !numbers[..at].contains(&numbers[at]))
        .map(|at| numbers[at])
        .collect();
    assert!(
        first.is_sorted(),
        "results came in another order: {numbers:?}"
    );
    site.settle(IMAGES * jumps.len(), 1);
}
