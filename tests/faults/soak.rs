//! Fault F14: days of work in short, as a steady stream of images while the broker is restarted again and again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::process;
use crate::harness::site::{Site, mosquitto};

const IMAGE_INTERVAL: Duration = Duration::from_millis(200);
/// Limit on the growth of the process once its caches are filled.
const GROWTH_MAX_MIB: f64 = 10.0;

/// The length of the test, and the time between two restarts of the broker.
fn durations() -> (Duration, Duration) {
    if crate::long() {
        let minutes = std::env::var("SCANSIDE_SOAK_MINUTES");
        let minutes = minutes.map_or(30, |words| words.parse().unwrap());
        (Duration::from_mins(minutes), Duration::from_mins(1))
    } else {
        (Duration::from_secs(20), Duration::from_secs(5))
    }
}

#[test]
fn a_soak() {
    if mosquitto().is_none() {
        return;
    }
    let (length, outage_every) = durations();
    let mut site = Site::new("", "");
    site.daemon.wait_for_log("ready");
    let mut images = 50;
    (0..images).for_each(|number| site.daemon.drop_image(number));
    site.wait_for_results(images);
    site.daemon.wait_until_published();
    let id = site.daemon.pid();
    let files_before = process::n_open_files(id);
    let (start, mut samples) = (Instant::now(), Vec::new());
    let (mut n_outages, mut n_checks) = (0, 0);
    while start.elapsed() < length {
        site.daemon.drop_image(images);
        images += 1;
        sleep(IMAGE_INTERVAL);
        if images % 5 == 0 {
            let (code, ledger) = site.daemon.cli(&["ledger", "verify"]);
            assert_eq!(code, 0, "{ledger}");
            n_checks += 1;
            samples.push((start.elapsed().as_secs_f64(), process::resident_mib(id)));
        }
        if start.elapsed() > outage_every * (n_outages + 1) {
            site.broker.signal("-TERM");
            site.broker.0.wait().unwrap();
            sleep(IMAGE_INTERVAL);
            site.restart_broker();
            n_outages += 1;
        }
    }
    // When this one has arrived, the connection stands again.
    site.daemon.drop_image(images);
    images += 1;
    site.wait_for_results(images);
    site.daemon.wait_until_published();
    let files = process::n_open_files(id);
    // The caches fill in the first quarter.
    samples.drain(..samples.len() / 4);
    let growth = samples.last().unwrap().1 - samples[0].1;
    // A slope over a few seconds says nothing.
    let slope = if crate::long() {
        format!(", {:+.2} an hour", 3600.0 * slope(&samples))
    } else {
        String::new()
    };
    eprintln!(
        "{:.1} minutes, {n_outages} restarts of the broker: {:.1} MiB resident, {growth:+.1} since the \
         first quarter{slope}; {files_before} open files at first, {files} at last; ledger right {n_checks} times",
        start.elapsed().as_secs_f64() / 60.0,
        samples[0].1,
    );
    assert!(growth < GROWTH_MAX_MIB, "{growth:.1} MiB more: {samples:?}");
    assert_eq!(files, files_before, "{:?}", process::open_files(id));
    let outages = site.daemon.n_log_lines(&["connected to the broker"]);
    assert!(outages > n_outages as usize, "the broker was not restarted");
    site.assert_published(images, 0);
}

/// The slope of the least-squares line, per second.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let n = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (time, size) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let along = |sample: &(f64, f64)| (sample.0 - time) * (sample.1 - size);
    let across = |sample: &(f64, f64)| (sample.0 - time).powi(2);
    samples.iter().map(along).sum::<f64>() / samples.iter().map(across).sum::<f64>()
}
