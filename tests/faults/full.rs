//! Fault F7: the disk is full from one of the daemon's writes on, and has room again a second later.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::daemon::Daemon;
use crate::harness::dcmtk;
use crate::harness::preload;
use crate::harness::process::{free_port, wait_for};
use crate::harness::site::Site;

const IMAGES: usize = 3;
const OBJECTS: usize = 2;

#[test]
fn the_disk_is_full_at_every_stage() {
    if !dcmtk::is_installed() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(library) = preload::build(scratch.path()) else {
        return;
    };
    let port = free_port();
    let mut site = Site::new("", &dcmtk::config_section(port));
    let full = scratch.path().join("full");
    let root = site.daemon.path().to_str().unwrap().to_owned();
    let stages: Vec<usize> = if crate::long() {
        (0..200).collect()
    } else {
        (0..60).step_by(6).collect()
    };
    let objects = dcmtk::write_patients(scratch.path(), (OBJECTS * stages.len()) as u32);
    let mut n_restarts = 0;
    for (round, (stage, objects)) in stages.iter().zip(objects.chunks(OBJECTS)).enumerate() {
        n_restarts += restart_if_exited(&mut site.daemon);
        // From here on it handles SIGTERM.
        site.daemon.wait_for_log("ready");
        site.daemon.stop();
        fs::write(&full, "").unwrap();
        (0..IMAGES).for_each(|number| site.daemon.drop_image(IMAGES * round + number));
        site.daemon.start_with_env(&[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAULT_ROOT", &root),
            ("FULL_AFTER", &stage.to_string()),
            ("FULL_WHILE", full.to_str().unwrap()),
        ]);
        // An object that is accepted now must be published as well as one that is accepted later.
        let accepted: Vec<bool> = objects
            .iter()
            .map(|object| dcmtk::storescu(port, std::slice::from_ref(object), &[]))
            .collect();
        sleep(Duration::from_secs(1));
        fs::remove_file(&full).unwrap();
        n_restarts += restart_if_exited(&mut site.daemon);
        for object in objects
            .iter()
            .zip(accepted)
            .filter(|(_, accepted)| !accepted)
        {
            let object = std::slice::from_ref(object.0);
            wait_for("room", || {
                n_restarts += restart_if_exited(&mut site.daemon);
                dcmtk::storescu(port, object, &[])
            });
        }
        let arrived = (IMAGES + OBJECTS) * (round + 1);
        wait_for("results", || {
            n_restarts += restart_if_exited(&mut site.daemon);
            site.n_results() >= arrived
        });
    }
    eprintln!("{} stages, the daemon ended in {n_restarts}", stages.len());
    site.assert_published((IMAGES + OBJECTS) * stages.len(), 0);
}

/// Starts a daemon again that exited because its outbox could not be written, as systemd does. Gives the number of restarts.
fn restart_if_exited(daemon: &mut Daemon) -> usize {
    let exited = daemon.has_exited();
    if exited {
        daemon.start();
    }
    exited.into()
}
