//! The start after a stop at any moment.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::clock;
use crate::outbox::job::{JobNumber, State};
use crate::outbox::{Arrival, Outbox};
use crate::spool::quarantine;
use crate::spool::{AcceptError, Spool, SpoolError, failed};

/// Brings files and rows together after a stop at any moment, and gives the jobs to work on, oldest
/// first.
pub fn recover(outbox: &Outbox, spool: &Spool) -> Result<Vec<JobNumber>, AcceptError> {
    for path in files_below(&spool.accepted, fs::FileType::is_file)? {
        if path
            .extension()
            .is_some_and(|extension| extension == "part")
        {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    quarantine::finish_refusals(spool, outbox)?;
    let mut known = HashSet::new();
    let mut waiting = Vec::new();
    for (job_number, job) in outbox.jobs()? {
        known.insert(spool.input(&job));
        match &job.state {
            State::Accepted | State::Leased { .. } => {
                quarantine::bring_back(spool, &job)?;
                waiting.push(job_number);
            }
            State::Inferred { .. } => {}
            State::Published => {
                spool.release_input(&job)?;
                outbox.forget(job_number);
            }
            State::Quarantined { reason } => {
                quarantine::store(spool, &spool.input(&job), &job.file, reason)?;
                outbox.forget(job_number);
            }
            State::Dropped => {
                quarantine::remove(spool, &job)?;
                outbox.forget(job_number);
            }
        }
    }
    let mut orphans = orphans(spool, &known)?;
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

fn orphans(spool: &Spool, known: &HashSet<PathBuf>) -> Result<Vec<Arrival>, SpoolError> {
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut orphans = Vec::new();
    for folder in files_below(&spool.accepted, fs::FileType::is_dir)? {
        for path in files_below(&folder, fs::FileType::is_file)? {
            if !known.contains(&path) {
                orphans.push(Arrival {
                    source: name(&folder),
                    file: name(&path),
                    received_at: clock::now(),
                    sender: None,
                });
            }
        }
    }
    Ok(orphans)
}

fn files_below(
    folder: &Path,
    kind: impl Fn(&fs::FileType) -> bool,
) -> Result<Vec<PathBuf>, SpoolError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Reason;
    use crate::outbox::Message;
    use crate::outbox::job::Input;
    use crate::spool::InboxFile;

    fn found(path: &Path) -> InboxFile {
        let metadata = path.metadata().ok();
        InboxFile {
            path: path.to_owned(),
            bytes: metadata.as_ref().map_or(0, fs::Metadata::len),
            modified: metadata.and_then(|metadata| metadata.modified().ok()),
        }
    }

    struct Box {
        folder: tempfile::TempDir,
        spool: Spool,
        outbox: Outbox,
    }

    fn a_box() -> Box {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(folder.path(), 0).unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        Box {
            folder,
            spool,
            outbox,
        }
    }

    #[test]
    fn a_file_claimed_without_a_row_is_accepted_at_the_next_start() {
        let Box {
            folder,
            spool,
            outbox,
        } = a_box();
        let inbox = folder.path().join("inbox");
        fs::create_dir(&inbox).unwrap();
        fs::write(inbox.join("a.dcm"), b"a").unwrap();
        let files = [found(&inbox.join("a.dcm")), found(&inbox.join("gone"))];
        let claimed = spool.claim("ward", &files, 0).unwrap();
        assert_eq!((claimed.arrivals.len(), claimed.left.len()), (1, 0));
        assert!(!inbox.join("a.dcm").exists());
        // The process dies here, and in the middle of another copy.
        fs::write(spool.accepted.join("b.part"), b"half").unwrap();
        let waiting = recover(&outbox, &spool).unwrap();
        assert_eq!(waiting.len(), 1);
        assert_eq!(recover(&outbox, &spool).unwrap(), waiting, "only once");
        assert_eq!(outbox.jobs().unwrap()[0].1.source, "ward");
        assert!(outbox.ledger().unwrap().balances());
        assert!(!spool.accepted.join("b.part").exists());
    }

    #[test]
    fn files_follow_their_rows_after_a_crash() {
        let Box {
            folder,
            spool,
            outbox,
        } = a_box();
        for name in ["a", "b"] {
            fs::write(folder.path().join(name), name).unwrap();
            let files = [found(&folder.path().join(name))];
            let claimed = spool.claim("ward", &files, 0).unwrap();
            outbox.accept(&claimed.arrivals).unwrap();
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
        outbox
            .append(2, &Input::of(b"b"), |_| vec![event(0)])
            .unwrap();
        outbox.acknowledge(&[(2, 0)]).unwrap();
        // The process dies before either file moved.
        assert!(recover(&outbox, &spool).unwrap().is_empty());
        assert_eq!(
            fs::read_dir(spool.accepted.join("ward")).unwrap().count(),
            0
        );
        assert_eq!(
            fs::read_dir(&spool.quarantine).unwrap().count(),
            2,
            "file and reason"
        );
        outbox.reject().unwrap();
        assert!(
            outbox.jobs().unwrap().is_empty(),
            "rows went with the next commit"
        );
    }
}
