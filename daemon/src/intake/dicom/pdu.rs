//! PDUs over one connection, whole or not at all (PS3.8 section 9.3).
//!
//! A PDU's length is held against its limit before anything is allocated, and all of it has to come
//! before one deadline, so that neither a huge nor a slow sender costs more than its place.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use dicom_ul::pdu::{AbortRQServiceProviderReason, AbortRQSource, MAXIMUM_PDU_SIZE, Pdu};
use dicom_ul::{read_pdu, write_pdu};
use tokio::sync::watch;

use super::transport::Transport;
use crate::tls;

/// How often a waiting thread looks whether the daemon stops.
const TICK: Duration = Duration::from_millis(100);
/// Answers are small and fit any socket's buffer; a peer that reads none of them is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// 128 presentation contexts with 40 transfer syntaxes each fit in.
const ASSOCIATE_MAX_BYTES: u32 = 256 * 1024;

pub(super) struct PduConnection {
    transport: Transport,
    buffer: Vec<u8>,
    pdu_max_bytes: u32,
    stop: watch::Receiver<bool>,
    /// What is under way may take this long once the daemon stops.
    grace: Duration,
    stopped_at: Option<Instant>,
}

/// Why an association ended without a release.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssociationError {
    #[error("the sender closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("no TLS with the sender: {}", tls::client_words(.0))]
    Tls(rustls::Error),
    #[error("the sender aborted")]
    Aborted,
    #[error("nothing complete came from the sender in time")]
    Idle,
    #[error("a PDU is longer than its limit")]
    TooLarge,
    #[error("the sender does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("scansided stops")]
    Stopping,
    #[error("the state directory does not work")]
    Box,
}

impl From<io::Error> for AssociationError {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|error| error.downcast_ref());
        match tls.cloned() {
            Some(error) => Self::Tls(error),
            None => Self::Broken(error),
        }
    }
}

impl AssociationError {
    /// What the sender is told; nothing where nobody listens any more.
    pub(super) fn abort(&self) -> Option<Pdu> {
        let reason = match self {
            Self::Closed | Self::Broken(_) | Self::Tls(_) | Self::Aborted => return None,
            Self::Protocol(_) => AbortRQServiceProviderReason::UnexpectedPdu,
            Self::TooLarge => AbortRQServiceProviderReason::InvalidPduParameter,
            Self::Idle | Self::Stopping | Self::Box => {
                AbortRQServiceProviderReason::ReasonNotSpecified
            }
        };
        let source = AbortRQSource::ServiceProvider(reason);
        Some(Pdu::AbortRQ { source })
    }
}

impl PduConnection {
    pub(super) fn new(
        transport: Transport,
        pdu_max_bytes: u32,
        stop: watch::Receiver<bool>,
        grace: Duration,
    ) -> io::Result<Self> {
        let stream = transport.stream();
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            transport,
            buffer: Vec::new(),
            pdu_max_bytes,
            stop,
            grace,
            stopped_at: None,
        })
    }

    pub(super) fn send(&mut self, pdu: &Pdu) -> Result<(), AssociationError> {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu)
            .map_err(|_| AssociationError::Protocol("its titles cannot be repeated"))?;
        Ok(self.transport.write_all(&bytes)?)
    }

    /// The next PDU, which has to be complete within `patience`. When the daemon stops, only what is
    /// `under_way` is waited for.
    pub(super) fn receive(
        &mut self,
        patience: Duration,
        under_way: bool,
    ) -> Result<Pdu, AssociationError> {
        let deadline = Instant::now() + patience;
        let mut header = [0; 6];
        self.fill(&mut header, deadline, under_way)?;
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let limit = match header[0] {
            0x01 => ASSOCIATE_MAX_BYTES,
            0x04 => self.pdu_max_bytes,
            // Release and abort.
            0x05..=0x07 => 4,
            _ => {
                return Err(AssociationError::Protocol(
                    "a PDU that only an acceptor sends, or none",
                ));
            }
        };
        if length > limit {
            return Err(AssociationError::TooLarge);
        }
        let mut pdu = std::mem::take(&mut self.buffer);
        pdu.clear();
        pdu.extend(header);
        pdu.resize(header.len() + length as usize, 0);
        self.fill(&mut pdu[header.len()..], deadline, under_way)?;
        let parsed = read_pdu(&pdu[..], MAXIMUM_PDU_SIZE, false);
        self.buffer = pdu;
        match parsed {
            Ok(Some(pdu)) => Ok(pdu),
            _ => Err(AssociationError::Protocol("a PDU that does not parse")),
        }
    }

    fn fill(
        &mut self,
        bytes: &mut [u8],
        deadline: Instant,
        under_way: bool,
    ) -> Result<(), AssociationError> {
        let mut n_bytes = 0;
        while n_bytes < bytes.len() {
            let now = Instant::now();
            if *self.stop.borrow() {
                let since = *self.stopped_at.get_or_insert(now);
                if !under_way || now.duration_since(since) >= self.grace {
                    return Err(AssociationError::Stopping);
                }
            }
            if now >= deadline {
                return Err(AssociationError::Idle);
            }
            match self.transport.read(&mut bytes[n_bytes..]) {
                Ok(0) => return Err(AssociationError::Closed),
                Ok(more) => n_bytes += more,
                Err(error) if may_try_again(&error) => {}
                // TCP ended without TLS's farewell.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(AssociationError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn may_try_again(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
