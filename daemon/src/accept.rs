//! Durable acceptance and the folders below the state directory.
//!
//! `accepted/<source>/` inputs with a row in the outbox; `quarantine/` inputs that ended with a reason;
//! `kept/` inputs of published results until their time is over. An input is accepted once its row is
//! committed; a file without a row (the process died in between) gets one at the next start.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock;
use crate::job::{Job, State, Ticket};
use crate::outbox::{Arrival, Outbox, OutboxError};
use crate::quarantine;

/// Where inputs lie. All on the file system of the outbox.
#[derive(Debug, Clone)]
pub struct Shelves {
    pub accepted: PathBuf,
    pub quarantine: PathBuf,
    kept: PathBuf,
    keep: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct ShelfError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// Names one failed step of file handling.
pub(crate) fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ShelfError + use<> {
    let path = path.to_owned();
    move |source| ShelfError {
        action,
        path,
        source,
    }
}

impl Shelves {
    pub fn create(state: &Path, keep_days: u32) -> Result<Self, ShelfError> {
        let shelves = Self {
            accepted: state.join("accepted"),
            quarantine: state.join("quarantine"),
            kept: state.join("kept"),
            keep: Duration::from_secs(u64::from(keep_days) * 86_400),
        };
        for path in [&shelves.accepted, &shelves.quarantine, &shelves.kept] {
            fs::create_dir_all(path).map_err(failed("create", path))?;
        }
        Ok(shelves)
    }

    pub fn input(&self, job: &Job) -> PathBuf {
        self.accepted.join(&job.source).join(&job.file)
    }

    /// Takes files out of an inbox: flush, rename, flush both folders. The rows are still missing.
    /// A file that vanished or cannot be moved stays out of the list with a warning.
    pub fn claim(&self, source: &str, files: &[PathBuf]) -> Result<Vec<Arrival>, ShelfError> {
        let shelf = self.accepted.join(source);
        fs::create_dir_all(&shelf).map_err(failed("create", &shelf))?;
        let mut arrivals = Vec::with_capacity(files.len());
        let mut folders = HashSet::new();
        for file in files {
            let name = shelf_name(file);
            match take(file, &shelf.join(&name)) {
                Ok(()) => {
                    folders.extend(file.parent());
                    let received_at = clock::now();
                    arrivals.push(Arrival {
                        source: source.to_owned(),
                        file: name,
                        received_at,
                    });
                }
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                Err(error) if out_of_order(&error.source) => return Err(error),
                // No path: file names may hold the patient's name.
                Err(error) => {
                    tracing::warn!(source, action = error.action, error = %error.source,
                        "a file in the inbox cannot be taken; check owner and rights");
                }
            }
        }
        for folder in folders.into_iter().chain([shelf.as_path()]) {
            sync_folder(folder)?;
        }
        Ok(arrivals)
    }

    /// Removes or keeps the input of a published job.
    pub fn depart(&self, job: &Job) -> Result<(), ShelfError> {
        let input = self.input(job);
        let gone = if self.keep.is_zero() {
            fs::remove_file(&input)
        } else {
            fs::rename(&input, self.kept.join(&job.file))
        };
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &input)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes kept inputs whose time is over; their names start with the time of acceptance.
    pub fn expire(&self) -> Result<(), ShelfError> {
        let limit = nanos().saturating_sub(self.keep.as_nanos() as u64);
        for entry in fs::read_dir(&self.kept).map_err(failed("read", &self.kept))? {
            let entry = entry.map_err(failed("read", &self.kept))?;
            let name = entry.file_name();
            let stamp = name.to_str().and_then(|name| name.get(..STAMP_DIGITS));
            let accepted = stamp.and_then(|stamp| u64::from_str_radix(stamp, 16).ok());
            if accepted.is_some_and(|accepted| accepted < limit) {
                fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Brings files and rows together after a stop at any moment, and gives the jobs to work on, oldest
/// first.
pub fn recover(outbox: &Outbox, shelves: &Shelves) -> Result<Vec<Ticket>, AcceptError> {
    let mut known = HashSet::new();
    let mut waiting = Vec::new();
    for (ticket, job) in outbox.jobs()? {
        known.insert(shelves.input(&job));
        match &job.state {
            State::Accepted | State::Leased { .. } => waiting.push(ticket),
            State::Inferred { .. } => {}
            State::Published => {
                shelves.depart(&job)?;
                outbox.forget(ticket);
            }
            State::Quarantined { reason } => {
                quarantine::store(shelves, &shelves.input(&job), &job.file, reason)?;
                outbox.forget(ticket);
            }
        }
    }
    let mut orphans = Vec::new();
    for folder in files_below(&shelves.accepted, fs::FileType::is_dir)? {
        let source = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for path in files_below(&folder, fs::FileType::is_file)? {
            if !known.contains(&path) {
                let file = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                orphans.push(Arrival {
                    source: source.clone(),
                    file,
                    received_at: clock::now(),
                });
            }
        }
    }
    if !orphans.is_empty() {
        orphans.sort_by(|a, b| a.file.cmp(&b.file));
        tracing::info!(
            images = orphans.len(),
            "accepting images that an earlier stop left without row"
        );
        waiting.extend(outbox.accept(&orphans)?);
    }
    Ok(waiting)
}

fn files_below(
    folder: &Path,
    kind: impl Fn(&fs::FileType) -> bool,
) -> Result<Vec<PathBuf>, ShelfError> {
    let read = || {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if kind(&entry.file_type()?) {
                paths.push(entry.path());
            }
        }
        Ok(paths)
    };
    read().map_err(failed("read", folder))
}

/// Moves one file with its bytes flushed; across file systems through a hidden copy.
fn take(from: &Path, to: &Path) -> Result<(), ShelfError> {
    File::open(from)
        .and_then(|file| file.sync_all())
        .map_err(failed("read", from))?;
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(from, to),
        moved => moved.map_err(failed("move", from)),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), ShelfError> {
    // Outside of accepted/<source>, so that no half copy can be taken for an orphan.
    let shelf = to.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let part = shelf.join(format!(
        "{}.part",
        to.file_name().unwrap_or_default().to_string_lossy()
    ));
    let result = fs::copy(from, &part)
        .and_then(|_| File::open(&part)?.sync_all())
        .and_then(|()| fs::rename(&part, to));
    if let Err(error) = result {
        // The original is still in the inbox; the part is only in the way.
        let _ = fs::remove_file(&part);
        return Err(failed("copy", from)(error));
    }
    sync_folder(to.parent().unwrap_or(shelf))?;
    fs::remove_file(from).map_err(failed("remove", from))
}

pub(crate) fn sync_folder(folder: &Path) -> Result<(), ShelfError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(failed("flush", folder))
}

/// Errors of the disk, not of one file: nothing may be accepted any more.
fn out_of_order(error: &io::Error) -> bool {
    use io::ErrorKind::{ReadOnlyFilesystem, StorageFull};
    const EIO: i32 = 5;
    matches!(error.kind(), StorageFull | ReadOnlyFilesystem) || error.raw_os_error() == Some(EIO)
}

const STAMP_DIGITS: usize = 16;
const NAME_MAX_BYTES: usize = 200;

/// `<time of acceptance in ns, hex>-<counter>-<original name>`: unique, and sorts by acceptance.
pub(crate) fn shelf_name(original: &Path) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = original.file_name().unwrap_or_default().to_string_lossy();
    // The end of a long name holds its extension.
    let mut start = name.len().saturating_sub(NAME_MAX_BYTES);
    while !name.is_char_boundary(start) {
        start += 1;
    }
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{:0STAMP_DIGITS$x}-{count}-{}", nanos(), &name[start..])
}

/// How long ago a file was claimed; its name carries the time.
pub(crate) fn waited(shelf_name: &str) -> Duration {
    let stamp = shelf_name
        .get(..STAMP_DIGITS)
        .and_then(|s| u64::from_str_radix(s, 16).ok());
    stamp.map_or(Duration::ZERO, |stamp| {
        Duration::from_nanos(nanos().saturating_sub(stamp))
    })
}

fn nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Reason;
    use crate::outbox::Message;

