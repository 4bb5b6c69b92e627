//! A C-STORE SCU: what lies in `segmentations/` goes to a PACS, oldest first, until it answers with
//! success or a warning, on a thread of its own.
//!
//! Trouble of the connection or the association counts against no object; it is tried again for ever, at growing
//! intervals. An answer that refuses the object sets it aside; one that asks for another
//! try does so after `attempts_max`.

mod association;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use segmenter::seg::{self, DataSetError};
use tokio::sync::watch;

use super::outgoing::{Outgoing, SegmentationFolders};
use super::waiting;
use crate::backoff::Backoff;
use crate::config::SendTo;
use crate::failure::chain;
use crate::spool::SpoolError;
use crate::status::Status;
use crate::tls::Trust;
use crate::tls::credentials::Credentials;

pub(super) use association::{Association, echo};

/// How often the folder is checked without a notice that there is something to send.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_mins(1);
/// How soon fresh certificates are noticed.
const CREDENTIALS_CHECK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}; check host, port and AE titles, and whether it wants TLS")]
    Association(String),
    #[error("{0}")]
    Tls(String),
    #[error("it takes no segmentations; let it accept Segmentation Storage")]
    NotAccepted,
    #[error("it breaks off while an object is sent: {0}")]
    Broken(String),
    #[error("its answer is none")]
    InvalidResponse,
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What an answer means for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreOutcome {
    Stored,
    /// Out of resources, or a failure in processing: another time it may go.
    RetryLater,
    Refused,
}

impl StoreOutcome {
    /// PS3.4 B.2.3 and PS3.7 annex C.
    fn of(status: u16) -> Self {
        match status {
            0x0000 | 0x0001 | 0x0107 | 0x0116 | 0xb000..=0xbfff => Self::Stored,
            0x0110 | 0x0213 | 0xa700..=0xa7ff => Self::RetryLater,
            _ => Self::Refused,
        }
    }
}

/// A file that waits.
struct Object {
    file: Vec<u8>,
    sop_instance_uid: String,
}

impl Object {
    /// `None` when it is gone.
    fn read(path: &Path) -> Option<Self> {
        let sop_instance_uid = path.file_stem()?.to_str()?.to_owned();
        let file = fs::read(path).ok()?;
        Some(Self {
            file,
            sop_instance_uid,
        })
    }

    fn data_set(&self, implicit: bool) -> Result<Vec<u8>, SendError> {
        seg::data_set(&self.file, implicit)
            .map_err(|error: DataSetError| SendError::Broken(chain(&error)))
    }
}

/// Sends until the other end of the channel is gone, which also says that there is something new.
pub(super) fn start(
    to: &SendTo,
    folders: &SegmentationFolders,
    credentials: watch::Receiver<Credentials>,
    status: &Arc<Status>,
) -> std::io::Result<SyncSender<()>> {
    let (wake, woken) = sync_channel(1);
    let Some(outgoing) = folders.outgoing().cloned() else {
        return Ok(wake);
    };
    let sender = StoreScu {
        to: to.clone(),
        credentials,
        outgoing,
        status: Arc::clone(status),
        attempts: HashMap::new(),
        logged: None,
    };
    thread::Builder::new()
        .name("seg-sender".to_owned())
        .spawn(move || sender.run(&woken))?;
    Ok(wake)
}

struct StoreScu {
    to: SendTo,
    credentials: watch::Receiver<Credentials>,
    outgoing: Outgoing,
    status: Arc<Status>,
    /// How often each object was answered with a request for another try.
    attempts: HashMap<PathBuf, u32>,
    /// The trouble that was logged last.
    logged: Option<String>,
}

