//! The truth about every accepted image: one redb file, every commit flushed to the disk.
//!
//! Format 1. Tables:
//! - `meta`: name -> number: `format`, `next_ticket`, `next_seq`, and the ledger's `received`,
//!   `published`, `quarantined`, `rejected`, `dropped`.
//! - `jobs`: job number -> [`Job`] as JSON. Job numbers ascend in the order of acceptance.
//! - `messages`: (seq, part) -> (job number of its job or none for an event, topic below the node's root,
//!   payload). Part 0 is a result or an event, parts from 1 are the masks of a result too large for
//!   one message. `seq` numbers the durable messages of this node, so a subscriber sees a gap.
//! - `lives`: job number -> [`JobHistory`] as JSON, for people; it outlives the job's row.
//! - `identity`: name -> text, see [`identity`]: when the state directory was made, and whose it is.
//! - `quarantine`: file name -> [`Entry`] as JSON: what lies in `quarantine/`.
//! - `slices`: images whose series has no DICOM segmentation yet, see [`slices`].
//! - `closed_series`, `segmented_slices`: series that have one, for images that come late.
//! - `kept`: (seq, part) -> (topic, payload) of what the broker acknowledged, `kept_since`: (when, seq),
//!   `replays`: number -> what of it is to be sent again. `kept_bytes` in `meta` is their size.
//!
//! Invariants:
//! - A counter moves in the same transaction as the state it counts, so
//!   `received = published + pending + quarantined + rejected + dropped` holds in every committed
//!   state.
//! - A job has messages exactly while it is `inferred`. A message leaves on PUBACK or with its job
//!   into quarantine, never otherwise.
//! - Files follow the rows: the end of a job, its retry and its drop are committed before the input
//!   moves, and the row stays until it has moved, so a crash in between is finished at the next start.

mod identity;
pub mod job;
mod kept;
mod leases;
mod ledger;
mod history;
mod messages;
mod quarantined;
mod replays;
pub mod slices;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use crate::clock;
use crate::config;
use crate::disk;
use crate::disk::rights::create_file;
use crate::failure::Reason;
use crate::outbox::job::{Job, JobNumber, Sender, State};

pub use crate::report::Message;
pub use history::{HistoryFilter, JobHistory, Phase, Sent, Stage};
pub use identity::Identity;
pub use kept::Kept;
pub use leases::{Lease, LeaseRequest, ResultRows};
pub use ledger::Ledger;
pub use messages::Queued;
pub use quarantined::Entry;
pub use replays::{ReplayAnswer, ReplayPage, ReplayRange, ReplaySummary};

const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const JOBS: TableDefinition<'_, JobNumber, &[u8]> = TableDefinition::new("jobs");

/// Sequence number and part.
pub type Key = (u64, u32);

/// The box itself cannot keep the promise: stop accepting.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error("cannot create {}: {source}", path.display())]
    Create {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is in use by another scansided, stop that one first", path.display())]
    InUse { path: PathBuf },
    #[error("outbox {}: {source}; check the disk, nothing was accepted since", path.display())]
    Storage {
        path: PathBuf,
        source: Box<redb::Error>,
    },
    #[error("outbox {} has format {found}, this program reads {FORMAT}; use the program that \
             wrote it", path.display())]
    Format { path: PathBuf, found: u64 },
}

#[derive(Debug)]
pub struct Outbox {
    database: Database,
    path: PathBuf,
    retention: config::Results,
    /// Jobs whose files are where they belong; the next commit removes their rows.
    departed: Mutex<Vec<JobNumber>>,
}

/// An input that lies in `accepted/` and waits for its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub source: String,
    pub file: String,
    pub received_at: String,
    pub sender: Option<Sender>,
}

/// Whether a state directory has an outbox; it is made where there is none.
pub fn exists(directory: &Path) -> bool {
    directory.join("outbox.redb").exists()
}

