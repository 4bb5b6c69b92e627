//! The messages of the outbox: in with an inferred job, out on PUBACK, and then kept for a while.

use std::ops::Bound;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{Key, Outbox, OutboxError, add, get, history, kept, put};
use crate::clock;
use crate::outbox::job::{Job, JobNumber, State};
use crate::report::Message;

type Row<'a> = (Option<JobNumber>, &'a str, &'a [u8]);

pub(super) const MESSAGES: TableDefinition<'_, Key, Row<'_>> = TableDefinition::new("messages");

impl Message {
    fn of((job_number, topic, payload): Row<'_>) -> (Option<JobNumber>, Self) {
        let message = Self {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
        };
        (job_number, message)
    }
}

/// A message and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub key: Key,
    /// None for an event.
    pub job_number: Option<JobNumber>,
    pub message: Message,
}

impl Outbox {
    /// Up to `limit` messages after `after`, in order.
    pub fn messages(&self, after: Option<Key>, limit: usize) -> Result<Vec<Queued>, OutboxError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.range((start, Bound::Unbounded), limit)
    }

    /// What the outbox still holds of a result, part 0 first.
    pub fn parts(&self, seq: u64) -> Result<Vec<Queued>, OutboxError> {
        let all = (Bound::Included((seq, 0)), Bound::Included((seq, u32::MAX)));
        self.range(all, usize::MAX)
    }

    fn range(
        &self,
        keys: (Bound<Key>, Bound<Key>),
        limit: usize,
    ) -> Result<Vec<Queued>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(MESSAGES)?;
            let mut queued = Vec::new();
            for row in table.range(keys)?.take(limit) {
                let (key, row) = row?;
                let (job_number, message) = Message::of(row.value());
                queued.push(Queued {
                    key: key.value(),
                    job_number,
                    message,
                });
            }
            Ok(queued)
        })
    }

    pub fn message(&self, key: Key) -> Result<Option<Queued>, OutboxError> {
        let one = (Bound::Included(key), Bound::Included(key));
        Ok(self.range(one, 1)?.pop())
    }

    /// Replaces the messages of a result by smaller ones: the broker would not take them. `key`: its
    /// part 0, of which nothing was sent.
    pub fn replace(&self, key: Key, messages: &[Message]) -> Result<(), OutboxError> {
        self.write(|transaction| {
            let job_number = {
                let table = transaction.open_table(MESSAGES)?;
                let Some(row) = table.get(key)? else {
                    return Ok(());
                };
                row.value().0
            };
            remove_all(transaction, key.0)?;
            for (part, message) in (0..).zip(messages) {
                insert(transaction, (key.0, part), job_number, message)?;
            }
            if let Some(job_number) = job_number {
                history::record_messages(transaction, job_number, key.0, messages)?;
            }
            Ok(())
        })
    }

    /// Removes an event that the broker will never take.
    pub fn give_up(&self, key: Key) -> Result<(), OutboxError> {
        self.write(|transaction| {
            transaction.open_table(MESSAGES)?.remove(key)?;
            Ok(())
        })
    }

    /// Removes messages the broker acknowledged. Gives the jobs that are published with them, whose
    /// inputs may go.
    pub fn acknowledge(&self, keys: &[Key]) -> Result<Vec<(JobNumber, Job)>, OutboxError> {
        let now_ms = clock::unix_ms(std::time::SystemTime::now());
        self.write(|transaction| {
            let mut published = Vec::new();
            for key in keys {
                let (job_number, message, rest) = {
                    let mut table = transaction.open_table(MESSAGES)?;
                    let row = table.remove(*key)?;
                    let Some((job_number, message)) = row.map(|row| Message::of(row.value()))
                    else {
                        continue;
                    };
                    let rest = table
                        .range((key.0, 0)..=(key.0, u32::MAX))?
                        .next()
                        .is_some();
                    (job_number, message, rest)
                };
                if self.retention.keep_days > 0 {
                    kept::keep(transaction, *key, &message, now_ms)?;
                }
                if let Some(job_number) = job_number {
                    history::record_ack(transaction, job_number, *key)?;
                }
                let job_number = job_number.filter(|_| !rest);
                let Some(job_number) = job_number else {
                    continue;
                };
                let Some(mut job) = get(transaction, job_number)? else {
                    continue;
                };
                job.state = State::Published;
                put(transaction, job_number, &job)?;
                add(transaction, "published", 1)?;
                published.push((job_number, job));
            }
            kept::shrink(transaction, self.retention.max_bytes)?;
            Ok(published)
        })
    }
}

pub(super) fn insert(
    transaction: &WriteTransaction,
    key: Key,
    job_number: Option<JobNumber>,
    message: &Message,
) -> Result<(), redb::Error> {
    let row = (
        job_number,
        message.topic.as_str(),
        message.payload.as_slice(),
    );
    transaction.open_table(MESSAGES)?.insert(key, row)?;
    Ok(())
}

pub(super) fn remove_all(transaction: &WriteTransaction, seq: u64) -> Result<(), redb::Error> {
    transaction
        .open_table(MESSAGES)?
        .retain_in((seq, 0)..=(seq, u32::MAX), |_, _| false)?;
    Ok(())
}
