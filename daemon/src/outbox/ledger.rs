//! The conservation law: `received = published + pending + quarantined + rejected`.

use redb::{ReadableDatabase, ReadableTableMetadata};
use serde::Serialize;

use super::{META, Outbox, OutboxError, messages::MESSAGES};

/// Counted since the state directory was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Inputs taken, and inputs refused at the door.
    pub received: u64,
    pub published: u64,
    /// Accepted, in hand, or waiting for the broker.
    pub pending: u64,
    pub quarantined: u64,
    pub rejected: u64,
    /// Messages in the outbox: results, masks and events.
    pub messages: u64,
}

impl Ledger {
    pub fn balances(&self) -> bool {
        self.received == self.published + self.pending + self.quarantined + self.rejected
    }
}

impl Outbox {
    pub fn ledger(&self) -> Result<Ledger, OutboxError> {
        let pending = self
            .jobs()?
            .iter()
            .filter(|(_, job)| job.state.is_pending())
            .count() as u64;
        self.read(|| {
            let transaction = self.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let counter =
                |name: &str| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |value| value.value()));
            Ok(Ledger {
                received: counter("received")?,
                published: counter("published")?,
                pending,
                quarantined: counter("quarantined")?,
                rejected: counter("rejected")?,
                messages: transaction.open_table(MESSAGES)?.len()?,
            })
        })
    }
}
