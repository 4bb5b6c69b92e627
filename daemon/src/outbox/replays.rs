//! What is to be sent again: a row for each request, which goes when its last message was
//! acknowledged, so that a replay goes on after a kill.

use std::ops::Bound;

use redb::{
    ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::kept::KEPT;
use super::{Key, Message, Outbox, OutboxError, take_numbers};

pub use crate::report::response::ReplaySummary;

/// Keyed by the number of the request, oldest first.
pub(super) const REPLAYS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("replays");

/// Rows that one transaction reads at most, so that none is open for long.
const ROWS_PER_READ: usize = 1000;

/// Which messages a subscriber asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayRange {
    pub from_seq: u64,
    /// The last one that is kept, when it is not named.
    #[serde(default)]
    pub to_seq: Option<u64>,
    /// Results of this source and events about it; everything when it is not named.
    #[serde(default)]
    pub source: Option<String>,
}

/// The answer to a request for a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayAnswer {
    /// What will be sent again; nothing when `messages` is 0.
    Promised(ReplaySummary),
    /// As many replays as `results.replays_max` are under way.
    Busy { replays_max: u64 },
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Replay {
    from_seq: u64,
    to_seq: u64,
    source: Option<String>,
    /// Everything up to here was acknowledged again.
    done: Option<Key>,
}

/// The next messages of the present replay.
#[derive(Debug)]
pub struct ReplayPage {
    /// Of the replay.
    pub number: u64,
    pub messages: Vec<(Key, Message)>,
    /// How far the kept messages were read; the next page goes on from here.
    pub cursor: Option<Key>,
    /// The replay has no more messages.
    pub finished: bool,
}

impl Outbox {
    /// Notes a replay of what is kept in this range, unless too many are under way.
    pub fn replay(&self, range: &ReplayRange) -> Result<ReplayAnswer, OutboxError> {
        let kept = self.kept()?;
        let mut summary = ReplaySummary {
            kept,
            ..ReplaySummary::default()
        };
        let last_seq = kept.map_or(0, |kept| kept.last_seq);
        let replay = Replay {
            from_seq: range.from_seq,
            // It has an end, whatever is published meanwhile.
            to_seq: range.to_seq.unwrap_or(last_seq).min(last_seq),
            source: range.source.clone(),
            done: None,
        };
        let mut cursor = None;
        loop {
            cursor = self.read(|| {
                let table = self.database.begin_read()?.open_table(KEPT)?;
                replay.walk(&table, cursor, |(seq, _), topic, _| {
                    summary.messages += 1;
                    summary.results += u64::from(topic.starts_with("result/"));
                    summary.first_seq.get_or_insert(seq);
                    summary.last_seq = Some(seq);
                    false
                })
            })?;
            if cursor.is_none() {
                break;
            }
        }
        if summary.messages == 0 {
            return Ok(ReplayAnswer::Promised(summary));
        }
        let replays_max = self.retention.replays_max;
        self.write(|transaction| {
            let under_way = transaction.open_table(REPLAYS)?.len()?;
            if under_way >= replays_max {
                return Ok(ReplayAnswer::Busy { replays_max });
            }
            let number = take_numbers(transaction, "next_replay", 1)?;
            put(transaction, number, &replay)?;
            Ok(ReplayAnswer::Promised(summary))
        })
    }

    /// Up to `limit` messages of the oldest replay; from its beginning, or from where it stood at the
    /// last start, unless `at` says how far that one came since.
    pub fn replay_page(
        &self,
        at: Option<(u64, Option<Key>)>,
        limit: usize,
    ) -> Result<Option<ReplayPage>, OutboxError> {
        self.read(|| {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(REPLAYS)?;
            let Some((number, row)) = table.first()? else {
                return Ok(None);
            };
            let (number, replay) = (number.value(), decode(row.value())?);
            let after = match at {
                Some((other, cursor)) if other == number => cursor,
                _ => replay.done,
            };
            let table = transaction.open_table(KEPT)?;
            let mut messages = Vec::new();
            let end = replay.walk(&table, after, |key, topic, payload| {
                let message = Message {
                    topic: topic.to_owned(),
                    payload: payload.to_vec(),
                };
                messages.push((key, message));
                messages.len() >= limit
            })?;
            Ok(Some(ReplayPage {
                number,
                messages,
                cursor: end.or(after),
                finished: end.is_none(),
            }))
        })
    }

