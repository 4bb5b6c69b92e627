//! Fault F3: the broker is away for a day, and then accepts all results at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::process::{TIMEOUT, resident_mib};
use crate::harness::site::{Site, mosquitto};

const IMAGES_PER_MINUTE: usize = 20;
/// Limit on the growth of the outbox and its cache in memory.
const GROWTH_MAX_MIB: f64 = 10.0;

#[test]
fn results_of_a_day_wait() {
    if mosquitto().is_none() {
        return;
    }
    // The images of a day are dropped as fast as they are segmented.
    let minutes = if crate::long() { 24 * 60 } else { 60 };
    let images = IMAGES_PER_MINUTE * minutes;
    let mut site = Site::new("", "");
    site.daemon.wait_for_log("ready");
    (0..IMAGES_PER_MINUTE).for_each(|number| site.daemon.drop_image(number));
    site.wait_for_results(IMAGES_PER_MINUTE);
    site.broker.signal("-KILL");
    site.broker.0.wait().unwrap();
    let before = resident_mib(site.daemon.pid());
    for minute in 1..minutes {
        (IMAGES_PER_MINUTE * minute..IMAGES_PER_MINUTE * (minute + 1))
            .for_each(|number| site.daemon.drop_image(number));
        site.daemon
            .wait_for_segmented(IMAGES_PER_MINUTE * (minute + 1));
    }
    let growth = resident_mib(site.daemon.pid()) - before;
    site.restart_broker();
    let start = Instant::now();
    while site.n_results() <= IMAGES_PER_MINUTE {
        sleep(Duration::from_millis(10));
        assert!(start.elapsed() < TIMEOUT, "{}", site.daemon.log());
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
    site.assert_published(images, 0);
}
