//! What the broker acknowledged, kept for subscribers that did not get it: a broker drops what it
//! cannot queue, after its PUBACK. Byte for byte as it was sent, within `[results]`.
//!
//! Results leave whole, the one that was acknowledged first before the others.

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{Key, META, Message, Outbox, OutboxError, add, subtract};

pub use crate::report::health::Kept;

type Row<'a> = (&'a str, &'a [u8]);

/// Topic below the node's root, and payload.
pub(super) const KEPT: TableDefinition<'_, Key, Row<'_>> = TableDefinition::new("kept");
/// Milliseconds since 1970 of a number's first PUBACK, and the number.
pub(super) const KEPT_SINCE: TableDefinition<'_, (u64, u64), ()> =
    TableDefinition::new("kept_since");

impl Outbox {
    /// `None` when nothing is kept.
    pub fn kept(&self) -> Result<Option<Kept>, OutboxError> {
        self.read(|| {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(KEPT)?;
            let (Some(first), Some(last)) = (table.first()?, table.last()?) else {
                return Ok(None);
            };
            let bytes = transaction.open_table(META)?.get("kept_bytes")?;
            Ok(Some(Kept {
                first_seq: first.0.value().0,
                last_seq: last.0.value().0,
                bytes: bytes.map_or(0, |value| value.value()),
            }))
        })
    }

    /// Forgets what was acknowledged before this moment, in milliseconds since 1970.
    pub fn forget_kept(&self, before_ms: u64) -> Result<(), OutboxError> {
        let stale = self.read(|| {
            let table = self.database.begin_read()?.open_table(KEPT_SINCE)?;
            let oldest = table.first()?.map(|(since, _)| since.value().0);
            Ok(oldest.is_some_and(|oldest| oldest < before_ms))
        });
        if !stale? {
            return Ok(());
        }
        self.write(|transaction| {
            while let Some((since_ms, _)) = oldest(transaction)?
                && since_ms < before_ms
            {
                forget_oldest(transaction)?;
            }
            Ok(())
        })
    }
}

pub(super) fn keep(
    transaction: &WriteTransaction,
    key: Key,
    message: &Message,
    now_ms: u64,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(KEPT)?;
    let mut others = table.range((key.0, 0)..=(key.0, u32::MAX))?;
    let first = others.next().is_none();
    drop(others);
    let row = (message.topic.as_str(), message.payload.as_slice());
    table.insert(key, row)?;
    if first {
        let mut since = transaction.open_table(KEPT_SINCE)?;
        since.insert((now_ms, key.0), ())?;
    }
    add(transaction, "kept_bytes", message.bytes() as u64)
}

/// Forgets the oldest until `max_bytes` or less are kept.
pub(super) fn shrink(transaction: &WriteTransaction, max_bytes: u64) -> Result<(), redb::Error> {
    let bytes = || {
        let meta = transaction.open_table(META)?;
        let bytes = meta.get("kept_bytes")?.map_or(0, |value| value.value());
        Ok::<_, redb::Error>(bytes)
    };
    while bytes()? > max_bytes && forget_oldest(transaction)? {}
    Ok(())
}

/// Forgets a result whose job ends in quarantine.
pub(super) fn withdraw(transaction: &WriteTransaction, seq: u64) -> Result<(), redb::Error> {
    let bytes = {
        let mut table = transaction.open_table(KEPT)?;
        let mut bytes = 0;
        table.retain_in((seq, 0)..=(seq, u32::MAX), |_, (topic, payload)| {
            bytes += topic.len() + payload.len();
            false
        })?;
        bytes
    };
    subtract(transaction, "kept_bytes", bytes as u64)
}

fn oldest(transaction: &WriteTransaction) -> Result<Option<(u64, u64)>, redb::Error> {
    let table = transaction.open_table(KEPT_SINCE)?;
    let first = table.first()?;
    Ok(first.map(|(since, _)| since.value()))
}

