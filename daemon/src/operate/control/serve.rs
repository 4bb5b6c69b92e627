//! The daemon's end: answers one request at a time, hands what is retried to the inference thread, and
//! keeps quarantine, results and kept inputs within their limits. None of it needs a broker.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{interval, timeout};

use super::{Answer, AnswerContext, LOCK_PAUSE, LOCK_TIMEOUT, Request, SOCKET, chain, perform};
use crate::clock;
use crate::config;
use crate::models::Models;
use crate::outbox::job::JobNumber;
use crate::outbox::{Outbox, OutboxError};
use crate::shutdown::stopped;
use crate::spool::quarantine;
use crate::spool::{AcceptError, Spool};
use crate::status::Status;

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error("the task of a request did not end: {0}")]
    Task(#[from] JoinError),
}

/// What an answer is made from.
#[derive(Clone)]
pub struct Control {
    pub outbox: Arc<Outbox>,
    pub spool: Spool,
    pub limits: config::Quarantine,
    pub history_max_jobs: u64,
    pub models: Arc<Models>,
    pub status: Arc<Status>,
    /// Of results.
    pub keep_days: u32,
    /// Wakes the publisher.
    pub fresh: Arc<Notify>,
}

impl Control {
    /// Removes what was kept for its time: history, results, inputs of published jobs, quarantine.
    fn expire(&self) -> Result<(), AcceptError> {
        if let Err(error) = self.spool.expire() {
            tracing::error!(%error, "kept inputs cannot be removed");
        }
        self.outbox.forget_history(self.history_max_jobs)?;
        let keep_ms = u64::from(self.keep_days) * 86_400_000;
        let now = clock::for_expiry();
        self.outbox
            .forget_kept(clock::unix_ms(now).saturating_sub(keep_ms))?;
        quarantine::expire(&self.outbox, &self.spool, &self.limits, now)
    }
}

/// Between two looks at the limits of quarantine, history, results and kept inputs.
const TICK: Duration = Duration::from_mins(1);
/// A client that says nothing, or does not listen, must not hold up the rest.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_MAX_BYTES: u64 = 1 << 20;

/// Opens the outbox for a daemon; a command may have it open for a moment.
pub async fn open(state: &Path) -> Result<Outbox, OutboxError> {
    let start = Instant::now();
    loop {
        match Outbox::open(state) {
            Err(OutboxError::InUse { .. }) if start.elapsed() < LOCK_TIMEOUT => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Listens in the state directory; call it within a runtime. Without a socket the daemon works all the
/// same. A file of an earlier run is in the way only: the outbox is ours.
pub fn listen(state: &Path) -> Option<UnixListener> {
    let path = state.join(SOCKET);
    let bind = || {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind()
        .inspect_err(|error| {
            tracing::warn!(%error, path = %path.display(),
                "no socket for commands like `scansided ledger`; stop the daemon to use them");
        })
        .ok()
}

/// Runs until `stop` or until the inference thread is gone.
pub async fn run(
    control: Control,
    listener: Option<UnixListener>,
    job_numbers: mpsc::Sender<JobNumber>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ControlError> {
    // What the bounded queue has no room for yet.
    let mut retried = VecDeque::new();
    let mut tick = interval(TICK);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return Ok(()),
            stream = next(listener.as_ref()) => {
                let done = tokio::select! {
                    done = serve(&control, stream) => done?,
                    // A retry that was under way is in the outbox.
                    () = stopped(&mut stop) => return Ok(()),
                };
                retried.extend(done);
            }
            room = job_numbers.reserve(), if !retried.is_empty() => {
                let Ok(room) = room else { return Ok(()) };
                if let Some(job_number) = retried.pop_front() {
                    room.send(job_number);
                }
            }
            _ = tick.tick() => {
                let control = control.clone();
                spawn_blocking(move || control.expire()).await??;
            }
        }
    }
}

async fn next(listener: Option<&UnixListener>) -> UnixStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::debug!(%error, "a request was not taken");
                tokio::time::sleep(CLIENT_TIMEOUT).await;
            }
        }
    }
}

/// Answers one request and gives the jobs that it put back to work. A client that goes away is its own
/// trouble; a disk that fails is the daemon's.
async fn serve(control: &Control, mut stream: UnixStream) -> Result<Vec<JobNumber>, ControlError> {
    let mut line = String::new();
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::new(reading.take(REQUEST_MAX_BYTES));
    match timeout(CLIENT_TIMEOUT, reading.read_line(&mut line)).await {
        Ok(Ok(_)) => {}
        _ => return Ok(Vec::new()),
    }
    let (answer, retried, ended) = match serde_json::from_str::<Request>(&line) {
        Err(error) => (
            Answer::Failed(format!("this is no request: {error}")),
            Vec::new(),
            Ok(()),
        ),
        Ok(request) => {
            let (control, fresh) = (control.clone(), &control.fresh);
            let retries = matches!(request, Request::Retry(_));
            let performed = spawn_blocking(move || {
                let context = AnswerContext {
                    outbox: &control.outbox,
                    spool: &control.spool,
                    store: &control.models.store,
                    live: Some(&control.models),
                    pacs: Some(&control.status.pacs),
                };
                let performed = perform(&context, &request);
                // A slot that had fallen back may serve its own version again.
                control
                    .status
                    .set_model_fell_back(control.models.fell_back());
                performed
            })
            .await?;
            match performed {
                Ok(answer) => {
                    if let Answer::Replay(_) = answer {
                        fresh.notify_one();
                    }
                    let retried = match &answer {
                        Answer::Moved(moved) if retries => moved.done.clone(),
                        _ => Vec::new(),
                    };
                    (answer, retried, Ok(()))
                }
                Err(error) => (Answer::Failed(chain(&error)), Vec::new(), Err(error)),
            }
        }
    };
    let mut line = serde_json::to_vec(&answer).expect("an answer is plain data");
    line.push(b'\n');
    // Whether it was heard or not, what was done is done.
    let _ = timeout(CLIENT_TIMEOUT, writing.write_all(&line)).await;
    ended?;
    Ok(retried)
}
