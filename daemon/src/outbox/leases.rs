//! Which process works on a job and how often it may try; and the end of that work.

use redb::WriteTransaction;
use uuid::Uuid;

use super::messages::insert;
use super::slices::{self, Slice};
use super::{Message, Outbox, OutboxError, get, history, put, take_numbers};
use crate::outbox::job::{Input, Job, JobNumber, LookupKeys, State};

/// What [`Outbox::lease`] hands to the inference thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    Work(Job),
    /// The process died too often while it worked on this job.
    CrashLoop {
        attempts: u32,
    },
}

/// Which job to lease, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRequest {
    pub job_number: JobNumber,
    pub boot: Uuid,
    pub attempts_max: u32,
}

/// What is committed of an image with the messages of its result.
#[derive(Debug, Clone, Copy)]
pub struct ResultRows<'a> {
    pub lookup_keys: &'a LookupKeys,
    /// For the segmentation of its series.
    pub slice: Option<&'a Slice>,
}

impl Outbox {
    /// Leases a job; the attempt is on the disk before the work starts. `None` when there is
    /// nothing to do for this job number.
    pub fn lease(
        &self,
        job_number: JobNumber,
        boot: Uuid,
        attempts_max: u32,
    ) -> Result<Option<Lease>, OutboxError> {
        let lease_request = LeaseRequest {
            job_number,
            boot,
            attempts_max,
        };
        self.write(|transaction| lease(transaction, lease_request))
    }

    /// Ends the work on a job: `encode` gets the sequence number and gives its messages, part 0 first.
    pub fn append(
        &self,
        job_number: JobNumber,
        input: &Input,
        encode: impl FnOnce(u64) -> Vec<Message>,
    ) -> Result<(), OutboxError> {
        let lookup_keys = LookupKeys {
            input: Some(input.clone()),
            ..LookupKeys::default()
        };
        let rows = ResultRows {
            lookup_keys: &lookup_keys,
            slice: None,
        };
        self.append_with(job_number, rows, None, encode)?;
        Ok(())
    }

    /// Also keeps what a segmentation of the image's series will need, and leases the next job in the same commit:
    /// one flush instead of two between an image and the next.
    pub fn append_with(
        &self,
        job_number: JobNumber,
        rows: ResultRows<'_>,
        next: Option<LeaseRequest>,
        encode: impl FnOnce(u64) -> Vec<Message>,
    ) -> Result<Option<Lease>, OutboxError> {
        self.write(|transaction| {
            append(transaction, job_number, rows, encode)?;
            next.map_or(Ok(None), |lease_request| lease(transaction, lease_request))
        })
    }
}

fn lease(
    transaction: &WriteTransaction,
    lease_request: LeaseRequest,
) -> Result<Option<Lease>, redb::Error> {
    let Some(mut job) = get(transaction, lease_request.job_number)? else {
        return Ok(None);
    };
    match job.state {
        State::Accepted => {}
        State::Leased { boot: other } if other != lease_request.boot => {}
        _ => return Ok(None),
    }
    if job.attempts >= lease_request.attempts_max {
        return Ok(Some(Lease::CrashLoop {
            attempts: job.attempts,
        }));
    }
    job.attempts += 1;
    job.state = State::Leased {
        boot: lease_request.boot,
    };
    put(transaction, lease_request.job_number, &job)?;
    Ok(Some(Lease::Work(job)))
}

/// Does nothing to a job that has ended.
fn append(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    rows: ResultRows<'_>,
    encode: impl FnOnce(u64) -> Vec<Message>,
) -> Result<(), redb::Error> {
    let Some(mut job) = get(transaction, job_number)? else {
        return Ok(());
    };
    if matches!(job.state, State::Inferred { .. }) || !job.state.is_pending() {
        return Ok(());
    }
    let seq = take_numbers(transaction, "next_seq", 1)?;
    let messages = encode(seq);
    for (part, message) in (0..).zip(&messages) {
        insert(transaction, (seq, part), Some(job_number), message)?;
    }
    job.state = State::Inferred { seq };
    put(transaction, job_number, &job)?;
    if let Some(slice) = rows.slice {
        slices::keep(transaction, job_number, slice)?;
    }
    history::record_lookup_keys(transaction, job_number, rows.lookup_keys)?;
    history::record_messages(transaction, job_number, seq, &messages)
}