/// False when nothing is kept.
fn forget_oldest(transaction: &WriteTransaction) -> Result<bool, redb::Error> {
    let Some(oldest) = oldest(transaction)? else {
        return Ok(false);
    };
    transaction.open_table(KEPT_SINCE)?.remove(oldest)?;
    withdraw(transaction, oldest.1)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock;
    use crate::config::Results;
    use crate::outbox::job::Input;
    use crate::outbox::{Arrival, ReplayRange};

    const EVERYTHING: ReplayRange = ReplayRange {
        from_seq: 0,
        to_seq: None,
        source: None,
    };

    fn message(topic: &str) -> Message {
        Message {
            topic: topic.into(),
            payload: vec![7; 100 - topic.len()],
        }
    }

    /// `results` results of two messages with 100 bytes each, acknowledged.
    fn published(outbox: &Outbox, results: usize) {
        for _ in 0..results {
            let arrival = Arrival {
                source: "ward".into(),
                file: "a".into(),
                received_at: String::new(),
                sender: None,
            };
            let job_number = outbox.accept(&[arrival]).unwrap()[0];
            outbox.lease(job_number, Uuid::nil(), 3).unwrap();
            let messages = |_| vec![message("result/ward"), message("mask/1/1")];
            outbox
                .append(job_number, &Input::of(b""), messages)
                .unwrap();
            let rows = outbox.messages(None, 2).unwrap();
            // One after the other, as it happens.
            outbox.acknowledge(&[rows[0].key]).unwrap();
            outbox.acknowledge(&[rows[1].key]).unwrap();
        }
    }

    #[test]
    fn the_oldest_results_leave_whole_by_size_and_by_age() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Results {
            max_bytes: 599,
            ..Results::default()
        };
        let outbox = Outbox::open(folder.path()).unwrap().with_retention(limits);
        assert_eq!(outbox.kept().unwrap(), None);
        published(&outbox, 10);
        let kept = Kept {
            first_seq: 9,
            last_seq: 10,
            bytes: 400,
        };
        assert_eq!(outbox.kept().unwrap(), Some(kept));
        let tomorrow = clock::unix_ms(std::time::SystemTime::now()) + 86_400_000;
        outbox.forget_kept(tomorrow - 2 * 86_400_000).unwrap();
        assert_eq!(outbox.kept().unwrap(), Some(kept));
        outbox.forget_kept(tomorrow).unwrap();
        assert_eq!(outbox.kept().unwrap(), None);
        published(&outbox, 1);
        assert_eq!(outbox.kept().unwrap().unwrap().bytes, 200);
        assert!(outbox.ledger().unwrap().balances());
    }

    #[test]
    fn without_days_nothing_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Results {
            keep_days: 0,
            ..Results::default()
        };
        let outbox = Outbox::open(folder.path()).unwrap().with_retention(limits);
        published(&outbox, 1);
        assert_eq!(outbox.kept().unwrap(), None);
        let asked = format!("{:?}", outbox.replay(&EVERYTHING).unwrap());
        assert!(asked.contains("messages: 0"), "{asked}");
    }

    #[test]
    fn a_result_that_ends_in_quarantine_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let arrival = Arrival {
            source: "ward".into(),
            file: "a".into(),
            received_at: String::new(),
            sender: None,
        };
        outbox.accept(&[arrival]).unwrap();
        outbox.lease(1, Uuid::nil(), 3).unwrap();
        let messages = |_| vec![message("result/ward"), message("mask/1/1")];
        outbox.append(1, &Input::of(b""), messages).unwrap();
        outbox.acknowledge(&[(1, 0)]).unwrap();
        assert_eq!(outbox.kept().unwrap().unwrap().bytes, 100);
        let reason = crate::failure::Reason {
            code: "c".into(),
            words: "w".into(),
            remedy: "r".into(),
        };
        outbox.quarantine(1, &reason, |_| message("event")).unwrap();
        assert_eq!(outbox.kept().unwrap(), None);
        outbox.acknowledge(&[(2, 0)]).unwrap();
        assert_eq!(outbox.kept().unwrap().unwrap().bytes, 100);
        outbox.forget_kept(u64::MAX).unwrap();
        assert_eq!(outbox.kept().unwrap(), None);
    }
}
