//! Inputs that ended without a result: the file, `<name>.reason.json` beside it, and a row in the
//! outbox, which is the truth.
//!
//! A refused file lies here under a hidden name until its row is committed. Whoever moves a file in or
//! out holds `Spool::moving` from the commit of the row until the file has followed, so that nobody
//! meets a row without its file. `release` is the way out.

mod release;
mod retention;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use serde::Serialize;
use uuid::Uuid;

use crate::clock;
use crate::config;
use crate::disk::rights::{self, create_file};
use crate::failure::{Failure, Reason};
use crate::outbox::job::JobNumber;
use crate::outbox::{Arrival, Outbox};
use crate::report::encode::Encoder;
use crate::spool::name::{label, new_name};
use crate::spool::{AcceptError, InboxFile, Left, Spool, SpoolError, broken, failed, sync_folder};

pub use release::{Retried, discard, retry};
pub(crate) use release::{bring_back, remove};
pub use retention::expire;

#[derive(Serialize)]
struct Note<'a> {
    #[serde(flatten)]
    reason: &'a Reason,
    quarantined_at: String,
}

/// Moves the input of an accepted job into quarantine under `name` with its reason. Doing it again
/// changes nothing.
pub fn store(spool: &Spool, file: &Path, name: &str, reason: &Reason) -> Result<(), SpoolError> {
    write_note(spool, name, reason)?;
    match fs::rename(file, spool.quarantine.join(name)) {
        // Moved by an earlier run, or the disk lost it; the reason tells which.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        moved => moved.map_err(failed("move", file))?,
    }
    sync_folder(&spool.quarantine)
}

fn alone(spool: &Spool) -> MutexGuard<'_, ()> {
    spool.moving.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note_of(spool: &Spool, name: &str) -> PathBuf {
    spool.quarantine.join(format!("{name}.reason.json"))
}

fn write_note(spool: &Spool, name: &str, reason: &Reason) -> Result<(), SpoolError> {
    let note = Note {
        reason,
        quarantined_at: clock::now(),
    };
    let text = serde_json::to_vec_pretty(&note).expect("a note is plain data");
    let path = note_of(spool, name);
    let write = || {
        let mut note = create_file(&path)?;
        note.write_all(&text)?;
        note.sync_all()
    };
    write().map_err(failed("write", &path))
}

/// Moves files above the folder's limit into quarantine and counts them as rejected. What cannot be
/// renamed stays and is not counted: the disk is not filled with what nobody wants.
pub fn refuse(
    spool: &Spool,
    outbox: &Outbox,
    files: &[InboxFile],
    folder: &config::Folder,
) -> Result<Vec<Left>, AcceptError> {
    let _alone = alone(spool);
    let mut left = Vec::new();
    for file in files {
        let refusal = Refusal {
            limit: folder.file_max_bytes,
            source: folder.name.clone(),
            name: new_name(&file.path),
        };
        match fs::rename(&file.path, refusal.hidden(spool)) {
            Ok(()) => {
                // What is somebody else's keeps its rights, in a folder that is closed.
                let _ = rights::close(&refusal.hidden(spool));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if broken(&error) => {
                return Err(failed("move to", &spool.quarantine.join(&refusal.name))(error).into());
            }
            Err(error) => {
                left.push(Left {
                    path: file.path.clone(),
                    why: "file above `file_max_bytes` cannot be moved into quarantine, remove it",
                    error,
                });
                continue;
            }
        }
        refusal.finish(spool, outbox)?;
        tracing::warn!(source = folder.name, bytes = file.bytes, "file refused");
    }
    Ok(left)
}

/// Ends what a kill interrupted.
pub(crate) fn finish_refusals(spool: &Spool, outbox: &Outbox) -> Result<(), AcceptError> {
    let folder = &spool.quarantine;
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let name = entry.map_err(failed("read", folder))?.file_name();
        if let Some(refusal) = name.to_str().and_then(Refusal::parse) {
            refusal.finish(spool, outbox)?;
        }
    }
    Ok(())
}

/// A refused file under way: `.refused-<limit>-<source>.<name>`.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    limit: u64,
    source: String,
    name: String,
}

const REFUSED_PREFIX: &str = ".refused-";

impl Refusal {
    fn hidden(&self, spool: &Spool) -> PathBuf {
        let (limit, source, name) = (self.limit, &self.source, &self.name);
        spool
            .quarantine
            .join(format!("{REFUSED_PREFIX}{limit:x}-{source}.{name}"))
    }

    fn parse(file_name: &str) -> Option<Self> {
        let (limit, rest) = file_name.strip_prefix(REFUSED_PREFIX)?.split_once('-')?;
        // The name of a source has no dot.
        let (source, name) = rest.split_once('.')?;
        label(name)?;
        Some(Self {
            limit: u64::from_str_radix(limit, 16).ok()?,
            source: source.to_owned(),
            name: name.to_owned(),
        })
    }

