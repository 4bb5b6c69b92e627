//! F3: nobody takes results for a day; then all of them at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process::resident_mib;
use crate::site::{Site, mosquitto};
use crate::station::PATIENCE;

/// Of a minute.
const RATE: usize = 20;
/// What the books and their cache may grow by.
const GROWTH_MAX_MIB: f64 = 10.0;

#[test]
fn results_of_a_day_wait() {
    if mosquitto().is_none() {
        return;
    }
    // A day's images come as fast as the box takes them.
    let minutes = if crate::long() { 24 * 60 } else { 60 };
    let images = RATE * minutes;
    let mut site = Site::new("", "");
    site.station.wait_for_word("ready");
    (0..RATE).for_each(|number| site.station.drop_image(number));
    site.wait_for_results(RATE);
    site.broker.signal("-KILL");
    site.broker.0.wait().unwrap();
    let before = resident_mib(site.station.daemon_id());
    for minute in 1..minutes {
        (RATE * minute..RATE * (minute + 1)).for_each(|number| site.station.drop_image(number));
        site.station.wait_for_segmented(RATE * (minute + 1));
    }
    let growth = resident_mib(site.station.daemon_id()) - before;
    site.restart_broker();
    let start = Instant::now();
    while site.n_results() <= RATE {
        sleep(Duration::from_millis(10));
        assert!(start.elapsed() < PATIENCE, "{}", site.station.log());
    }
    let (first, drained) = (site.n_results(), Instant::now());
    site.wait_for_results(images);
    let rate = (images - first) as f64 / drained.elapsed().as_secs_f64();
    eprintln!(
        "{minutes} minutes away: {growth:.1} MiB more than {before:.1}, then {rate:.0} results/s"
    );
    assert!(
        growth < GROWTH_MAX_MIB,
        "{growth:.1} MiB more than {before:.1}"
    );
    site.settle(images, 0);
}