impl Outbox {
    /// Opens or creates `<directory>/outbox.redb`. The file is locked while it is open.
    pub fn open(directory: &Path) -> Result<Self, OutboxError> {
        let path = directory.join("outbox.redb");
        let create = |source| OutboxError::Create {
            path: directory.to_owned(),
            source,
        };
        disk::create_outermost(directory).map_err(create)?;
        let opened = |error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OutboxError::InUse { path: path.clone() },
            error => OutboxError::Storage {
                path: path.clone(),
                source: Box::new(error.into()),
            },
        };
        let fresh = (!path.exists()).then(|| identity::remains(directory));
        if fresh.is_some() {
            // Whole under another name first: one that a power cut left half made could not be opened.
            let part = directory.join("outbox.redb.part");
            match std::fs::remove_file(&part) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(create(error)),
                _ => {}
            }
            // This function makes it, with the rights that it shall have.
            drop(create_file(&part).map_err(create)?);
            drop(database().create(&part).map_err(&opened)?);
            File::open(&part)
                .and_then(|file| file.sync_all())
                .and_then(|()| std::fs::rename(&part, &path))
                .map_err(create)?;
        }
        let database = database().create(&path).map_err(opened)?;
        let outbox = Self {
            database,
            path,
            retention: config::Results::default(),
            departed: Mutex::default(),
        };
        disk::sync_folder(directory).map_err(create)?;
        let found = outbox.write(|transaction| {
            transaction.open_table(JOBS)?;
            transaction.open_table(messages::MESSAGES)?;
            transaction.open_table(quarantined::QUARANTINE)?;
            transaction.open_table(history::HISTORIES)?;
            transaction.open_table(slices::SLICES)?;
            transaction.open_table(slices::SEGMENTED)?;
            transaction.open_table(slices::CLOSED)?;
            transaction.open_table(kept::KEPT)?;
            transaction.open_table(kept::KEPT_SINCE)?;
            transaction.open_table(replays::REPLAYS)?;
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("format")?.map(|value| value.value());
            if found.is_none() {
                meta.insert("format", FORMAT)?;
            }
            identity::begin(transaction, fresh.as_deref())?;
            Ok(found.unwrap_or(FORMAT))
        })?;
        if found == FORMAT {
            Ok(outbox)
        } else {
            Err(OutboxError::Format {
                path: outbox.path,
                found,
            })
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets how long and how much of what was acknowledged is kept.
    pub fn with_retention(self, retention: config::Results) -> Self {
        Self { retention, ..self }
    }

    /// Commits rows for inputs that lie in `accepted/`. Only now are they accepted.
    pub fn accept(&self, arrivals: &[Arrival]) -> Result<Vec<JobNumber>, OutboxError> {
        self.write(|transaction| {
            let first = take_numbers(transaction, "next_ticket", arrivals.len() as u64)?;
            add(transaction, "received", arrivals.len() as u64)?;
            let job_numbers: Vec<JobNumber> = (first..).take(arrivals.len()).collect();
            for (job_number, arrival) in job_numbers.iter().zip(arrivals) {
                let job = Job {
                    source: arrival.source.clone(),
                    file: arrival.file.clone(),
                    received_at: arrival.received_at.clone(),
                    attempts: 0,
                    state: State::Accepted,
                };
                put(transaction, *job_number, &job)?;
                if let Some(sender) = &arrival.sender {
                    history::record_sender(transaction, *job_number, sender)?;
                }
            }
            Ok(job_numbers)
        })
    }

    /// Counts an input that was refused and not kept.
    pub fn reject(&self) -> Result<(), OutboxError> {
        self.write(|transaction| {
            add(transaction, "received", 1)?;
            add(transaction, "rejected", 1)
        })
    }

    /// Every job with its row, in the order of acceptance.
    pub fn jobs(&self) -> Result<Vec<(JobNumber, Job)>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(JOBS)?;
            let mut jobs = Vec::new();
            for row in table.iter()? {
                let (job_number, job) = row?;
                jobs.push((job_number.value(), decode(job.value())?));
            }
            Ok(jobs)
        })
    }

    pub fn job(&self, job_number: JobNumber) -> Result<Option<Job>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(JOBS)?;
            let row = table.get(job_number)?;
            row.map(|row| decode(row.value())).transpose()
        })
    }

    /// Ends a job in quarantine: its messages go, the event stays for the broker. The file has to
    /// follow, see `quarantine::store`. `None` when the job had ended before.
    pub fn quarantine(
        &self,
        job_number: JobNumber,
        reason: &Reason,
        event: impl FnOnce(u64) -> Message,
    ) -> Result<Option<Job>, OutboxError> {
        self.write(|transaction| {
            let Some(mut job) = get(transaction, job_number)? else {
                return Ok(None);
            };
            if !job.state.is_pending() {
                return Ok(None);
            }
            if let State::Inferred { seq } = job.state {
                messages::remove_all(transaction, seq)?;
                kept::withdraw(transaction, seq)?;
            }
            job.state = State::Quarantined {
                reason: reason.clone(),
            };
            put(transaction, job_number, &job)?;
            let entry = Entry {
                job_number,
                source: job.source.clone(),
                file: job.file.clone(),
                received_at: job.received_at.clone(),
                quarantined_at: clock::now(),
                refused: false,
                reason: reason.clone(),
            };
            quarantined::insert(transaction, &entry)?;
            let seq = take_numbers(transaction, "next_seq", 1)?;
            messages::insert(transaction, (seq, 0), None, &event(seq))?;
            Ok(Some(job))
        })
    }

    /// The job's file is where it belongs. The next commit removes its row: if that never comes,
    /// the next start finds nothing left to move and drops it.
    pub fn forget(&self, job_number: JobNumber) {
        self.departed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(job_number);
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, OutboxError> {
        let departed: Vec<JobNumber> =
            std::mem::take(&mut *self.departed.lock().unwrap_or_else(PoisonError::into_inner));
        let run = || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // Before the change, which may bring a job number back.
            if !departed.is_empty() {
                let mut jobs = transaction.open_table(JOBS)?;
                for job_number in &departed {
                    jobs.remove(job_number)?;
                }
            }
            let value = change(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        self.read(run)
    }

    fn read<T>(&self, run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, OutboxError> {
        run().map_err(|source| OutboxError::Storage {
            path: self.path.clone(),
            source: Box::new(source),
        })
    }
}

/// Results of a day may lie in it, which redb would keep in memory, up to a gigabyte.
fn database() -> redb::Builder {
    const CACHE_BYTES: usize = 4 << 20;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn get(transaction: &WriteTransaction, job_number: JobNumber) -> Result<Option<Job>, redb::Error> {
    let table = transaction.open_table(JOBS)?;
    let row = table.get(job_number)?;
    row.map(|row| decode(row.value())).transpose()
}

fn put(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    job: &Job,
) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(job).expect("a job is plain data");
    transaction
        .open_table(JOBS)?
        .insert(job_number, bytes.as_slice())?;
    history::record_state(transaction, job_number, job)
}

fn decode(bytes: &[u8]) -> Result<Job, redb::Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a job row does not parse: {error}")))
}

/// Reserves `count` numbers of a sequence that starts at 1 and gives the first.
fn take_numbers(
    transaction: &WriteTransaction,
    name: &str,
    count: u64,
) -> Result<u64, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let first = meta.get(name)?.map_or(1, |value| value.value());
    meta.insert(name, first + count)?;
    Ok(first)
}

fn add(transaction: &WriteTransaction, counter: &str, count: u64) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let before = meta.get(counter)?.map_or(0, |value| value.value());
    meta.insert(counter, before + count)?;
    Ok(())
}

fn subtract(transaction: &WriteTransaction, counter: &str, count: u64) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let before = meta.get(counter)?.map_or(0, |value| value.value());
    meta.insert(counter, before.saturating_sub(count))?;
    Ok(())
}
