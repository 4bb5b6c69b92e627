//! Out of quarantine: back to work, or away. The row first, then the file; what a kill interrupts is
//! finished by `recover`.

use std::fs;
use std::io;
use std::path::Path;

use super::{alone, note_of};
use crate::disk;
use crate::outbox::job::Job;
use crate::outbox::{Entry, Outbox};
use crate::spool::{AcceptError, Spool, SpoolError, failed, sync_folder};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// A job again, which the inference thread may have.
    Job,
    /// Not in quarantine any more.
    Left,
    /// Somebody took the file away; nothing was changed.
    FileMissing,
}

/// Makes a quarantined file a job again.
pub fn retry(outbox: &Outbox, spool: &Spool, entry: &Entry) -> Result<Retried, AcceptError> {
    let _alone = alone(spool);
    if !spool.quarantine.join(&entry.file).exists() {
        let rests = outbox.quarantined()?.contains(entry);
        return Ok(if rests {
            Retried::FileMissing
        } else {
            Retried::Left
        });
    }
    let Some(job) = outbox.retry(&entry.file)? else {
        return Ok(Retried::Left);
    };
    bring_back(spool, &job)?;
    tracing::info!(
        job = entry.job_number,
        source = entry.source,
        "taken out of quarantine for another try"
    );
    Ok(Retried::Job)
}

/// Removes a quarantined file for good. False when it had left before.
pub fn discard(outbox: &Outbox, spool: &Spool, entry: &Entry) -> Result<bool, AcceptError> {
    let _alone = alone(spool);
    let Some(job) = outbox.discard(&entry.file)? else {
        return Ok(false);
    };
    remove(spool, &job)?;
    outbox.forget(entry.job_number);
    tracing::warn!(
        job = entry.job_number,
        source = entry.source,
        code = entry.reason.code,
        "removed from quarantine"
    );
    Ok(true)
}

/// The file of a pending job lies where the inference thread looks for it; one that was retried is
/// fetched from quarantine. Doing it again changes nothing.
pub(crate) fn bring_back(spool: &Spool, job: &Job) -> Result<(), SpoolError> {
    let (input, resting) = (spool.input(job), spool.quarantine.join(&job.file));
    if input.exists() || !resting.exists() {
        return Ok(());
    }
    let folder = spool.accepted.join(&job.source);
    disk::create_folder(&folder).map_err(failed("create", &folder))?;
    // The reason first: none stays behind without its file.
    unlink(&note_of(spool, &job.file))?;
    fs::rename(&resting, &input).map_err(failed("move to", &input))?;
    sync_folder(&folder)?;
    sync_folder(&spool.accepted)?;
    sync_folder(&spool.quarantine)
}

/// Removes file and reason of a dropped job. Doing it again changes nothing.
pub(crate) fn remove(spool: &Spool, job: &Job) -> Result<(), SpoolError> {
    unlink(&spool.quarantine.join(&job.file))?;
    unlink(&note_of(spool, &job.file))?;
    sync_folder(&spool.quarantine)
}

