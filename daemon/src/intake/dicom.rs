//! A C-STORE SCP: senders deliver objects over the network, success is answered once an object is as
//! safe as a file of an inbox that was accepted.
//!
//! One thread an association, and one more for each peer that is told that there is no place. A PDU is
//! read whole, a message is put together from its PDUs, a data set goes to the disk as it comes.

mod association;
mod transport;
mod negotiate;
mod object;
mod pdu;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{DISK_CHECK, Intake, Watermark, bind};
use crate::config;
use crate::shutdown::stopped;
use crate::spool::AcceptError;

/// Of this program, under 2.25 (PS3.5 section B.2).
const IMPLEMENTATION_CLASS_UID: &str = "2.25.215746926667536823501438092283718247188";
const IMPLEMENTATION_VERSION: &str = concat!("SCANSIDE_", env!("CARGO_PKG_VERSION"));
/// After a connection could not be taken, for want of files or memory.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum DicomError {
    #[error("dicom `{name}`: {problem}")]
    Listen { name: String, problem: String },
    #[error("dicom: cannot wait for connections: {0}")]
    Wait(io::Error),
    #[error(transparent)]
    Accept(#[from] AcceptError),
}

/// PDUs as an association meets them, of any bytes: for `tests/fuzz`.
#[cfg(fuzzing)]
pub fn read_anything(mut bytes: &[u8]) {
    use crate::dimse;
    use dicom_ul::pdu::{MAXIMUM_PDU_SIZE, PDataValueType, Pdu};
    let config: config::Dicom = toml::from_str("name = \"fuzz\"").expect("the rest has defaults");
    while let Ok(Some(pdu)) = dicom_ul::read_pdu(&mut bytes, MAXIMUM_PDU_SIZE, false) {
        match pdu {
            Pdu::AssociationRQ(request) => {
                let answer = match negotiate::negotiate(&request, &config, false) {
                    Ok((accepted, _)) => Pdu::AssociationAC(accepted),
                    Err(refused) => Pdu::AssociationRJ(refused),
                };
                let _ = dicom_ul::write_pdu(&mut Vec::new(), &answer);
            }
            Pdu::PData { data } => {
                for value in data {
                    if value.value_type == PDataValueType::Command
                        && let Some(request) = dimse::parse(&value.data)
                    {
                        let _ = dimse::respond(&request, 0, "");
                    }
                    let _ = segmenter::decode::storage::instance(&value.data, "1.2.840.10008.1.2");
                }
            }
            _ => {}
        }
    }
}

/// Reasons for which the metrics count what was not taken.
pub(crate) fn refusal_reasons() -> impl Iterator<Item = &'static str> {
    let objects = object::Refusal::ALL;
    let peers = [association::REJECTED, association::NO_TLS];
    objects.into_iter().map(object::Refusal::code).chain(peers)
}

/// A port that is open; connections wait until [`run`] takes them.
#[derive(Debug)]
pub struct Port {
    config: config::Dicom,
    listener: TcpListener,
    /// Time for what is under way when the daemon stops.
    grace: Duration,
}

impl Port {
    pub fn open(config: &config::Dicom, grace: Duration) -> Result<Self, DicomError> {
        let listener = bind(config.listen(), "port").map_err(|problem| DicomError::Listen {
            name: config.name.clone(),
            problem,
        })?;
        Ok(Self {
            config: config.clone(),
            listener,
            grace,
        })
    }
}

/// What the threads share.
struct Scp {
    config: config::Dicom,
    intake: Intake,
    /// The first trouble of the state directory's disk.
    failed: mpsc::Sender<AcceptError>,
    stop: watch::Receiver<bool>,
    grace: Duration,
    watermark: Watermark,
}

/// Listens until `stop`, then waits for what is under way.
pub async fn run(
    port: Port,
    intake: Intake,
    mut stop: watch::Receiver<bool>,
) -> Result<(), DicomError> {
    let Port {
        config,
        listener,
        grace,
    } = port;
    listener.set_nonblocking(true).map_err(DicomError::Wait)?;
    let listener = net::TcpListener::from_std(listener).map_err(DicomError::Wait)?;
    let (name, ae_title, address) = (&config.name, &config.ae_title, config.listen());
    tracing::info!(source = name, ae_title, %address, "listening");
    let (failed, mut failures) = mpsc::channel(1);
    // Every thread holds one end; the other hears when the last is gone.
    let (alive, mut gone) = mpsc::channel::<()>(1);
    let mut admission = Admission::new(config.associations_max);
    let scp = Arc::new(Scp {
        config,
        intake,
        failed,
        stop: stop.clone(),
        grace,
        watermark: Watermark::default(),
    });
    loop {
        tokio::select! {
            connection = listener.accept() => match connection {
                Ok((stream, _)) => admission.admit(&scp, &alive, stream),
                Err(error) => {
                    tracing::warn!(source = scp.config.name, %error, "a connection cannot be taken");
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            },
            Some(error) = failures.recv() => return Err(error.into()),
            () = tokio::time::sleep(DISK_CHECK), if scp.watermark.was_low() => {
                scp.watermark.is_low(&scp.intake);
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    drop(alive);
    gone.recv().await;
    match failures.try_recv() {
        Ok(error) => Err(error.into()),
        Err(_) => Ok(()),
    }
}

/// Places for associations, and as many for peers that are told that there is none.
struct Admission {
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    count: u64,
}

impl Admission {
    fn new(associations_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(associations_max)),
            refusals: Arc::new(Semaphore::new(associations_max)),
            count: 0,
        }
    }

    /// Gives the connection a thread; without any place it is closed.
    fn admit(&mut self, scp: &Arc<Scp>, alive: &mpsc::Sender<()>, stream: net::TcpStream) {
        let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let (place, full): (OwnedSemaphorePermit, bool) = match place(&self.places) {
            Some(place) => (place, false),
            None => match place(&self.refusals) {
                Some(place) => (place, true),
                None => return,
            },
        };
        let (shared, alive) = (Arc::clone(scp), alive.clone());
        self.count += 1;
        let spawned = stream.into_std().and_then(|stream| {
            let serve = move || {
                association::serve(&shared, stream, full);
                // Everything that the thread holds goes before its sign of life.
                drop((shared, place));
                drop(alive);
            };
            let thread = thread::Builder::new().name(format!("dicom-{}", self.count));
            thread.spawn(serve)
        });
        if let Err(error) = spawned {
            tracing::warn!(source = scp.config.name, %error, "no thread for a connection");
        }
    }
}

#[cfg(test)]
mod tests;
