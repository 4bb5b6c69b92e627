//! Where images come from. Each source accepts durably and hands tickets to the inference thread.

pub mod folder;
pub mod dicom;
pub mod http;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::disk;
use crate::outbox::job::Ticket;
use crate::outbox::{Arrival, Outbox, OutboxError};
use crate::spool::Shelves;
use crate::status::Status;
use crate::tls::credentials::Credentials;

/// How often a port looks again at a low disk.
pub(crate) const DISK_CHECK: Duration = Duration::from_secs(1);

/// Releases that are not looked at yet; one more is forgotten, and quiet time ends its series.
const RELEASES_MAX: usize = 256;

/// What every source needs to accept an image.
#[derive(Debug, Clone)]
pub struct Door {
    pub outbox: Arc<Outbox>,
    pub shelves: Shelves,
    pub status: Arc<Status>,
    pub credentials: watch::Receiver<Credentials>,
    pub min_free_bytes: u64,
    /// Who wants to know what an association delivered.
    pub releases: Option<Releases>,
}

impl Door {
    /// Commits rows for what lies on the shelf of `source`.
    pub(crate) fn accept(
        &self,
        source: &str,
        arrivals: &[Arrival],
    ) -> Result<Vec<Ticket>, OutboxError> {
        let tickets = self.outbox.accept(arrivals)?;
        for (ticket, arrival) in tickets.iter().zip(arrivals) {
            if let Some(sender) = &arrival.sender {
                tracing::info!(ticket, source, %sender, "image accepted");
            }
        }
        let count = tickets.len() as u64;
        self.status.metrics.accepted(source, count);
        Ok(tickets)
    }
}

/// Tells that an association was released, with the tickets of what it delivered.
#[derive(Debug, Clone)]
pub struct Releases(mpsc::Sender<Vec<Ticket>>);

impl Releases {
    pub fn new() -> (Self, mpsc::Receiver<Vec<Ticket>>) {
        let (sender, receiver) = mpsc::channel(RELEASES_MAX);
        (Self(sender), receiver)
    }

    pub(crate) fn tell(&self, tickets: Vec<Ticket>) {
        // Full or closed: quiet time ends the series.
        let _ = self.0.try_send(tickets);
    }
}

/// What one port knows of the disk.
#[derive(Debug, Default)]
pub(crate) struct Watermark(AtomicBool);

impl Watermark {
    /// Looks whether the disk is below `min_free_bytes`, which `state` then says.
    pub(crate) fn is_low(&self, door: &Door) -> bool {
        let low = disk::below(&door.shelves.accepted, door.min_free_bytes);
        // The state is shared: a source without trouble does not clear it for one that has some.
        if self.0.swap(low, Ordering::Relaxed) || low {
            door.status.set_disk_low(low);
        }
        low
    }

    /// Whether it was when last looked at.
    pub(crate) fn was_low(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
