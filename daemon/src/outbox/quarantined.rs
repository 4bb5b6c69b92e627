//! What lies in quarantine: a row comes with the end of a job or with a refusal and goes by a retry or
//! a drop, each with its counter.

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{Arrival, Outbox, OutboxError, add, history, put, subtract, take_numbers};
use crate::clock;
use crate::failure::Reason;
use crate::outbox::job::{Job, JobNumber, State};

/// Keyed by the name of the file, which begins with the time of acceptance.
pub(super) const QUARANTINE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("quarantine");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(rename = "ticket")]
    pub job_number: JobNumber,
    pub source: String,
    /// Name below `quarantine/`.
    pub file: String,
    pub received_at: String,
    pub quarantined_at: String,
    /// Refused before it was accepted: counts as rejected, not as quarantined.
    pub refused: bool,
    pub reason: Reason,
}

impl Entry {
    fn counter(&self) -> &'static str {
        if self.refused {
            "rejected"
        } else {
            "quarantined"
        }
    }

    fn into_job(self, state: State) -> Job {
        Job {
            source: self.source,
            file: self.file,
            received_at: self.received_at,
            attempts: 0,
            state,
        }
    }
}

impl Outbox {
    /// Counts an input that was refused and lies in quarantine; doing it again changes
    /// nothing.
    pub fn refuse(&self, arrival: &Arrival, reason: &Reason) -> Result<(), OutboxError> {
        self.write(|transaction| {
            let known = transaction
                .open_table(QUARANTINE)?
                .get(arrival.file.as_str())?
                .is_some();
            if known {
                return Ok(());
            }
            let entry = Entry {
                job_number: take_numbers(transaction, "next_ticket", 1)?,
                source: arrival.source.clone(),
                file: arrival.file.clone(),
                received_at: arrival.received_at.clone(),
                quarantined_at: clock::now(),
                refused: true,
                reason: reason.clone(),
            };
            add(transaction, "received", 1)?;
            insert(transaction, &entry)?;
            let state = State::Quarantined {
                reason: reason.clone(),
            };
            history::record_refused(transaction, entry.job_number, &entry.into_job(state))
        })
    }

    /// Everything that lies in quarantine, in the order of acceptance.
    pub fn quarantined(&self) -> Result<Vec<Entry>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(QUARANTINE)?;
            let mut entries = Vec::new();
            for row in table.iter()? {
                entries.push(decode(row?.1.value())?);
            }
            Ok(entries)
        })
    }

    /// What lies in quarantine under this name.
    pub fn quarantined_as(&self, file: &str) -> Result<Option<Entry>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(QUARANTINE)?;
            let row = table.get(file)?;
            row.map(|row| decode(row.value())).transpose()
        })
    }

    /// Makes a quarantined input a job again, with its old job number and all its attempts. The file has to
    /// follow, see `quarantine::retry`. `None` when it had left before.
    pub fn retry(&self, file: &str) -> Result<Option<Job>, OutboxError> {
        self.write(|transaction| {
            let Some(entry) = remove(transaction, file)? else {
                return Ok(None);
            };
            let job_number = entry.job_number;
            let job = entry.into_job(State::Accepted);
            put(transaction, job_number, &job)?;
            Ok(Some(job))
        })
    }

    /// Ends a quarantined input for good. The file has to go, see `quarantine::discard`; until then a
    /// row says so. `None` when it had left before.
    pub fn discard(&self, file: &str) -> Result<Option<Job>, OutboxError> {
        self.write(|transaction| {
            let Some(entry) = remove(transaction, file)? else {
                return Ok(None);
            };
            let job_number = entry.job_number;
            let job = entry.into_job(State::Dropped);
            put(transaction, job_number, &job)?;
            add(transaction, "dropped", 1)?;
            Ok(Some(job))
        })
    }
}

pub(super) fn insert(transaction: &WriteTransaction, entry: &Entry) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(entry).expect("an entry is plain data");
    transaction
        .open_table(QUARANTINE)?
        .insert(entry.file.as_str(), bytes.as_slice())?;
    add(transaction, entry.counter(), 1)
}

fn remove(transaction: &WriteTransaction, file: &str) -> Result<Option<Entry>, redb::Error> {
    let entry = {
        let mut table = transaction.open_table(QUARANTINE)?;
        let row = table.remove(file)?;
        row.map(|row| decode(row.value())).transpose()?
    };
    if let Some(entry) = &entry {
        subtract(transaction, entry.counter(), 1)?;
    }
    Ok(entry)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Entry, redb::Error> {
    serde_json::from_slice(bytes).map_err(|error| {
        redb::Error::Corrupted(format!("a quarantine row does not parse: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Rows outlive the version that wrote them, whatever the fields are called in the code.
    #[test]
    fn rows_in_quarantine_keep_the_names_of_format_1() {
        let text = r#"{"ticket":7,"source":"ward","file":"18a-0-a.dcm","received_at":"2026-11-24T00:00:00Z",
            "quarantined_at":"2026-11-24T00:00:01Z","refused":false,
            "reason":{"code":"truncated","words":"w","remedy":"r"}}"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!((entry.job_number, entry.source.as_str()), (7, "ward"));
        let written: Value = serde_json::to_value(&entry).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(text).unwrap());
    }
}
