//! What became of each job, for `scansided ledger show JOB`: written in the transactions that change
//! the job, so the two always agree, and kept when the job's own row is gone, until [`Outbox::forget_history`].

use clap::ValueEnum;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Key, Message, Outbox, OutboxError};
use crate::clock;
use crate::failure::Reason;
use crate::outbox::job::{Input, Job, JobNumber, LookupKeys, Sender, State};

pub(super) const HISTORIES: TableDefinition<'_, JobNumber, &[u8]> = TableDefinition::new("lives");

/// Everything that is known of a job, but for the name that the sender gave the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobHistory {
    pub job: JobNumber,
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
    pub accepted_at: String,
    /// It was refused, not accepted.
    pub refused: bool,
    /// Known once the image was segmented.
    pub input: Option<Input>,
    /// The id of its result, or of the result that it would have had.
    #[serde(default)]
    pub job_id: Option<Uuid>,
    /// As results with hashed identifiers carry it.
    #[serde(default)]
    pub sop_instance_uid: Option<String>,
    pub state: Phase,
    /// When it came into this state.
    pub since: String,
    /// Since it was accepted or put back to work.
    pub attempts: u32,
    /// Why it went into quarantine the last time.
    pub reason: Option<Reason>,
    pub messages: Vec<Sent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for the inference thread.
    Accepted,
    /// A process works on it.
    InHand,
    /// Waits for the broker.
    Inferred,
    Published,
    Quarantined,
    Dropped,
}

/// A message of the job, sent or still to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Below the node's root.
    pub topic: String,
    pub seq: u64,
    pub part: u32,
    pub bytes: usize,
    pub acknowledged_at: Option<String>,
}

impl From<&State> for Phase {
    fn from(state: &State) -> Self {
        match state {
            State::Accepted => Self::Accepted,
            State::Leased { .. } => Self::InHand,
            State::Inferred { .. } => Self::Inferred,
            State::Published => Self::Published,
            State::Quarantined { .. } => Self::Quarantined,
            State::Dropped => Self::Dropped,
        }
    }
}

/// What became of a job, as `ledger list --state` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waits for the inference thread, is worked on, or waits for the broker.
    Pending,
    Published,
    /// Also inputs that were refused.
    Quarantined,
    Dropped,
}

impl From<Phase> for Stage {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Accepted | Phase::InHand | Phase::Inferred => Self::Pending,
            Phase::Published => Self::Published,
            Phase::Quarantined => Self::Quarantined,
            Phase::Dropped => Self::Dropped,
        }
    }
}

/// Which jobs to list, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryFilter {
    pub state: Option<Stage>,
    pub source: Option<String>,
    /// Accepted then or later: the beginning of a time as the outbox writes it.
    pub since: Option<String>,
    pub limit: usize,
}

impl HistoryFilter {
    fn matches(&self, history: &JobHistory) -> bool {
        self.state.is_none_or(|state| state == history.state.into())
            && self
                .source
                .as_ref()
                .is_none_or(|source| *source == history.source)
            && self
                .since
                .as_ref()
                .is_none_or(|since| *since <= history.accepted_at)
    }
}

impl Outbox {
    /// Those that `wanted` gives something of, in the order of acceptance. A walk over all of the history, which
    /// has `state.history_max_jobs` rows: an index would cost every commit for what people ask now and then.
    pub fn search<T>(
        &self,
        mut wanted: impl FnMut(JobHistory) -> Option<T>,
    ) -> Result<Vec<T>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(HISTORIES)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                found.extend(wanted(decode(row?.1.value())?));
            }
            Ok(found)
        })
    }

    pub fn list(&self, filter: &HistoryFilter) -> Result<Vec<JobHistory>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(HISTORIES)?;
            let mut histories = Vec::new();
            for row in table.iter()?.rev() {
                if histories.len() == filter.limit {
                    break;
                }
                let history = decode(row?.1.value())?;
                histories.extend(filter.matches(&history).then_some(history));
            }
            Ok(histories)
        })
    }

    /// Records the lookup keys of a job that will have no result.
    pub fn record_lookup_keys(
        &self,
        job_number: JobNumber,
        lookup_keys: &LookupKeys,
    ) -> Result<(), OutboxError> {
        self.write(|transaction| record_lookup_keys(transaction, job_number, lookup_keys))
    }

    /// `None` for a number that was never given, or so long ago that it is forgotten.
    pub fn history(&self, job_number: JobNumber) -> Result<Option<JobHistory>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(HISTORIES)?;
            let row = table.get(job_number)?;
            row.map(|row| decode(row.value())).transpose()
        })
    }
}

