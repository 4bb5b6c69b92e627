//! The conservation law: `received = published + pending + quarantined + rejected + dropped`.

use std::fmt;

use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};

use super::{JOBS, META, Outbox, OutboxError, decode, messages::MESSAGES};
use crate::job::Job;

/// Counted since the state directory was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Inputs taken, and inputs refused at the door.
    pub received: u64,
    pub published: u64,
    /// Accepted, in hand, or waiting for the broker.
    pub pending: u64,
    /// In quarantine, after they were accepted.
    pub quarantined: u64,
    /// Refused at the door.
    pub rejected: u64,
    /// Taken out of quarantine for good, by hand or by `quarantine.keep_days` and `max_bytes`.
    pub dropped: u64,
    /// Messages in the outbox: results, masks and events.
    pub messages: u64,
}

impl Ledger {
    pub fn balances(&self) -> bool {
        let ended = self.published + self.quarantined + self.rejected + self.dropped;
        self.received == ended + self.pending
    }
}

/// The equation, with `!=` where it does not hold.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.balances() { "=" } else { "!=" };
        write!(
            f,
            "received {} {sign} published {} + pending {} + quarantined {} + rejected {} + dropped {}",
            self.received,
            self.published,
            self.pending,
            self.quarantined,
            self.rejected,
            self.dropped
        )
    }
}

impl Outbox {
    /// The one that was accepted first.
    pub fn oldest_pending(&self) -> Result<Option<Job>, OutboxError> {
        self.read(|| {
            let jobs = self.database.begin_read()?.open_table(JOBS)?;
            for row in jobs.iter()? {
                let job = decode(row?.1.value())?;
                if job.state.is_pending() {
                    return Ok(Some(job));
                }
            }
            Ok(None)
        })
    }

    pub fn ledger(&self) -> Result<Ledger, OutboxError> {
        self.read(|| {
            // One transaction for all of it: counters and jobs of one moment.
            let transaction = self.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let mut pending = 0;
            for row in transaction.open_table(JOBS)?.iter()? {
                let (_, job) = row?;
                pending += u64::from(decode(job.value())?.state.is_pending());
            }
            let counter =
                |name: &str| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |value| value.value()));
            Ok(Ledger {
                received: counter("received")?,
                published: counter("published")?,
                pending,
                quarantined: counter("quarantined")?,
                rejected: counter("rejected")?,
                dropped: counter("dropped")?,
                messages: transaction.open_table(MESSAGES)?.len()?,
            })
        })
    }
}
