//! What people ask of the box. The command opens the outbox itself where no daemon has it open, and else asks that
//! daemon through a socket in the state directory. Both answer by the same function.
//!
//! One request a connection: a line of JSON each way. Who may connect is a matter of the rights of
//! the state directory; the socket itself is its owner's.

mod find;
mod serve;

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::failure::{Stage, chain};
use crate::models::{self, Change, Models, Reply, Store};
use crate::outbox::job::{Input, JobNumber};
use crate::outbox::{
    self, Entry, HistoryFilter, JobHistory, Ledger, Outbox, OutboxError, ReplayAnswer, ReplayRange,
};
use crate::seg;
use crate::spool::quarantine::{self, Retried};
use crate::spool::recover::recover;
use crate::spool::{AcceptError, Spool};
use crate::status::pacs::{self, Pacs, Unsent};

pub use find::{SearchResult, SearchTerms};
pub use serve::{Control, ControlError, listen, open, run};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Ledger,
    #[serde(rename = "life")]
    History(JobNumber),
    /// By whatever people know of an image.
    Find(String),
    List(HistoryFilter),
    /// What lies in quarantine.
    Quarantined,
    Retry(Choice),
    Drop(Choice),
    Models(Change),
    Replay(ReplayRange),
    Segmentations,
    RetrySegmentations(seg::RetryChoice),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    All,
    Jobs(Vec<JobNumber>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Ledger(Ledger),
    #[serde(rename = "life")]
    History(Option<Box<JobHistory>>),
    Found(SearchResult),
    Listed(Vec<JobHistory>),
    Quarantined(Vec<QuarantinedFile>),
    Moved(MoveOutcome),
    Models(Reply),
    Replay(ReplayAnswer),
    Segmentations(Vec<Unsent>),
    Retried(seg::Retried),
    /// Why the daemon could not do it.
    Failed(String),
}

/// A file in quarantine, without the name that its sender gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedFile {
    pub job: JobNumber,
    pub quarantined_at: String,
    pub received_at: String,
    pub source: String,
    pub stage: Stage,
    pub code: String,
    pub words: String,
    pub remedy: String,
    /// `None` when the file is gone.
    pub bytes: Option<u64>,
    /// Refused before it was accepted; counts as rejected.
    pub refused: bool,
}

/// What came of a retry or a drop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOutcome {
    pub done: Vec<JobNumber>,
    /// Not in quarantine.
    pub unknown: Vec<JobNumber>,
    /// Their files are gone, so that there is nothing to try.
    pub missing: Vec<JobNumber>,
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{} has no outbox yet; was the daemon ever started with this configuration?", .0.display())]
    NoOutbox(PathBuf),
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(
        "the scansided that uses {} does not answer: {source}; if it is just starting or stopping, \
         try again, otherwise stop it first",
        path.display()
    )]
    Silent { path: PathBuf, source: io::Error },
    #[error("the running scansided says: {0}")]
    Failed(String),
}

const SOCKET: &str = "control.sock";
/// How long a command waits for its answer: many files take their time on a slow disk.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
/// How long a command waits for an outbox that another process has open without listening on the socket.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Opens the outbox and answers, or lets the daemon that has it open answer.
pub fn ask(config: &Config, request: &Request) -> Result<Answer, AskError> {
    let state = &config.state.directory;
    // A bundle may be installed before the first start.
    if !matches!(request, Request::Models(_)) && !outbox::exists(state) {
        return Err(AskError::NoOutbox(state.clone()));
    }
    let start = Instant::now();
    let outbox = loop {
        let path = match Outbox::open(state) {
            Err(OutboxError::InUse { path }) => path,
            opened => break opened.map_err(AcceptError::from)?,
        };
        let silent = |source| AskError::Silent { path, source };
        match UnixStream::connect(state.join(SOCKET)) {
            Ok(stream) => {
                return match send(stream, request).map_err(silent)? {
                    Answer::Failed(words) => Err(AskError::Failed(words)),
                    answer => Ok(answer),
                };
            }
            // A daemon that starts or stops, or another command.
            Err(_) if start.elapsed() < LOCK_TIMEOUT => thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(silent(error)),
        }
    };
    let spool = Spool::create(state, config.state.keep_inputs_days).map_err(AcceptError::from)?;
    if matches!(request, Request::Retry(_) | Request::Drop(_)) {
        // As at a start: no file is on its way any more.
        recover(&outbox, &spool)?;
    }
    let outbox = outbox.with_retention(config.results.clone());
    let context = AnswerContext {
        outbox: &outbox,
        spool: &spool,
        store: &Store::new(config),
        live: None,
        pacs: None,
    };
    Ok(perform(&context, request)?)
}

