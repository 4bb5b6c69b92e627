//! Fault F2, a power cut: the daemon's own writes are recorded (`harness/preload.c`), and then the disk is built as it may be
//! after each of them. It has all that was flushed, and of the rest nothing, or a random part that is torn at 512 bytes.
//!
//! The model is that of POSIX, which is stricter than any file system in use: a name is on the disk once its folder was
//! flushed, and content once its file was. From every such disk the daemon has to start with every image that it
//! acknowledged.

mod disk;

use std::fs;
use std::path::{Path, PathBuf};

use daemon::outbox::Outbox;
use daemon::spool::Spool;
use daemon::spool::recover::recover;
use disk::{Disk, Operation};

use crate::harness::daemon::Daemon;
use crate::harness::dcmtk;
use crate::harness::preload;
use crate::harness::process::{free_port, wait_for};
use crate::harness::random::Random;

const IMAGES: usize = 12;
const OBJECTS: u32 = 12;
/// Length of an object's end in bytes, whose noise identifies it.
const TAIL: usize = 4096;

/// A run of the daemon that ended with a kill.
struct Run {
    /// The disk before it.
    disk: Disk,
    /// Name and content of the images in the inbox.
    images: Vec<(String, Vec<u8>)>,
    operations: Vec<Operation>,
    /// The DICOM objects that were answered with success, each with the length of the record at its answer.
    acknowledged: Vec<(usize, Vec<u8>)>,
}

/// Runs the daemon with `preload.c` and without a broker, so that everything that is accepted stays on the disk.
fn record_a_run(scratch: &Path, library: &Path) -> Run {
    let dicom_port = free_port();
    let mut daemon = Daemon::new(free_port(), &dcmtk::config_section(dicom_port));
    (0..IMAGES).for_each(|number| daemon.drop_image(number));
    daemon.drop_garbage(0);
    let phantoms = tempfile::tempdir().unwrap();
    let objects = dcmtk::write_patients(phantoms.path(), OBJECTS);
    let disk = Disk::load(daemon.path());
    let images = disk.contents("inbox");

    let record = scratch.join("record");
    let root = daemon.path().to_str().unwrap().to_owned();
    daemon.start_with_env(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAULT_ROOT", &root),
        ("RECORD_TO", record.to_str().unwrap()),
    ]);
    daemon.wait_for_log("ready");
    wait_for("an empty inbox", || daemon.inbox_is_empty());
    let mut acknowledged = Vec::new();
    for object in objects {
        let bytes = fs::read(&object).unwrap();
        assert!(dcmtk::storescu(dicom_port, &[object], &[]));
        acknowledged.push((fs::metadata(&record).unwrap().len() as usize, bytes));
    }
    daemon.kill();
    Run {
        disk,
        images,
        operations: disk::read(&fs::read(&record).unwrap()),
        acknowledged,
    }
}

#[test]
fn the_power_is_cut() {
    if !dcmtk::is_installed() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(library) = preload::build(scratch.path()) else {
        return;
    };
    let mut run = record_a_run(scratch.path(), &library);
    let n_operations = run.operations.len();
    let n_cuts = if crate::long() { 10_000 } else { 500 };
    let mut cuts: Vec<usize> = (0..n_cuts)
        .map(|cut| cut * (n_operations + 1) / n_cuts)
        .collect();
    cuts.dedup();
    let (mut random, mut n_applied) = (Random(1), 0);
    for (number, cut) in cuts.iter().enumerate() {
        for operation in &run.operations[n_applied..*cut] {
            run.disk.apply(operation);
        }
        n_applied = *cut;
        // Every second disk has only what was flushed.
        let random_if_torn = (number % 2 == 1).then_some(&mut random);
        let folder = tempfile::tempdir_in(scratch_root()).unwrap();
        run.disk
            .write_after_power_cut(random_if_torn, folder.path());
        let lost = run.lost(n_applied, &recover_files(folder.path()));
        assert!(
            lost.is_empty(),
            "cut {number} after {cut} of {n_operations}: lost {lost:?}"
        );
    }
    eprintln!(
        "{} cuts among {n_operations} operations, 0 lost",
        cuts.len()
    );
}

impl Run {
    /// The images, and the objects that were answered among the first operations, that no file has.
    fn lost(&self, n_operations: usize, files: &[Vec<u8>]) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, bytes) in &self.images {
            if !files.contains(bytes) {
                lost.push(name.clone());
            }
        }
        let last = self.operations[..n_operations].last();
        let record_length = last.map_or(0, |operation| operation.end);
        for (number, (answered_at, bytes)) in self.acknowledged.iter().enumerate() {
            let tail = &bytes[bytes.len() - TAIL..];
            if *answered_at <= record_length && !files.iter().any(|file| file.ends_with(tail)) {
                lost.push(format!("object {number}"));
            }
        }
        lost
    }
}

/// Recovers as the daemon does when it starts; gives the content of every file in the inbox, accepted or in quarantine.
fn recover_files(root: &Path) -> Vec<Vec<u8>> {
    let state = root.join("state");
    let outbox = Outbox::open(&state).unwrap_or_else(|error| panic!("{error}"));
    let spool = Spool::create(&state, 0).unwrap();
    recover(&outbox, &spool).unwrap();
    let ledger = outbox.ledger().unwrap();
    assert!(ledger.balances(), "{ledger}");
    let accepted = files(&state.join("accepted"));
    assert_eq!(ledger.pending, accepted.len() as u64, "{ledger}");
    let folders = [root.join("inbox"), state.join("quarantine")];
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

/// A folder in memory where there is one, because thousands of disks are written.
fn scratch_root() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    }
}
