//! F2, a power cut: the daemon's own writes are recorded (`preload.c`), then the disk is put together as it may be after
//! any of them: with all that was flushed, and of the rest nothing, or some of it, torn at 512 bytes.
//!
//! The model is POSIX's, stricter than any file system in use: a name is on the disk once its folder was flushed, content
//! once its file was. The daemon has to come up from every such disk with every image that it answered for.

use std::fs;
use std::path::{Path, PathBuf};

use daemon::outbox::Outbox;
use daemon::spool::Shelves;
use daemon::spool::recover::recover;

use crate::disk::{Disk, read};
use crate::random::Random;
use crate::station::{PATIENCE, Station, free_port, wait_for};
use crate::{preload, sender};

const IMAGES: usize = 12;
const OBJECTS: u32 = 12;
/// Of an object's end, which is noise and tells it from the others.
const TAIL: usize = 4096;

#[test]
fn the_power_is_cut() {
    if !sender::dcmtk() {
        return;
    }
    let dicom = free_port();
    // Nobody listens at the broker's port: everything that comes in stays.
    let mut station = Station::new(free_port(), &sender::section(dicom));
    (0..IMAGES).for_each(|number| station.drop_image(number));
    station.drop_garbage(0);
    let phantoms = tempfile::tempdir().unwrap();
    let objects = sender::phantoms(phantoms.path(), OBJECTS);
    let start = Disk::of(station.path());
    let images = start.contents("inbox");

    let scratch = tempfile::tempdir().unwrap();
    let record = scratch.path().join("record");
    let Some(library) = preload::library(scratch.path()) else {
        return;
    };
    let root = station.path().to_str().unwrap().to_owned();
    station.start_daemon_in(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAULT_ROOT", &root),
        ("RECORD_TO", record.to_str().unwrap()),
    ]);
    station.wait_for_word("ready");
    wait_for("an empty inbox", PATIENCE, || station.inbox_is_empty());
    let mut answered = Vec::new();
    for object in objects {
        let bytes = fs::read(&object).unwrap();
        assert!(sender::deliver(dicom, &[object], &[]));
        answered.push((fs::metadata(&record).unwrap().len() as usize, bytes));
    }
    station.kill_daemon();

    let entries = read(&fs::read(&record).unwrap());
    let n_cuts = if crate::long() { 10_000 } else { 500 };
    let mut random = Random(1);
    let mut cuts: Vec<usize> = (0..n_cuts)
        .map(|cut| cut * (entries.len() + 1) / n_cuts)
        .collect();
    cuts.dedup();
    let (mut disk, mut done) = (start, 0);
    for (number, cut) in cuts.iter().enumerate() {
        for entry in &entries[done..*cut] {
            disk.apply(entry);
        }
        done = *cut;
        let end = entries[..*cut].last().map_or(0, |entry| entry.end);
        let promised = answered.iter().filter(|(at, _)| *at <= end);
        let promised: Vec<&[u8]> = promised
            .map(|(_, bytes)| &bytes[bytes.len() - TAIL..])
            .collect();
        // Every second disk has nothing that was not flushed.
        let luck = (number % 2 == 1).then_some(&mut random);
        let folder = tempfile::tempdir_in(memory()).unwrap();
        disk.after_a_cut(luck, folder.path());
        let found = come_up(folder.path());
        for (image, bytes) in &images {
            assert!(
                found.iter().any(|file| file == bytes),
                "cut {number} after {cut} of {}: {image} is lost",
                entries.len()
            );
        }
        for (object, tail) in promised.iter().enumerate() {
            assert!(
                found.iter().any(|file| file.ends_with(tail)),
                "cut {number} after {cut} of {}: object {object} was answered with success and is lost",
                entries.len()
            );
        }
    }
    eprintln!(
        "{} cuts among {} operations, 0 lost",
        cuts.len(),
        entries.len()
    );
}

/// Starts from what is left and gives the content of every file in the inbox and on the shelves.
fn come_up(station: &Path) -> Vec<Vec<u8>> {
    let state = station.join("state");
    let outbox = Outbox::open(&state).unwrap_or_else(|error| panic!("{error}"));
    let shelves = Shelves::create(&state, 0).unwrap();
    recover(&outbox, &shelves).unwrap();
    let ledger = outbox.ledger().unwrap();
    assert!(ledger.balances(), "{ledger}");
    let accepted = files(&state.join("accepted"));
    assert_eq!(ledger.pending, accepted.len() as u64, "{ledger}");
    let folders = [station.join("inbox"), state.join("quarantine")];
    let others = folders.iter().flat_map(|folder| files(folder));
    accepted
        .into_iter()
        .chain(others)
        .map(|path| fs::read(path).unwrap())
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Thousands of disks are written; in memory where that is possible.
fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    }
}