    struct Box {
        folder: tempfile::TempDir,
        shelves: Shelves,
        outbox: Outbox,
    }

    fn a_box() -> Box {
        let folder = tempfile::tempdir().unwrap();
        let shelves = Shelves::create(folder.path(), 0).unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        Box {
            folder,
            shelves,
            outbox,
        }
    }

    #[test]
    fn a_file_claimed_without_a_row_is_accepted_at_the_next_start() {
        let Box {
            folder,
            shelves,
            outbox,
        } = a_box();
        let inbox = folder.path().join("inbox");
        fs::create_dir(&inbox).unwrap();
        fs::write(inbox.join("a.dcm"), b"a").unwrap();
        let arrivals = shelves
            .claim("ward", &[inbox.join("a.dcm"), inbox.join("gone")])
            .unwrap();
        assert_eq!(arrivals.len(), 1);
        assert!(!inbox.join("a.dcm").exists());
        // The process dies here.
        let waiting = recover(&outbox, &shelves).unwrap();
        assert_eq!(waiting.len(), 1);
        assert_eq!(recover(&outbox, &shelves).unwrap(), waiting, "only once");
        assert_eq!(outbox.jobs().unwrap()[0].1.source, "ward");
        assert!(outbox.ledger().unwrap().balances());
    }

    #[test]
    fn files_follow_their_rows_after_a_crash() {
        let Box {
            folder,
            shelves,
            outbox,
        } = a_box();
        for name in ["a", "b"] {
            fs::write(folder.path().join(name), name).unwrap();
            let arrivals = shelves.claim("ward", &[folder.path().join(name)]).unwrap();
            outbox.accept(&arrivals).unwrap();
        }
        let event = |_| Message {
            topic: "event".into(),
            payload: Vec::new(),
        };
        let reason = Reason {
            code: "c".into(),
            words: "w".into(),
            remedy: "r".into(),
        };
        outbox.quarantine(1, &reason, event).unwrap();
        outbox.append(2, |_| vec![event(0)]).unwrap();
        outbox.acknowledge(&[(2, 0)]).unwrap();
        // The process dies before either file moved.
        assert!(recover(&outbox, &shelves).unwrap().is_empty());
        assert_eq!(
            fs::read_dir(shelves.accepted.join("ward")).unwrap().count(),
            0
        );
        assert_eq!(
            fs::read_dir(&shelves.quarantine).unwrap().count(),
            2,
            "file and reason"
        );
        outbox.reject().unwrap();
        assert!(
            outbox.jobs().unwrap().is_empty(),
            "rows went with the next commit"
        );
    }

    #[test]
    fn kept_inputs_expire() {
        let folder = tempfile::tempdir().unwrap();
        let shelves = Shelves::create(folder.path(), 1).unwrap();
        fs::write(shelves.kept.join(format!("{:016x}-0-old", 1)), b"").unwrap();
        fs::write(shelves.kept.join(shelf_name(Path::new("new"))), b"").unwrap();
        shelves.expire().unwrap();
        assert_eq!(fs::read_dir(&shelves.kept).unwrap().count(), 1);
    }
}
