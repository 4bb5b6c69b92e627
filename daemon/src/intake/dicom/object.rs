//! One object from its request to its row: written as a DICOM file through the path that every input
//! takes, or refused with a status of PS3.4 annex B. Only [`Object::finish`] gives success.

use segmenter::decode::storage;

use super::negotiate::Context;
use super::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, Scp};
use crate::dimse::Request;
use crate::intake::{Busy, NotTaken};
use crate::outbox::job::{JobNumber, Sender};
use crate::spool::{AcceptError, Incoming};

/// SOP class and instance stand within the first bytes of every data set.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// After so many bytes of an object the disk is looked at again.
const DISK_CHECK_BYTES: u64 = 4 * 1024 * 1024;

pub(super) const SUCCESS: u16 = 0x0000;
pub(super) const UNRECOGNIZED_OPERATION: u16 = 0x0211;
const OUT_OF_RESOURCES: u16 = 0xa700;
const MISMATCH: u16 = 0xa900;
const CANNOT_UNDERSTAND: u16 = 0xc000;

/// Why an object was not taken. Nothing of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("disk below min_free_bytes")]
    DiskLow,
    #[error("queue is full, see queue_max_jobs")]
    QueueFull,
    #[error("object is above object_max_bytes")]
    TooLarge,
    #[error("request has no data set or no valid UIDs")]
    BadRequest,
    #[error("data set does not begin like one")]
    NoDataSet,
    #[error("data set is not of the SOP class and instance named")]
    Mismatch,
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::DiskLow => Self::DiskLow,
            // A queue that is closed has no place either; the sender tries again.
            Busy::QueueFull | Busy::Stopping => Self::QueueFull,
        }
    }
}

impl From<Refusal> for NotTaken<Refusal> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Refusal {
    pub(super) const ALL: [Self; 6] = [
        Self::DiskLow,
        Self::QueueFull,
        Self::TooLarge,
        Self::BadRequest,
        Self::NoDataSet,
        Self::Mismatch,
    ];

    /// For metrics.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::DiskLow => "disk_low",
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::BadRequest => "bad_request",
            Self::NoDataSet => "no_data_set",
            Self::Mismatch => "mismatch",
        }
    }

    pub(super) fn status(self) -> u16 {
        match self {
            Self::DiskLow | Self::QueueFull | Self::TooLarge => OUT_OF_RESOURCES,
            Self::BadRequest | Self::NoDataSet => CANNOT_UNDERSTAND,
            Self::Mismatch => MISMATCH,
        }
    }
}

/// An object on its way in.
pub(super) struct Object {
    sink: Result<Incoming, Refusal>,
    sop_class_uid: String,
    sop_instance_uid: String,
    transfer_syntax: String,
    /// The beginning of the data set.
    head: Vec<u8>,
    n_bytes: u64,
    checked_bytes: u64,
}

impl Object {
    pub(super) fn begin(
        scp: &Scp,
        request: &Request,
        context: &Context,
        sender: &Sender,
    ) -> Result<Self, AcceptError> {
        let mut object = Self {
            sink: Err(Refusal::BadRequest),
            sop_class_uid: request.sop_class_uid.clone(),
            sop_instance_uid: request.sop_instance_uid.clone(),
            transfer_syntax: context.transfer_syntax.clone(),
            head: Vec::new(),
            n_bytes: 0,
            checked_bytes: 0,
        };
        object.sink = match object.open(scp, context) {
            Ok(incoming) => Ok(incoming.sent_by(sender.clone())),
            Err(not_taken) => Err(not_taken.refusal()?),
        };
        let header = object.file_header(sender.ae_title.as_deref().unwrap_or_default());
        object.keep(&header)?;
        Ok(object)
    }

    /// What can be said before the data set comes.
    fn open(&self, scp: &Scp, context: &Context) -> Result<Incoming, NotTaken<Refusal>> {
        if !(is_uid(&self.sop_class_uid) && is_uid(&self.sop_instance_uid)) {
            return Err(Refusal::BadRequest.into());
        }
        if self.sop_class_uid != context.abstract_syntax {
            return Err(Refusal::Mismatch.into());
        }
        scp.watermark.admit(&scp.intake)?;
        let spool = &scp.intake.spool;
        Ok(spool.receive(&scp.config.name, "object.dcm")?)
    }

    /// More of the data set. What is refused already is read and dropped: the sender listens for the
    /// answer only after it has sent everything.
    pub(super) fn write(&mut self, scp: &Scp, bytes: &[u8]) -> Result<(), AcceptError> {
        self.n_bytes += bytes.len() as u64;
        if self.n_bytes > scp.config.object_max_bytes && self.sink.is_ok() {
            self.sink = Err(Refusal::TooLarge);
        }
        if self.n_bytes >= self.checked_bytes + DISK_CHECK_BYTES && self.sink.is_ok() {
            self.checked_bytes = self.n_bytes;
            if scp.watermark.is_low(&scp.intake) {
                self.sink = Err(Refusal::DiskLow);
            }
        }
        let missing = HEAD_MAX_BYTES - self.head.len();
        self.head.extend(&bytes[..missing.min(bytes.len())]);
        self.keep(bytes)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), AcceptError> {
        if let Ok(incoming) = &mut self.sink
            && let Err(error) = incoming.write(bytes)
        {
            self.sink = Err(NotTaken::from(error).refusal()?);
        }
        Ok(())
    }

    /// The data set is complete.
    pub(super) fn finish(self, scp: &Scp) -> Result<JobNumber, NotTaken<Refusal>> {
        self.compare()?;
        scp.intake.take(self.sink?)
    }

    /// The data set is what the request says it is.
    fn compare(&self) -> Result<(), Refusal> {
        // A refusal from before has the better words.
        self.sink.as_ref().map_err(|refusal| *refusal)?;
        let instance =
            storage::instance(&self.head, &self.transfer_syntax).map_err(|_| Refusal::NoDataSet)?;
        let same = instance.sop_class_uid.as_ref() == Some(&self.sop_class_uid)
            && instance.sop_instance_uid.as_ref() == Some(&self.sop_instance_uid);
        if same { Ok(()) } else { Err(Refusal::Mismatch) }
    }

    /// Preamble and file meta information (PS3.10 section 7.1).
    fn file_header(&self, calling: &str) -> Vec<u8> {
        let mut group = Vec::new();
        group.extend(b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01");
        let mut put = |element: u8, vr: &[u8; 2], value: &str, pad: u8| {
            let padding = value.len() % 2;
            group.extend([2, 0, element, 0]);
            group.extend(vr);
            group.extend(((value.len() + padding) as u16).to_le_bytes());
            group.extend(value.as_bytes());
            group.extend(std::iter::repeat_n(pad, padding));
        };
        put(0x02, b"UI", &self.sop_class_uid, 0);
        put(0x03, b"UI", &self.sop_instance_uid, 0);
        put(0x10, b"UI", &self.transfer_syntax, 0);
        put(0x12, b"UI", IMPLEMENTATION_CLASS_UID, 0);
        put(0x13, b"SH", IMPLEMENTATION_VERSION, b' ');
        put(0x16, b"AE", calling, b' ');
        let mut header = vec![0; 128];
        header.extend(b"DICM\x02\0\0\0UL\x04\0");
        header.extend((group.len() as u32).to_le_bytes());
        header.append(&mut group);
        header
    }
}

fn is_uid(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}