/// Records a change of the job's row.
pub(super) fn record_state(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    job: &Job,
) -> Result<(), redb::Error> {
    let mut history = get(transaction, job_number)?.unwrap_or_else(|| JobHistory {
        job: job_number,
        source: job.source.clone(),
        sender: None,
        accepted_at: job.received_at.clone(),
        refused: false,
        input: None,
        job_id: None,
        sop_instance_uid: None,
        state: Phase::Accepted,
        since: String::new(),
        attempts: 0,
        reason: None,
        messages: Vec::new(),
    });
    history.state = Phase::from(&job.state);
    history.since = clock::now();
    // The row of a dropped job counts no attempts any more.
    if history.state != Phase::Dropped {
        history.attempts = job.attempts;
    }
    if let State::Quarantined { reason } = &job.state {
        history.reason = Some(reason.clone());
        // What the broker did not take was withdrawn.
        history
            .messages
            .retain(|sent| sent.acknowledged_at.is_some());
    }
    put(transaction, &history)
}

/// Records a job that begins in quarantine.
pub(super) fn record_refused(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    job: &Job,
) -> Result<(), redb::Error> {
    record_state(transaction, job_number, job)?;
    change(transaction, job_number, |history| history.refused = true)
}

pub(super) fn record_sender(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    sender: &Sender,
) -> Result<(), redb::Error> {
    change(transaction, job_number, |history| {
        history.sender = Some(sender.clone());
    })
}

/// Keys that are not known this time stay as they were.
pub(super) fn record_lookup_keys(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    lookup_keys: &LookupKeys,
) -> Result<(), redb::Error> {
    let LookupKeys {
        input,
        job_id,
        sop_instance_uid,
    } = lookup_keys.clone();
    change(transaction, job_number, |history| {
        history.input = input.or(history.input.take());
        history.job_id = job_id.or(history.job_id);
        history.sop_instance_uid = sop_instance_uid.or(history.sop_instance_uid.take());
    })
}

/// The messages of a result, in place of those of the same number.
pub(super) fn record_messages(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    seq: u64,
    messages: &[Message],
) -> Result<(), redb::Error> {
    change(transaction, job_number, |history| {
        history.messages.retain(|sent| sent.seq != seq);
        let sent = (0..).zip(messages).map(|(part, message)| Sent {
            topic: message.topic.clone(),
            seq,
            part,
            bytes: message.payload.len(),
            acknowledged_at: None,
        });
        history.messages.extend(sent);
    })
}

pub(super) fn record_ack(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    (seq, part): Key,
) -> Result<(), redb::Error> {
    change(transaction, job_number, |history| {
        let mut messages = history.messages.iter_mut();
        if let Some(sent) = messages.find(|sent| (sent.seq, sent.part) == (seq, part)) {
            sent.acknowledged_at = Some(clock::now());
        }
    })
}

/// Does nothing to a job that was accepted before histories were written.
fn change(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    change: impl FnOnce(&mut JobHistory),
) -> Result<(), redb::Error> {
    let Some(mut history) = get(transaction, job_number)? else {
        return Ok(());
    };
    change(&mut history);
    put(transaction, &history)
}

fn get(
    transaction: &WriteTransaction,
    job_number: JobNumber,
) -> Result<Option<JobHistory>, redb::Error> {
    let table = transaction.open_table(HISTORIES)?;
    let row = table.get(job_number)?;
    row.map(|row| decode(row.value())).transpose()
}

