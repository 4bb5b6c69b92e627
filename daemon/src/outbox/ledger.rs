//! The conservation law: `received = published + pending + quarantined + rejected + dropped`.

use std::collections::BTreeSet;
use std::fmt;

use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::history::HISTORIES;
use super::messages::MESSAGES;
use super::quarantined::{self, QUARANTINE};
use super::{JOBS, META, Outbox, OutboxError, decode};
use crate::outbox::job::Job;

pub use crate::report::health::Ledger;

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

    /// Forgets the oldest histories beyond `max`, but none of a job that is pending or in quarantine.
    pub fn forget_history(&self, max: u64) -> Result<(), OutboxError> {
        let over = self.read(|| {
            let transaction = self.database.begin_read()?;
            let histories = transaction.open_table(HISTORIES)?;
            let over = histories.len()?.saturating_sub(max) as usize;
            if over == 0 {
                return Ok(Vec::new());
            }
            let mut alive = BTreeSet::new();
            for row in transaction.open_table(JOBS)?.iter()? {
                alive.insert(row?.0.value());
            }
            for row in transaction.open_table(QUARANTINE)?.iter()? {
                alive.insert(quarantined::decode(row?.1.value())?.ticket);
            }
            let mut over_age = Vec::new();
            for row in histories.iter()? {
                let ticket = row?.0.value();
                if over_age.len() == over {
                    break;
                }
                if !alive.contains(&ticket) {
                    over_age.push(ticket);
                }
            }
            Ok(over_age)
        })?;
        if over.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut histories = transaction.open_table(HISTORIES)?;
            for ticket in over {
                histories.remove(ticket)?;
            }
            Ok(())
        })
    }
}
