//! C-STORE from DCMTK: every object that was answered with success is published.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::harness::dcmtk;
use crate::harness::process::{free_port, wait_for};
use crate::harness::site::Site;

#[test]
fn objects_of_a_real_sender_arrive() {
    if !dcmtk::is_installed() {
        return;
    }
    let port = free_port();
    let site = Site::new("", &dcmtk::config_section(port));
    let folder = tempfile::tempdir().unwrap();
    let files = dcmtk::scanner_files(folder.path());
    wait_for("the port", || dcmtk::echoscu(port, "CT1").status.success());
    let stranger = dcmtk::echoscu(port, "CT2");
    let words = String::from_utf8_lossy(&stranger.stderr);
    assert!(words.contains("Calling AE Title Not Recognized"), "{words}");

    // Three associations at once, each with another transfer syntax.
    let third = files.len().div_ceil(3);
    std::thread::scope(|scope| {
        for (files, syntax) in files.chunks(third).zip(["-xe", "-xi", "-xb"]) {
            scope.spawn(move || assert!(dcmtk::storescu(port, files, &[syntax])));
        }
    });
    assert_eq!(
        site.daemon.n_log_lines(&["association ended", "refused=0"]),
        3
    );
    site.assert_published(files.len(), 0);
}

/// A daemon that is killed at any moment of a series has what it answered with success.
#[test]
fn a_killed_daemon_has_every_object_that_it_took() {
    const SERIES: usize = 5;
    if !dcmtk::is_installed() {
        return;
    }
    let port = free_port();
    let mut site = Site::new("", &dcmtk::config_section(port));
    let folder = tempfile::tempdir().unwrap();
    let files = dcmtk::write_patients(folder.path(), 10 * SERIES as u32);
    let delivered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for series in files.chunks(SERIES) {
                // An object that was accepted without an answer is sent again, and its copy is no other object.
                wait_for("an answer", || dcmtk::storescu(port, series, &[]));
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        });
        for kill in 1..=4 {
            wait_for("a delivery", || {
                delivered.load(Ordering::Relaxed) >= 2 * kill
            });
            // Each kill comes later in its series.
            sleep(Duration::from_millis(15 * kill as u64));
            site.daemon.kill();
            site.daemon.start();
        }
    });
    site.assert_published(files.len(), 0);
}

/// Objects are answered while the inference thread is busy, and the daemon has them when it is killed then.
#[test]
fn an_answer_does_not_wait_for_inference() {
    const LARGE: usize = 3;
    if !dcmtk::is_installed() {
        return;
    }
    let port = free_port();
    let mut site = Site::new("", &dcmtk::config_section(port));
    let folder = tempfile::tempdir().unwrap();
    let files = dcmtk::write_patients(folder.path(), 5);
    site.daemon.wait_for_log("ready");
    (0..LARGE).for_each(|number| site.daemon.drop_striped_image(number, 4000));
    wait_for("an empty inbox", || site.daemon.inbox_is_empty());
    assert!(dcmtk::storescu(port, &files, &[]));
    site.daemon.kill();
    site.daemon.start();
    site.daemon.wait_for_log("ready");
    assert_eq!(site.daemon.n_log_lines(&["ready"]), 2);
    let idle = site.daemon.n_log_lines(&["ready", "waiting=0"]);
    assert_eq!(
        idle,
        1,
        "the second start found work\n{}",
        site.daemon.log()
    );
    site.assert_published(LARGE + files.len(), 0);
}