impl StoreScu {
    fn run(mut self, woken: &Receiver<()>) {
        let mut backoff = Backoff::new(self.to.retry_min_ms, self.to.retry_max_ms);
        loop {
            let all = self.send_all().unwrap_or_else(|error| {
                self.log_once(&error);
                false
            });
            let wait = if all {
                self.status.pacs.record_success();
                backoff.reset();
                IDLE_CHECK_INTERVAL
            } else {
                backoff.wait()
            };
            // A new object does not shorten the wait for a PACS in trouble; an operator's reload or retry does.
            let until = Instant::now() + wait;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                match woken.recv_timeout(left.min(CREDENTIALS_CHECK_INTERVAL)) {
                    Ok(()) if all => break,
                    Err(RecvTimeoutError::Timeout) if left <= CREDENTIALS_CHECK_INTERVAL => break,
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let asked = self.status.pacs.take_retry_request();
                if asked || self.credentials.has_changed().unwrap_or(false) {
                    self.credentials.mark_unchanged();
                    backoff.reset();
                    break;
                }
            }
        }
    }

    /// False when some wait for another time.
    fn send_all(&mut self) -> Result<bool, SendError> {
        let waiting = self.outgoing.waiting()?;
        self.attempts.retain(|path, _| waiting.contains(path));
        if waiting.is_empty() {
            return Ok(true);
        }
        let trust: Option<Arc<Trust>> = self.credentials.borrow().pacs.clone();
        let mut association = Association::open(&self.to, trust)?;
        if self.logged.take().is_some() {
            tracing::info!(
                called = self.to.called_ae_title,
                "segmentations are sent again"
            );
        }
        let mut all = true;
        for (path, message_id) in waiting.iter().zip((1..=u16::MAX).cycle()) {
            let Some(object) = Object::read(path) else {
                continue;
            };
            let status = association.store(&object, message_id)?;
            all &= self.handle_status(path, status)?;
        }
        association.close();
        Ok(all)
    }

    /// False when the object waits for another time.
    fn handle_status(&mut self, path: &Path, status: u16) -> Result<bool, SpoolError> {
        let called = &self.to.called_ae_title;
        let words = format!("{status:04X}H");
        let attempts = self.attempts.entry(path.to_owned()).or_default();
        *attempts += 1;
        match StoreOutcome::of(status) {
            StoreOutcome::Stored => {
                tracing::info!(called, status = words, "segmentation stored");
                self.status.pacs.record_success();
                self.outgoing.sent(path)?;
            }
            StoreOutcome::RetryLater if *attempts < self.to.attempts_max => {
                tracing::warn!(
                    called,
                    status = words,
                    "segmentation not stored, it is sent again"
                );
                let why = format!("{called} answers {words} and may take it another time");
                self.status.pacs.record_trouble(&why);
                return Ok(false);
            }
            StoreOutcome::RetryLater | StoreOutcome::Refused => {
                tracing::error!(
                    called,
                    status = words,
                    attempts,
                    "segmentation refused; it lies in segmentations/refused, and `scansided segmentations \
                     retry` sends it again"
                );
                let why = format!("{called} answered {words} after {attempts} attempts");
                waiting::note(&self.outgoing.refused, path, &why);
                self.outgoing.refuse(path)?;
                self.attempts.remove(path);
            }
        }
        Ok(true)
    }

    /// Warns once of each trouble.
    fn log_once(&mut self, error: &SendError) {
        let words = error.to_string();
        self.status.pacs.record_trouble(&words);
        if self.logged.as_deref() != Some(&*words) {
            let called = &self.to.called_ae_title;
            tracing::warn!(
                called,
                why = words,
                "segmentations cannot be sent, they are kept"
            );
            self.logged = Some(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_the_standard_says() {
        for (status, outcome) in [
            (0x0000, StoreOutcome::Stored),
            (0xb000, StoreOutcome::Stored),
            (0xb007, StoreOutcome::Stored),
            (0xa700, StoreOutcome::RetryLater),
            (0x0110, StoreOutcome::RetryLater),
            (0xa900, StoreOutcome::Refused),
            (0xc000, StoreOutcome::Refused),
            (0x0122, StoreOutcome::Refused),
        ] {
            assert_eq!(StoreOutcome::of(status), outcome, "{status:04X}");
        }
    }
}