fn send(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// What an answer is made with.
struct AnswerContext<'a> {
    outbox: &'a Outbox,
    spool: &'a Spool,
    store: &'a Store,
    /// The daemon's models.
    live: Option<&'a Models>,
    /// What the daemon knows of the PACS.
    pacs: Option<&'a Pacs>,
}

/// Blocking: reads and writes outbox and spool.
fn perform(context: &AnswerContext<'_>, request: &Request) -> Result<Answer, AcceptError> {
    let AnswerContext { outbox, spool, .. } = *context;
    Ok(match request {
        Request::Models(change) => {
            Answer::Models(models::perform(context.store, context.live, change))
        }
        Request::Ledger => Answer::Ledger(outbox.ledger()?),
        Request::History(job_number) => Answer::History(
            outbox
                .history(*job_number)?
                .map(|history| with_input(outbox, spool, history))
                .transpose()?
                .map(Box::new),
        ),
        Request::Find(word) => Answer::Found(find::find(outbox, spool, word)?),
        Request::List(filter) => Answer::Listed(outbox.list(filter)?),
        Request::Quarantined => {
            let entries = outbox.quarantined()?;
            Answer::Quarantined(entries.into_iter().map(|e| item(spool, e)).collect())
        }
        Request::Retry(choice) => {
            let (chosen, mut moved) = choose(outbox, choice)?;
            for entry in chosen {
                let list = match quarantine::retry(outbox, spool, &entry)? {
                    Retried::Job => &mut moved.done,
                    Retried::Left => &mut moved.unknown,
                    Retried::FileMissing => &mut moved.missing,
                };
                list.push(entry.job_number);
            }
            Answer::Moved(moved)
        }
        Request::Drop(choice) => {
            let (chosen, mut moved) = choose(outbox, choice)?;
            for entry in chosen {
                let done = quarantine::discard(outbox, spool, &entry)?;
                let list = if done {
                    &mut moved.done
                } else {
                    &mut moved.unknown
                };
                list.push(entry.job_number);
            }
            Answer::Moved(moved)
        }
        Request::Replay(range) => Answer::Replay(outbox.replay(range)?),
        Request::Segmentations => {
            let why = context.pacs.and_then(Pacs::why);
            Answer::Segmentations(pacs::segmentations(spool.state(), why.as_deref()))
        }
        Request::RetrySegmentations(wanted) => {
            let retried = seg::retry(spool.state(), wanted)?;
            if let Some(pacs) = context.pacs {
                pacs.request_retry();
            }
            Answer::Retried(retried)
        }
    })
}

fn choose(outbox: &Outbox, choice: &Choice) -> Result<(Vec<Entry>, MoveOutcome), OutboxError> {
    let mut entries = outbox.quarantined()?;
    let mut moved = MoveOutcome::default();
    if let Choice::Jobs(job_numbers) = choice {
        entries.retain(|entry| job_numbers.contains(&entry.job_number));
        let found =
            |job_number: &JobNumber| entries.iter().any(|entry| entry.job_number == *job_number);
        moved.unknown = job_numbers.iter().copied().filter(|t| !found(t)).collect();
    }
    Ok((entries, moved))
}

fn item(spool: &Spool, entry: Entry) -> QuarantinedFile {
    let metadata = std::fs::metadata(spool.quarantine.join(&entry.file));
    QuarantinedFile {
        job: entry.job_number,
        quarantined_at: entry.quarantined_at,
        received_at: entry.received_at,
        source: entry.source,
        stage: entry.reason.stage(),
        code: entry.reason.code,
        words: entry.reason.words,
        remedy: entry.reason.remedy,
        bytes: metadata.ok().map(|metadata| metadata.len()),
        refused: entry.refused,
    }
}

/// With size and digest of a file that was not segmented but lies here. One that is on its way at
/// this moment has none.
fn with_input(
    outbox: &Outbox,
    spool: &Spool,
    mut history: JobHistory,
) -> Result<JobHistory, OutboxError> {
    if history.input.is_none() {
        let waiting = outbox.job(history.job)?.map(|job| spool.input(&job));
        let mut entries = outbox.quarantined()?.into_iter();
        let resting = entries
            .find(|entry| entry.job_number == history.job)
            .map(|entry| spool.quarantine.join(entry.file));
        let mut paths = waiting.into_iter().chain(resting);
        history.input = paths.find_map(|path| Input::of_file(&path).ok());
    }
    Ok(history)
}

#[cfg(test)]
mod tests;
