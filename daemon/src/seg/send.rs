//! A C-STORE SCU: what lies in `segmentations/` goes to a PACS, oldest first, until it answers with
//! success or a warning, on a thread of its own.
//!
//! What is wrong with the connection or the association is nobody's fault here and is tried again for
//! ever, ever more slowly. An answer that refuses the object sets it aside; one that asks for another
//! try does so after `attempts_max`.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use dicom_ul::association::{ClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
use segmenter::seg::{self, DataSetError};

use super::shelf::{Outgoing, Shelf};
use crate::accept::ShelfError;
use crate::backoff::Backoff;
use crate::config::SendTo;
use crate::failure::chain;
use crate::source::dicom::command::{self, C_ECHO, C_STORE, IS_RESPONSE};
use crate::source::dicom::negotiate::VERIFICATION;

const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
/// Which everybody has to offer and to take (PS3.5 section 10.1).
const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";
/// When nobody says that there is something to send.
const LOOK: Duration = Duration::from_mins(1);

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}; check host, port and AE titles")]
    Association(String),
    #[error("it takes no segmentations; let it accept Segmentation Storage")]
    NotTaken,
    #[error("it breaks off while an object is sent: {0}")]
    Broken(String),
    #[error("its answer is none")]
    Answer,
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

/// What an answer means for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// Out of resources, or a failure in processing: another time it may go.
    Later,
    Refused,
}

impl Verdict {
    /// PS3.4 B.2.3 and PS3.7 annex C.
    fn of(status: u16) -> Self {
        match status {
            0x0000 | 0x0001 | 0x0107 | 0x0116 | 0xb000..=0xbfff => Self::Taken,
            0x0110 | 0x0213 | 0xa700..=0xa7ff => Self::Later,
            _ => Self::Refused,
        }
    }
}

/// An association with the PACS.
pub(super) struct Line {
    association: ClientAssociation<TcpStream>,
    context: u8,
    implicit: bool,
}

impl Line {
    /// To send segmentations.
    pub(super) fn open(to: &SendTo) -> Result<Self, SendError> {
        Self::open_for(to, seg::SOP_CLASS_UID)
    }

    fn open_for(to: &SendTo, abstract_syntax: &str) -> Result<Self, SendError> {
        let patience = Duration::from_secs(to.timeout_s);
        let syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN].map(str::to_owned);
        let association = ClientAssociationOptions::new()
            .calling_ae_title(to.calling_ae_title.clone())
            .called_ae_title(to.called_ae_title.clone())
            .with_presentation_context(abstract_syntax.to_owned(), syntaxes.into())
            .connection_timeout(patience)
            .read_timeout(patience)
            .write_timeout(patience)
            .establish((&*to.host, to.port))
            .map_err(|error| match error {
                dicom_ul::association::Error::NoAcceptedPresentationContexts { .. } => {
                    SendError::NotTaken
                }
                error => SendError::Association(chain(&error)),
            })?;
        let context = association.presentation_contexts().first();
        let context = context.ok_or(SendError::NotTaken)?;
        Ok(Self {
            context: context.id,
            implicit: context.transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN,
            association,
        })
    }

    pub(super) fn close(self) {
        // It has what it was sent.
        let _ = self.association.release();
    }

    /// The status that answers the object.
    fn store(&mut self, object: &Object, message_id: u16) -> Result<u16, SendError> {
        let broken = |error: &dyn std::error::Error| SendError::Broken(error.to_string());
        let request = command::store(message_id, seg::SOP_CLASS_UID, &object.sop_instance_uid);
        self.ask(request)?;
        let data_set = object.data_set(self.implicit)?;
        let mut writer = self.association.send_pdata(self.context);
        let written = writer.write_all(&data_set).and_then(|()| writer.finish());
        written.map_err(|error| broken(&error))?;
        self.answer(C_STORE)
    }

    fn ask(&mut self, command: Vec<u8>) -> Result<(), SendError> {
        let value = PDataValue {
            presentation_context_id: self.context,
            value_type: PDataValueType::Command,
            is_last: true,
            data: command,
        };
        let pdu = Pdu::PData { data: vec![value] };
        self.association
            .send(&pdu)
            .map_err(|error| SendError::Broken(error.to_string()))
    }

    /// The status that answers a command.
    fn answer(&mut self, field: u16) -> Result<u16, SendError> {
        /// A command set has a dozen short elements.
        const COMMAND_MAX_BYTES: usize = 16 * 1024;
        let mut bytes = Vec::new();
        loop {
            let pdu = self.association.receive();
            let Pdu::PData { data } = pdu.map_err(|error| SendError::Broken(chain(&error)))? else {
                return Err(SendError::Answer);
            };
            for value in data {
                bytes.extend(value.data);
                if bytes.len() > COMMAND_MAX_BYTES {
                    return Err(SendError::Answer);
                }
                if value.is_last {
                    let answer = command::parse(&bytes).ok_or(SendError::Answer)?;
                    let status = answer
                        .status
                        .filter(|_| answer.field == field | IS_RESPONSE);
                    return status.ok_or(SendError::Answer);
                }
            }
        }
    }
}