fn put(transaction: &WriteTransaction, history: &JobHistory) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(history).expect("a history is plain data");
    transaction
        .open_table(HISTORIES)?
        .insert(history.job, bytes.as_slice())?;
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<JobHistory, redb::Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a row of lives does not parse: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Arrival;

    fn arrival(file: &str) -> Arrival {
        Arrival {
            source: "ward".into(),
            file: file.into(),
            received_at: "2026-11-24T00:00:00Z".into(),
            sender: None,
        }
    }

    fn message(topic: &str) -> Message {
        Message {
            topic: topic.into(),
            payload: vec![0; 5],
        }
    }

    fn reason() -> Reason {
        Reason {
            code: "c".into(),
            words: "w".into(),
            remedy: "r".into(),
        }
    }

    #[test]
    fn a_history_tells_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let history = || outbox.history(1).unwrap().unwrap();
        outbox.accept(&[arrival("DOE^JANE")]).unwrap();
        assert_eq!((history().state, history().input), (Phase::Accepted, None));
        outbox.lease(1, Uuid::nil(), 3).unwrap();
        assert_eq!((history().state, history().attempts), (Phase::InHand, 1));

        let input = Input::of(b"pixels");
        let parts = |_| vec![message("result/ward"), message("mask/1/1")];
        outbox.append(1, &input, parts).unwrap();
        outbox.acknowledge(&[(1, 1)]).unwrap();
        assert_eq!(history().input, Some(input.clone()));
        let acknowledged = |history: JobHistory| -> Vec<bool> {
            let messages = history.messages.iter();
            messages
                .map(|sent| sent.acknowledged_at.is_some())
                .collect()
        };
        assert_eq!(acknowledged(history()), [false, true]);

        // Given up, and tried once more.
        outbox
            .quarantine(1, &reason(), |_| message("event"))
            .unwrap();
        assert_eq!(
            (history().state, history().reason),
            (Phase::Quarantined, Some(reason()))
        );
        assert_eq!(acknowledged(history()), [true]);
        outbox.retry("DOE^JANE").unwrap();
        assert_eq!((history().state, history().attempts), (Phase::Accepted, 0));
        outbox.lease(1, Uuid::nil(), 3).unwrap();
        outbox
            .append(1, &input, |_| vec![message("result/ward")])
            .unwrap();
        outbox
            .replace((3, 0), &[message("result/ward"), message("mask/1/1")])
            .unwrap();
        assert_eq!(acknowledged(history()), [true, false, false]);
        outbox.acknowledge(&[(3, 0), (3, 1)]).unwrap();
        assert_eq!((history().state, history().attempts), (Phase::Published, 1));
        assert_eq!(acknowledged(history()), [true, true, true]);
        let last = history().messages.pop().unwrap();
        assert_eq!(
            (&*last.topic, last.seq, last.part, last.bytes),
            ("mask/1/1", 3, 1, 5)
        );
        let text = serde_json::to_string(&history()).unwrap();
        assert!(!text.contains("DOE"), "{text}");

        outbox.refuse(&arrival("large"), &reason()).unwrap();
        let refused = outbox.history(2).unwrap().unwrap();
        assert!(refused.refused && refused.state == Phase::Quarantined);
        outbox.discard("large").unwrap();
        assert_eq!(outbox.history(2).unwrap().unwrap().state, Phase::Dropped);
        assert_eq!(outbox.history(3).unwrap(), None);
    }

    /// What `state.history_max_jobs` keeps by default is looked through while a user waits.
    #[test]
    fn a_whole_history_is_searched_in_a_moment() {
        const JOBS: usize = 10_000;
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let arrivals: Vec<Arrival> = (0..JOBS).map(|n| arrival(&n.to_string())).collect();
        outbox.accept(&arrivals).unwrap();
        let start = std::time::Instant::now();
        let found = outbox.search(|history| (history.job == 9999).then_some(history));
        let took = start.elapsed();
        assert_eq!(found.unwrap().len(), 1);
        eprintln!("{JOBS} histories searched in {} ms", took.as_millis());
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn the_oldest_histories_are_forgotten_but_not_of_jobs_that_are_here() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let files = ["a", "b", "c", "d", "e"];
        outbox.accept(&files.map(arrival)).unwrap();
        let known = || -> Vec<JobNumber> {
            let known = |job_number: &JobNumber| outbox.history(*job_number).unwrap().is_some();
            (1..=5).filter(known).collect()
        };
        // 1 is pending, 2 in quarantine, the others are published and gone.
        outbox
            .quarantine(2, &reason(), |_| message("event"))
            .unwrap();
        outbox.forget(2);
        for job_number in 3..=5 {
            outbox
                .append(job_number, &Input::of(b""), |_| vec![message("r")])
                .unwrap();
            outbox.acknowledge(&[(job_number - 1, 0)]).unwrap();
            outbox.forget(job_number);
        }
        outbox.reject().unwrap();
        outbox.forget_history(5).unwrap();
        assert_eq!(known(), [1, 2, 3, 4, 5]);
        outbox.forget_history(4).unwrap();
        assert_eq!(known(), [1, 2, 4, 5]);
        outbox.forget_history(0).unwrap();
        assert_eq!(known(), [1, 2]);
    }
}
