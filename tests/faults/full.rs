//! F7: the disk is full from any of the daemon's writes on, and has room again a second later.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::site::Site;
use crate::station::{PATIENCE, Station, free_port, wait_for};
use crate::{preload, sender};

const IMAGES: usize = 3;
const OBJECTS: usize = 2;

#[test]
fn the_disk_is_full_at_every_stage() {
    if !sender::dcmtk() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(library) = preload::library(scratch.path()) else {
        return;
    };
    let port = free_port();
    let mut site = Site::new("", &sender::section(port));
    let full = scratch.path().join("full");
    let root = site.station.path().to_str().unwrap().to_owned();
    let stages: Vec<usize> = if crate::long() {
        (0..200).collect()
    } else {
        (0..60).step_by(6).collect()
    };
    let objects = sender::phantoms(scratch.path(), (OBJECTS * stages.len()) as u32);
    let mut n_ends = 0;
    for (round, (stage, objects)) in stages.iter().zip(objects.chunks(OBJECTS)).enumerate() {
        n_ends += revive(&mut site.station);
        // It hears SIGTERM from here on.
        site.station.wait_for_word("ready");
        site.station.stop_daemon();
        fs::write(&full, "").unwrap();
        (0..IMAGES).for_each(|number| site.station.drop_image(IMAGES * round + number));
        site.station.start_daemon_in(&[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAULT_ROOT", &root),
            ("FULL_AFTER", &stage.to_string()),
            ("FULL_WHILE", full.to_str().unwrap()),
        ]);
        // An object that is taken now has to be there later as much as one that is taken then.
        let taken: Vec<bool> = objects
            .iter()
            .map(|object| sender::deliver(port, std::slice::from_ref(object), &[]))
            .collect();
        sleep(Duration::from_secs(1));
        fs::remove_file(&full).unwrap();
        n_ends += revive(&mut site.station);
        for object in objects.iter().zip(taken).filter(|(_, taken)| !taken) {
            let object = std::slice::from_ref(object.0);
            wait_for("room", PATIENCE, || {
                n_ends += revive(&mut site.station);
                sender::deliver(port, object, &[])
            });
        }
        let arrived = (IMAGES + OBJECTS) * (round + 1);
        wait_for("results", PATIENCE, || {
            n_ends += revive(&mut site.station);
            site.n_results() >= arrived
        });
    }
    eprintln!("{} stages, the daemon ended in {n_ends}", stages.len());
    site.settle((IMAGES + OBJECTS) * stages.len(), 0);
}

/// A disk that does not take the books ends the daemon; systemd starts it again. Gives 1 then.
fn revive(station: &mut Station) -> usize {
    let ended = station.daemon_ended();
    if ended {
        station.start_daemon();
    }
    ended.into()
}
