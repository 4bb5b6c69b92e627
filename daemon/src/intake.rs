//! Where images come from. Each source accepts durably and hands job numbers to the inference thread, all of them through
//! [`Intake`].

pub mod folder;
pub mod dicom;
pub mod http;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::disk;
use crate::outbox::job::JobNumber;
use crate::outbox::{Arrival, Outbox, OutboxError};
use crate::spool::{AcceptError, Incoming, PartError, Spool};
use crate::status::Status;
use crate::tls::credentials::Credentials;

/// How often a port looks again at a low disk.
pub(crate) const DISK_CHECK: Duration = Duration::from_secs(1);

/// Releases that are not looked at yet; one more is forgotten, and quiet time ends its series.
const RELEASES_MAX: usize = 256;

/// The one way in: what every source needs to accept an image.
#[derive(Debug, Clone)]
pub struct Intake {
    pub outbox: Arc<Outbox>,
    pub spool: Spool,
    pub status: Arc<Status>,
    pub credentials: watch::Receiver<Credentials>,
    pub min_free_bytes: u64,
    /// The queue of the inference thread.
    pub job_numbers: mpsc::Sender<JobNumber>,
    /// Who wants to know what an association delivered.
    pub releases: Option<Releases>,
}

/// Why the box takes no image at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    DiskLow,
    QueueFull,
    /// The inference thread takes nothing more.
    Stopping,
}

/// Why an image was not taken. Nothing of it is kept.
#[derive(Debug)]
pub(crate) enum NotTaken<R> {
    /// Its sender is told why, in words of its protocol.
    Refused(R),
    /// The state directory does not work: the daemon ends.
    Failed(AcceptError),
}

impl<R> NotTaken<R> {
    pub(crate) fn refusal(self) -> Result<R, AcceptError> {
        match self {
            Self::Refused(refusal) => Ok(refusal),
            Self::Failed(error) => Err(error),
        }
    }
}

impl<R: From<Busy>> From<Busy> for NotTaken<R> {
    fn from(busy: Busy) -> Self {
        Self::Refused(busy.into())
    }
}

/// No room is the sender's to try again; any other trouble of the state directory is the daemon's.
impl<R: From<Busy>> From<PartError> for NotTaken<R> {
    fn from(error: PartError) -> Self {
        match error {
            PartError::NoRoom => Busy::DiskLow.into(),
            PartError::Spool(error) => Self::Failed(error.into()),
        }
    }
}

impl<R> From<OutboxError> for NotTaken<R> {
    fn from(error: OutboxError) -> Self {
        Self::Failed(error.into())
    }
}

impl Intake {
    /// Whether the disk is below `min_free_bytes`.
    pub(crate) fn is_disk_low(&self) -> bool {
        disk::below(&self.spool.accepted, self.min_free_bytes)
    }

    /// Whether the queue takes another image: asked before the image comes.
    pub(crate) fn queue_has_room(&self) -> Result<(), Busy> {
        if self.job_numbers.is_closed() {
            return Err(Busy::Stopping);
        }
        if self.job_numbers.capacity() == 0 {
            return Err(Busy::QueueFull);
        }
        Ok(())
    }

    /// A file is complete: reserves a place in the queue, gives the file its place, commits its row, and only then
    /// hands it on.
    pub(crate) fn take<R: From<Busy>>(&self, incoming: Incoming) -> Result<JobNumber, NotTaken<R>> {
        let place_in_queue = self
            .job_numbers
            .try_reserve()
            .map_err(|error| match error {
                TrySendError::Full(()) => Busy::QueueFull,
                TrySendError::Closed(()) => Busy::Stopping,
            })?;
        let arrival = incoming.place()?;
        let source = arrival.source.clone();
        let job_number = self.accept(&source, &[arrival])?[0];
        place_in_queue.send(job_number);
        Ok(job_number)
    }

    /// Commits rows for what lies in the spool's folder of `source`.
    pub(crate) fn accept(
        &self,
        source: &str,
        arrivals: &[Arrival],
    ) -> Result<Vec<JobNumber>, OutboxError> {
        let job_numbers = self.outbox.accept(arrivals)?;
        for (job_number, arrival) in job_numbers.iter().zip(arrivals) {
            if let Some(sender) = &arrival.sender {
                tracing::info!(job = job_number, source, %sender, "image accepted");
            }
        }
        let count = job_numbers.len() as u64;
        self.status.metrics.accepted(source, count);
        Ok(job_numbers)
    }

    /// With a state directory of its own and a queue of so many places.
    #[cfg(test)]
    pub(crate) fn of(
        state: &std::path::Path,
        queue_max: usize,
    ) -> (Self, mpsc::Receiver<JobNumber>) {
        let (job_numbers, queue) = mpsc::channel(queue_max);
        let intake = Self {
            outbox: Arc::new(Outbox::open(state).unwrap()),
            spool: Spool::create(state, 0).unwrap(),
            status: Arc::new(Status::default()),
            credentials: watch::channel(Credentials::default()).1,
            min_free_bytes: 0,
            job_numbers,
            releases: None,
        };
        (intake, queue)
    }
}

/// Tells that an association was released, with the job numbers of what it delivered.
#[derive(Debug, Clone)]
pub struct Releases(mpsc::Sender<Vec<JobNumber>>);

impl Releases {
    pub fn new() -> (Self, mpsc::Receiver<Vec<JobNumber>>) {
        let (sender, receiver) = mpsc::channel(RELEASES_MAX);
        (Self(sender), receiver)
    }

    pub(crate) fn tell(&self, job_numbers: Vec<JobNumber>) {
        // Full or closed: quiet time ends the series.
        let _ = self.0.try_send(job_numbers);
    }
}

/// What one source knows of the disk.
#[derive(Debug, Default)]
pub(crate) struct Watermark(AtomicBool);

impl Watermark {
    /// Looks whether the disk is below `min_free_bytes`, which `state` then says.
    pub(crate) fn is_low(&self, intake: &Intake) -> bool {
        let low = intake.is_disk_low();
        self.set(intake, low);
        low
    }

    /// The state is shared: a source without trouble does not clear it for one that has some.
    pub(crate) fn set(&self, intake: &Intake, low: bool) {
        if self.0.swap(low, Ordering::Relaxed) || low {
            intake.status.set_disk_low(low);
        }
    }

    /// Whether it was when last looked at.
    pub(crate) fn was_low(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether the box takes an image: asked before the image comes.
    pub(crate) fn admit(&self, intake: &Intake) -> Result<(), Busy> {
        if self.is_low(intake) {
            return Err(Busy::DiskLow);
        }
        intake.queue_has_room()
    }
}

/// Listens, or says in words why not. `key` names the port.
pub(crate) fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has it; choose another",
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address; use one of its own, or 0.0.0.0 for all, as"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; give it, or choose another"
            }
            _ => "check",
        };
        format!("cannot listen at {address}: {error}; {remedy} `{key}`")
    })
}
