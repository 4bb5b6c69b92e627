//! F14: days of work, in short: a steady stream of images, a broker that is restarted again and again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process;
use crate::site::{Site, mosquitto};

/// Between two images.
const BEAT: Duration = Duration::from_millis(200);
/// What the process may grow by once it is warm: caches fill for a while.
const GROWTH_MAX_MIB: f64 = 10.0;

/// How long, and the time between two restarts of the broker.
fn season() -> (Duration, Duration) {
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
    let (length, outage_every) = season();
    let mut site = Site::new("", "");
    site.station.wait_for_word("ready");
    let mut images = 50;
    (0..images).for_each(|number| site.station.drop_image(number));
    site.wait_for_results(images);
    site.station.wait_until_published();
    let id = site.station.daemon_id();
    let files_before = process::n_files(id);
    let (start, mut samples) = (Instant::now(), Vec::new());
    let (mut n_outages, mut n_checks) = (0, 0);
    while start.elapsed() < length {
        site.station.drop_image(images);
        images += 1;
        sleep(BEAT);
        if images % 5 == 0 {
            let (code, ledger) = site.station.ask(&["ledger", "verify"]);
            assert_eq!(code, 0, "{ledger}");
            n_checks += 1;
            samples.push((start.elapsed().as_secs_f64(), process::resident_mib(id)));
        }
        if start.elapsed() > outage_every * (n_outages + 1) {
            site.broker.signal("-TERM");
            site.broker.0.wait().unwrap();
            sleep(BEAT);
            site.restart_broker();
            n_outages += 1;
        }
    }
    // Connected again it is only when this one has arrived.
    site.station.drop_image(images);
    images += 1;
    site.wait_for_results(images);
    site.station.wait_until_published();
    let files = process::n_files(id);
    // The first quarter warms up.
    samples.drain(..samples.len() / 4);
    let growth = samples.last().unwrap().1 - samples[0].1;
    // Of a few seconds it says nothing.
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
    assert_eq!(files, files_before, "{:?}", process::files(id));
    let outages = site.station.said(&["connected to the broker"]);
    assert!(outages > n_outages as usize, "the broker was not restarted");
    site.settle(images, 0);
}

/// Of the line of least squares, per second.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let n = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (time, size) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let along = |sample: &(f64, f64)| (sample.0 - time) * (sample.1 - size);
    let across = |sample: &(f64, f64)| (sample.0 - time).powi(2);
    samples.iter().map(along).sum::<f64>() / samples.iter().map(across).sum::<f64>()
}