    /// Everything of a replay up to `done` was acknowledged again.
    pub fn replayed(&self, number: u64, done: Key) -> Result<(), OutboxError> {
        self.write(|transaction| {
            let row = {
                let table = transaction.open_table(REPLAYS)?;
                let row = table.get(number)?;
                row.map(|row| decode(row.value())).transpose()?
            };
            let Some(mut replay) = row else { return Ok(()) };
            replay.done = Some(done);
            put(transaction, number, &replay)
        })
    }

    pub fn end_replay(&self, number: u64) -> Result<(), OutboxError> {
        self.write(|transaction| {
            transaction.open_table(REPLAYS)?.remove(number)?;
            Ok(())
        })
    }
}

impl Replay {
    /// Shows messages after `after` until one is enough, and says how far it came; nothing when it came
    /// to the end.
    fn walk(
        &self,
        table: &impl ReadableTable<Key, (&'static str, &'static [u8])>,
        after: Option<Key>,
        mut enough: impl FnMut(Key, &str, &[u8]) -> bool,
    ) -> Result<Option<Key>, redb::Error> {
        let first = (self.from_seq, 0);
        let last = (self.to_seq, u32::MAX);
        if first > last || after.is_some_and(|after| after >= last) {
            return Ok(None);
        }
        let start = after.map_or(Bound::Included(first), Bound::Excluded);
        // The number last looked at, and whether it is asked for.
        let mut known = None;
        for (count, row) in (1..).zip(table.range((start, Bound::Included(last)))?) {
            let (key, row) = row?;
            let (key, (topic, payload)) = (key.value(), row.value());
            let wanted = match known {
                Some((seq, wanted)) if seq == key.0 => wanted,
                _ => self.wants(table, key.0)?,
            };
            known = Some((key.0, wanted));
            if (wanted && enough(key, topic, payload)) || count == ROWS_PER_READ {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Part 0 says what a number is about. Where it waits for the broker still, the masks do too.
    fn wants(
        &self,
        table: &impl ReadableTable<Key, (&'static str, &'static [u8])>,
        seq: u64,
    ) -> Result<bool, redb::Error> {
        let Some(source) = &self.source else {
            return Ok(true);
        };
        let Some(row) = table.get((seq, 0))? else {
            return Ok(false);
        };
        let (topic, payload) = row.value();
        if topic == "event" {
            let event: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
            return Ok(event.is_some_and(|event| event["source"] == source.as_str()));
        }
        Ok(topic.rsplit('/').next() == Some(source))
    }
}

fn put(transaction: &WriteTransaction, number: u64, replay: &Replay) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(replay).expect("a replay is plain data");
    transaction
        .open_table(REPLAYS)?
        .insert(number, bytes.as_slice())?;
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<Replay, redb::Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a replay row does not parse: {error}")))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::config::Results;
    use crate::outbox::Arrival;
    use crate::outbox::job::Input;

    fn message(topic: &str, payload: &str) -> Message {
        Message {
            topic: topic.into(),
            payload: payload.into(),
        }
    }

    /// Results 1, 3, 5 .. of `ward` in two parts, 2, 4, 6 .. of `ct` in one, and an event of `ct` at last.
    fn published(results: usize) -> (Outbox, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Results {
            replays_max: 2,
            ..Results::default()
        };
        let outbox = Outbox::open(folder.path()).unwrap().with_retention(limits);
        for number in 0..=results {
            let source = ["ward", "ct"][number % 2];
            let arrival = Arrival {
                source: source.into(),
                file: number.to_string(),
                received_at: String::new(),
                sender: None,
            };
            let job_number = outbox.accept(&[arrival]).unwrap()[0];
            outbox.lease(job_number, Uuid::nil(), 3).unwrap();
            if number == results {
                let reason = crate::failure::Reason {
                    code: "c".into(),
                    words: "w".into(),
                    remedy: "r".into(),
                };
                let event = |_| message("event", r#"{"source":"ct"}"#);
                outbox.quarantine(job_number, &reason, event).unwrap();
            } else {
                let messages = |seq: u64| {
                    let result = message(&format!("result/{source}"), &seq.to_string());
                    let mask = (source == "ward").then(|| message("mask/1/1", "mask"));
                    std::iter::once(result).chain(mask).collect()
                };
                outbox
                    .append(job_number, &Input::of(b""), messages)
                    .unwrap();
            }
            let rows = outbox.messages(None, 9).unwrap();
            let keys: Vec<Key> = rows.into_iter().map(|row| row.key).collect();
            outbox.acknowledge(&keys).unwrap();
        }
        (outbox, folder)
    }

    fn range(from_seq: u64, to_seq: Option<u64>, source: Option<&str>) -> ReplayRange {
        ReplayRange {
            from_seq,
            to_seq,
            source: source.map(str::to_owned),
        }
    }

    fn summary(outbox: &Outbox, range: &ReplayRange) -> ReplaySummary {
        match outbox.replay(range).unwrap() {
            ReplayAnswer::Promised(summary) => summary,
            busy @ ReplayAnswer::Busy { .. } => panic!("{busy:?}"),
        }
    }

    /// Everything that the oldest replay sends, in pages of `limit`, and the end of it.
    fn play(outbox: &Outbox, limit: usize) -> Vec<Key> {
        let (mut at, mut keys) = (None, Vec::new());
        loop {
            let page = outbox.replay_page(at, limit).unwrap().unwrap();
            assert!(page.messages.len() <= limit);
            keys.extend(page.messages.iter().map(|(key, _)| *key));
            at = Some((page.number, page.cursor));
            if page.finished {
                outbox.end_replay(page.number).unwrap();
                return keys;
            }
        }
    }

    #[test]
    fn what_is_asked_for_comes_and_nothing_else() {
        let (outbox, _folder) = published(6);
        let cases: [(_, _, &[Key]); 5] = [
            (
                range(3, Some(5), None),
                3,
                &[(3, 0), (3, 1), (4, 0), (5, 0), (5, 1)],
            ),
            (range(3, Some(5), Some("ct")), 1, &[(4, 0)]),
            (range(4, None, Some("ct")), 2, &[(4, 0), (6, 0), (7, 0)]),
            (range(0, Some(1), Some("ward")), 1, &[(1, 0), (1, 1)]),
            (range(6, Some(99), None), 1, &[(6, 0), (7, 0)]),
        ];
        for (range, results, keys) in cases {
            for limit in 1..4 {
                let summary = summary(&outbox, &range);
                assert_eq!(summary.results, results, "{range:?}");
                assert_eq!(summary.messages, keys.len() as u64, "{range:?}");
                assert_eq!(summary.first_seq, Some(keys[0].0));
                assert_eq!(summary.last_seq, keys.last().map(|key| key.0));
                assert_eq!(play(&outbox, limit), keys, "{range:?}");
            }
        }
        for nothing in [
            range(8, None, None),
            range(5, Some(3), None),
            range(1, None, Some("mr")),
            range(u64::MAX, None, None),
        ] {
            assert_eq!(summary(&outbox, &nothing).messages, 0);
        }
        assert!(outbox.replay_page(None, 9).unwrap().is_none());
    }

    #[test]
    fn a_replay_goes_on_where_it_stood_and_too_many_are_refused() {
        let (outbox, folder) = published(6);
        summary(&outbox, &range(1, None, None));
        summary(&outbox, &range(6, None, None));
        let busy = outbox.replay(&range(1, None, None)).unwrap();
        assert_eq!(busy, ReplayAnswer::Busy { replays_max: 2 });
        outbox.replayed(1, (3, 0)).unwrap();
        // The process dies here.
        drop(outbox);
        let outbox = Outbox::open(folder.path()).unwrap();
        assert_eq!(play(&outbox, 2)[..2], [(3, 1), (4, 0)]);
        assert_eq!(play(&outbox, 2), [(6, 0), (7, 0)]);
        assert!(outbox.replay_page(None, 1).unwrap().is_none());
        let messages = outbox.messages(None, 1).unwrap();
        assert!(messages.is_empty(), "nothing is owed twice");
    }
}
