//! Who works on a job: one thread of one process, and so often at most.

use redb::WriteTransaction;
use uuid::Uuid;

use super::{Outbox, OutboxError, get, put};
use crate::job::{Job, State, Ticket};

/// What [`Outbox::lease`] hands to the inference thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    Work(Job),
    /// The process died too often with this job in hand.
    CrashLoop {
        attempts: u32,
    },
}

/// The wish for a lease.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    pub ticket: Ticket,
    pub boot: Uuid,
    pub attempts_max: u32,
}

impl Outbox {
    /// Takes a job in hand; the attempt is on the disk before the work starts. `None` when there is
    /// nothing to do for this ticket.
    pub fn lease(
        &self,
        ticket: Ticket,
        boot: Uuid,
        attempts_max: u32,
    ) -> Result<Option<Lease>, OutboxError> {
        let claim = Claim {
            ticket,
            boot,
            attempts_max,
        };
        self.write(|transaction| lease(transaction, claim))
    }
}

pub(super) fn lease(
    transaction: &WriteTransaction,
    claim: Claim,
) -> Result<Option<Lease>, redb::Error> {
    let Some(mut job) = get(transaction, claim.ticket)? else {
        return Ok(None);
    };
    match job.state {
        State::Accepted => {}
        State::Leased { boot: other } if other != claim.boot => {}
        _ => return Ok(None),
    }
    if job.attempts >= claim.attempts_max {
        return Ok(Some(Lease::CrashLoop {
            attempts: job.attempts,
        }));
    }
    job.attempts += 1;
    job.state = State::Leased { boot: claim.boot };
    put(transaction, claim.ticket, &job)?;
    Ok(Some(Lease::Work(job)))
}