/// C-ECHO; gives the time to its answer.
pub(super) fn echo(to: &SendTo) -> Result<Duration, SendError> {
    let mut line = Line::open_for(to, VERIFICATION)?;
    let start = Instant::now();
    line.ask(command::echo(1))?;
    let status = line.answer(C_ECHO)?;
    line.close();
    if status == 0 {
        Ok(start.elapsed())
    } else {
        Err(SendError::Answer)
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
pub(super) fn start(to: &SendTo, shelf: &Shelf) -> std::io::Result<SyncSender<()>> {
    let (mail, news) = sync_channel(1);
    let Some(outgoing) = shelf.outgoing().cloned() else {
        return Ok(mail);
    };
    let sender = Sender {
        to: to.clone(),
        outgoing,
        attempts: HashMap::new(),
        said: None,
    };
    thread::Builder::new()
        .name("seg-sender".to_owned())
        .spawn(move || sender.run(&news))?;
    Ok(mail)
}

struct Sender {
    to: SendTo,
    outgoing: Outgoing,
    /// Answers that asked for another try.
    attempts: HashMap<PathBuf, u32>,
    /// A trouble that was said already.
    said: Option<String>,
}

impl Sender {
    fn run(mut self, news: &Receiver<()>) {
        let mut backoff = Backoff::new(self.to.retry_min_ms, self.to.retry_max_ms);
        loop {
            let all = self.send_all().unwrap_or_else(|error| {
                self.say(&error);
                false
            });
            let wait = if all {
                backoff.reset();
                LOOK
            } else {
                backoff.wait()
            };
            // News do not shorten the wait for a PACS in trouble.
            let until = Instant::now() + wait;
            loop {
                match news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(()) if all => break,
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
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
        let mut line = Line::open(&self.to)?;
        if self.said.take().is_some() {
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
            let status = line.store(&object, message_id)?;
            all &= self.settle(path, status)?;
        }
        line.close();
        Ok(all)
    }

    /// False when the object waits for another time.
    fn settle(&mut self, path: &Path, status: u16) -> Result<bool, ShelfError> {
        let called = &self.to.called_ae_title;
        let words = format!("{status:04X}H");
        let attempts = self.attempts.entry(path.to_owned()).or_default();
        *attempts += 1;
        match Verdict::of(status) {
            Verdict::Taken => {
                tracing::info!(called, status = words, "segmentation stored");
                self.outgoing.sent(path)?;
            }
            Verdict::Later if *attempts < self.to.attempts_max => {
                tracing::warn!(
                    called,
                    status = words,
                    "segmentation not stored, it is sent again"
                );
                return Ok(false);
            }
            Verdict::Later | Verdict::Refused => {
                tracing::error!(
                    called,
                    status = words,
                    attempts,
                    "segmentation refused; it lies in segmentations/refused, and is sent again when it \
                     is moved one folder up"
                );
                self.outgoing.refuse(path)?;
            }
        }
        Ok(true)
    }

    /// Once for each trouble.
    fn say(&mut self, error: &SendError) {
        let words = error.to_string();
        if self.said.as_deref() != Some(&*words) {
            let called = &self.to.called_ae_title;
            tracing::warn!(
                called,
                why = words,
                "segmentations cannot be sent, they are kept"
            );
            self.said = Some(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_the_standard_says() {
        for (status, verdict) in [
            (0x0000, Verdict::Taken),
            (0xb000, Verdict::Taken),
            (0xb007, Verdict::Taken),
            (0xa700, Verdict::Later),
            (0x0110, Verdict::Later),
            (0xa900, Verdict::Refused),
            (0xc000, Verdict::Refused),
            (0x0122, Verdict::Refused),
        ] {
            assert_eq!(Verdict::of(status), verdict, "{status:04X}");
        }
    }
}