fn unlink(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::failure::Reason;
    use crate::outbox::job::{JobNumber, State};
    use crate::outbox::{Arrival, Lease, Message};
    use crate::spool::quarantine::store;

    struct Box {
        folder: tempfile::TempDir,
        spool: Spool,
        outbox: Outbox,
    }

    impl Box {
        fn open(folder: tempfile::TempDir) -> Self {
            Self {
                spool: Spool::create(folder.path(), 0).unwrap(),
                outbox: Outbox::open(folder.path()).unwrap(),
                folder,
            }
        }

        /// Two jobs that ended in quarantine and one file that was refused.
        fn filled() -> Self {
            let this = Self::open(tempfile::tempdir().unwrap());
            let names = ["a", "b"].map(String::from);
            let arrivals = names.map(|file| arrival(&file));
            let job_numbers = this.outbox.accept(&arrivals).unwrap();
            fs::create_dir(this.spool.accepted.join("ward")).unwrap();
            for (job_number, arrival) in job_numbers.into_iter().zip(&arrivals) {
                let job = this.outbox.job(job_number).unwrap().unwrap();
                fs::write(this.spool.input(&job), &arrival.file).unwrap();
                this.outbox.lease(job_number, uuid::Uuid::nil(), 3).unwrap();
                this.outbox
                    .quarantine(job_number, &reason(), event)
                    .unwrap();
                let input = this.spool.input(&job);
                store(&this.spool, &input, &job.file, &reason()).unwrap();
                this.outbox.forget(job_number);
            }
            fs::write(this.spool.quarantine.join("c"), "c").unwrap();
            this.outbox.refuse(&arrival("c"), &reason()).unwrap();
            this
        }

        fn entry(&self, file: &str) -> Entry {
            let mut entries = self.outbox.quarantined().unwrap().into_iter();
            entries.find(|entry| entry.file == file).unwrap()
        }

        /// The process dies and starts again.
        fn restart(self) -> (Self, Vec<JobNumber>) {
            let folder = self.folder;
            drop(self.outbox);
            let this = Self::open(folder);
            let waiting = crate::spool::recover::recover(&this.outbox, &this.spool).unwrap();
            assert!(this.outbox.ledger().unwrap().balances());
            (this, waiting)
        }

        fn resting(&self) -> BTreeSet<String> {
            let entries = fs::read_dir(&self.spool.quarantine).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    fn arrival(file: &str) -> Arrival {
        Arrival {
            source: "ward".into(),
            file: file.into(),
            received_at: "2026-11-24T00:00:00Z".into(),
            sender: None,
        }
    }

    fn reason() -> Reason {
        Reason {
            code: "c".into(),
            words: "w".into(),
            remedy: "r".into(),
        }
    }

    fn event(_: u64) -> Message {
        Message {
            topic: "event".into(),
            payload: Vec::new(),
        }
    }

    #[test]
    fn a_retry_is_a_job_once_wherever_the_process_dies() {
        for step in 0..5 {
            for (file, refused) in [("a", false), ("c", true)] {
                let this = Box::filled();
                let before = this.outbox.ledger().unwrap();
                let entry = this.entry(file);
                // The steps of `retry`, up to where the process dies.
                let job = (step > 0).then(|| this.outbox.retry(file).unwrap().unwrap());
                if let Some(job) = &job {
                    if step == 2 {
                        unlink(&note_of(&this.spool, file)).unwrap();
                    }
                    if step >= 3 {
                        bring_back(&this.spool, job).unwrap();
                    }
                    if step == 4 {
                        this.outbox.reject().unwrap();
                    }
                }
                let (mut this, mut waiting) = this.restart();
                if step == 0 {
                    assert!(waiting.is_empty());
                    assert_eq!(
                        retry(&this.outbox, &this.spool, &entry).unwrap(),
                        Retried::Job
                    );
                }
                for _ in 0..2 {
                    (this, waiting) = this.restart();
                    assert_eq!(waiting, [entry.job_number], "step {step}");
                }
                let ledger = this.outbox.ledger().unwrap();
                let late = u64::from(step == 4);
                assert_eq!(ledger.received, before.received + late, "step {step}");
                assert_eq!(ledger.pending, 1);
                assert_eq!(ledger.quarantined, 2 - u64::from(!refused));
                assert_eq!(ledger.rejected, 1 - u64::from(refused) + late);
                assert_eq!(
                    retry(&this.outbox, &this.spool, &entry).unwrap(),
                    Retried::Left
                );
                let job = this.outbox.job(entry.job_number).unwrap().unwrap();
                assert_eq!((job.attempts, &job.state), (0, &State::Accepted));
                assert_eq!(fs::read_to_string(this.spool.input(&job)).unwrap(), file);
                assert!(!this.resting().iter().any(|name| name.starts_with(file)));
                let lease = this.outbox.lease(entry.job_number, uuid::Uuid::nil(), 3);
                assert!(matches!(lease, Ok(Some(Lease::Work(_)))));
            }
        }
    }

    #[test]
    fn a_drop_counts_once_wherever_the_process_dies() {
        for step in 0..5 {
            for (file, refused) in [("a", false), ("c", true)] {
                let this = Box::filled();
                let entry = this.entry(file);
                let job = (step > 0).then(|| this.outbox.discard(file).unwrap().unwrap());
                if let Some(job) = &job {
                    if step == 2 {
                        unlink(&this.spool.quarantine.join(file)).unwrap();
                    }
                    if step >= 3 {
                        remove(&this.spool, job).unwrap();
                    }
                    if step == 4 {
                        this.outbox.forget(entry.job_number);
                    }
                }
                let (mut this, mut waiting) = this.restart();
                assert!(waiting.is_empty());
                if step == 0 {
                    assert!(discard(&this.outbox, &this.spool, &entry).unwrap());
                }
                for _ in 0..2 {
                    (this, waiting) = this.restart();
                    assert!(waiting.is_empty(), "step {step}");
                }
                assert!(!discard(&this.outbox, &this.spool, &entry).unwrap());
                let ledger = this.outbox.ledger().unwrap();
                assert_eq!((ledger.received, ledger.pending, ledger.dropped), (3, 0, 1));
                assert_eq!(ledger.quarantined, 2 - u64::from(!refused));
                assert_eq!(ledger.rejected, 1 - u64::from(refused));
                assert!(!this.resting().iter().any(|name| name.starts_with(file)));
                assert!(this.resting().contains("b"));
                assert!(this.outbox.jobs().unwrap().len() <= 1, "its row goes");
            }
        }
    }

    #[test]
    fn a_retried_job_survives_the_removal_of_its_old_row() {
        let this = Box::filled();
        // The rows of "a" and "b" left with the commit of the refusal; this one is still due.
        let entry = this.entry("b");
        this.outbox.forget(entry.job_number);
        assert_eq!(
            retry(&this.outbox, &this.spool, &entry).unwrap(),
            Retried::Job
        );
        this.outbox.reject().unwrap();
        assert!(this.outbox.job(entry.job_number).unwrap().is_some());
    }

    #[test]
    fn a_file_that_somebody_took_away_can_be_dropped_only() {
        let this = Box::filled();
        let entry = this.entry("a");
        fs::remove_file(this.spool.quarantine.join("a")).unwrap();
        assert_eq!(
            retry(&this.outbox, &this.spool, &entry).unwrap(),
            Retried::FileMissing
        );
        assert!(discard(&this.outbox, &this.spool, &entry).unwrap());
        assert!(this.outbox.ledger().unwrap().balances());
    }
}
