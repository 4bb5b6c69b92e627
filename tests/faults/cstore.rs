//! DCMTK delivers with C-STORE: what was answered with success arrives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::sender;
use crate::site::Site;
use crate::station::{PATIENCE, free_port, wait_for};

/// Every result of every object that DCMTK delivered reaches the subscriber.
#[test]
fn objects_of_a_real_sender_arrive() {
    if !sender::dcmtk() {
        return;
    }
    let port = free_port();
    let site = Site::new("", &sender::section(port));
    let folder = tempfile::tempdir().unwrap();
    let files = sender::series(folder.path());
    wait_for("the port", PATIENCE, || {
        sender::call("echoscu", port, &["-aet", "CT1"])
            .status
            .success()
    });
    let stranger = sender::call("echoscu", port, &["-aet", "CT2"]);
    let words = String::from_utf8_lossy(&stranger.stderr);
    assert!(words.contains("Calling AE Title Not Recognized"), "{words}");

    // Three associations at once.
    let third = files.len().div_ceil(3);
    std::thread::scope(|scope| {
        for (files, syntax) in files.chunks(third).zip(["-xe", "-xi", "-xb"]) {
            scope.spawn(move || assert!(sender::deliver(port, files, &[syntax])));
        }
    });
    assert_eq!(site.station.said(&["association ended", "refused=0"]), 3);
    site.settle(files.len(), 0);
}

/// Killed at any moment of a delivery, the daemon has what it answered with success.
#[test]
fn a_killed_daemon_has_every_object_that_it_took() {
    const SERIES: usize = 5;
    if !sender::dcmtk() {
        return;
    }
    let port = free_port();
    let mut site = Site::new("", &sender::section(port));
    let folder = tempfile::tempdir().unwrap();
    let files = sender::phantoms(folder.path(), 10 * SERIES as u32);
    let delivered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for series in files.chunks(SERIES) {
                // What was taken without an answer comes again, and a copy is no other object.
                wait_for("an answer", PATIENCE, || sender::deliver(port, series, &[]));
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        });
        for kill in 1..=4 {
            wait_for("a delivery", PATIENCE, || {
                delivered.load(Ordering::Relaxed) >= 2 * kill
            });
            // Each time elsewhere in the next series.
            sleep(Duration::from_millis(15 * kill as u64));
            site.station.kill_daemon();
            site.station.start_daemon();
        }
    });
    site.settle(files.len(), 0);
}

/// While the inference thread is busy, objects are answered; killed then, the daemon has them.
#[test]
fn an_answer_does_not_wait_for_inference() {
    const LARGE: usize = 3;
    if !sender::dcmtk() {
        return;
    }
    let port = free_port();
    let mut site = Site::new("", &sender::section(port));
    let folder = tempfile::tempdir().unwrap();
    let files = sender::phantoms(folder.path(), 5);
    site.station.wait_for_word("ready");
    (0..LARGE).for_each(|number| site.station.drop_striped_image(number, 4000));
    wait_for("an empty inbox", PATIENCE, || site.station.inbox_is_empty());
    assert!(sender::deliver(port, &files, &[]));
    site.station.kill_daemon();
    site.station.start_daemon();
    site.station.wait_for_word("ready");
    assert_eq!(site.station.said(&["ready"]), 2);
    let idle = site.station.said(&["ready", "waiting=0"]);
    assert_eq!(
        idle,
        1,
        "the second start found work\n{}",
        site.station.log()
    );
    site.settle(LARGE + files.len(), 0);
}