    fn finish(&self, spool: &Spool, outbox: &Outbox) -> Result<(), AcceptError> {
        let (hidden, path) = (self.hidden(spool), spool.quarantine.join(&self.name));
        let bytes = fs::metadata(&hidden).map_err(failed("read", &path))?.len();
        let limit = self.limit;
        let reason = Failure::FileTooLarge { bytes, limit }.reason();
        write_note(spool, &self.name, &reason)?;
        sync_folder(&spool.quarantine)?;
        let arrival = Arrival {
            source: self.source.clone(),
            file: self.name.clone(),
            received_at: clock::now(),
            sender: None,
        };
        outbox.refuse(&arrival, &reason)?;
        fs::rename(&hidden, &path).map_err(failed("move to", &path))?;
        Ok(sync_folder(&spool.quarantine)?)
    }
}

/// Ends an accepted job: row and event first, then the file, which stays unless it is one of our own.
pub fn end(spool: &Spool, job_failure: &JobFailure<'_>) -> Result<(), AcceptError> {
    let JobFailure {
        outbox,
        encoder,
        job_number,
        job_id,
        failure,
    } = *job_failure;
    let reason = failure.reason();
    let Some(job) = outbox.job(job_number)? else {
        return Ok(());
    };
    let alone = alone(spool);
    let event = |seq| encoder.quarantined((job_number, &job.source), job_id, seq, &reason);
    if outbox.quarantine(job_number, &reason, event)?.is_none() {
        return Ok(());
    }
    let sender = outbox
        .history(job_number)?
        .and_then(|history| history.sender);
    // What a peer sent is still where it came from; a file of an inbox is nowhere else.
    let is_elsewhere = sender.is_some();
    tracing::warn!(
        job = job_number,
        sender = sender.map(tracing::field::display),
        code = reason.code,
        words = reason.words,
        "image quarantined"
    );
    store(spool, &spool.input(&job), &job.file, &reason)?;
    outbox.forget(job_number);
    drop(alone);
    if is_elsewhere
        && failure.is_own_object()
        && let Some(entry) = outbox.quarantined_as(&job.file)?
    {
        discard(outbox, spool, &entry)?;
    }
    Ok(())
}

/// A job and why it ends in quarantine.
#[derive(Debug, Clone, Copy)]
pub struct JobFailure<'a> {
    pub outbox: &'a Outbox,
    pub encoder: &'a Encoder,
    pub job_number: JobNumber,
    pub job_id: Option<Uuid>,
    pub failure: &'a Failure,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &Path) -> InboxFile {
        InboxFile {
            path: path.to_owned(),
            bytes: 200,
            modified: None,
        }
    }

    fn ward() -> config::Folder {
        config::Folder {
            name: "ward".into(),
            directory: "inbox".into(),
            poll_interval_ms: 10,
            stable_ms: 0,
            depth_max: 1,
            file_max_bytes: 100,
        }
    }

    #[test]
    fn only_files_that_moved_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(folder.path(), 0).unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let large = folder.path().join("large");
        fs::write(&large, vec![0; 200]).unwrap();
        // One that vanished, and one that not even root can move.
        let stuck = Path::new("/sys/kernel/fscaps");
        assert!(stuck.exists());
        let files = [
            found(&folder.path().join("gone")),
            found(stuck),
            found(&large),
        ];
        let left = refuse(&spool, &outbox, &files, &ward()).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, stuck);
        assert_eq!(outbox.ledger().unwrap().rejected, 1);
        assert_eq!(fs::read_dir(&spool.quarantine).unwrap().count(), 2);
    }

    #[test]
    fn a_refusal_is_counted_once_wherever_the_process_dies() {
        for counted in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let spool = Spool::create(folder.path(), 0).unwrap();
            let outbox = Outbox::open(folder.path()).unwrap();
            outbox.reject().unwrap();
            let refusal = Refusal {
                limit: 100,
                source: "ward-2".into(),
                name: new_name(Path::new("a-b.dcm")),
            };
            fs::write(refusal.hidden(&spool), vec![0; 200]).unwrap();
            if counted {
                let arrival = Arrival {
                    source: "ward-2".into(),
                    file: refusal.name.clone(),
                    received_at: clock::now(),
                    sender: None,
                };
                let reason = Failure::FileTooLarge {
                    bytes: 200,
                    limit: 100,
                };
                outbox.refuse(&arrival, &reason.reason()).unwrap();
            }
            // The process dies here.
            for _ in 0..2 {
                finish_refusals(&spool, &outbox).unwrap();
                assert_eq!(outbox.ledger().unwrap().rejected, 2);
            }
            let entries = outbox.quarantined().unwrap();
            assert_eq!((entries.len(), &*entries[0].source), (1, "ward-2"));
            let path = spool.quarantine.join(&refusal.name);
            let note = fs::read_to_string(format!("{}.reason.json", path.display())).unwrap();
            assert!(path.exists() && note.contains("the limit is 100"), "{note}");
        }
    }
}
