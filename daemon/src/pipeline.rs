//! The chain on one screen:
//!
//! source task -> bounded channel of tickets -> thread `inference` (decode .. encode as plain
//! functions) -> outbox append (flushed) -> wake -> mqtt task -> outbox acknowledge
//!
//! Stopping goes the same way: sources, the image in hand, the window in flight.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use segmenter::Segmenter;
use segmenter::decode::Limits;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::accept::{self, AcceptError, Shelves};
use crate::config::{self, Config};
use crate::control::{self, Control, ControlError};
use crate::encode::{Origin, Speaker};
use crate::failure::Failure;
use crate::job::{Input, Job, Ticket, boot_id, job_id, sha256};
use crate::mqtt;
use crate::outbox::{Lease, Outbox};
use crate::privacy::{Privacy, PrivacyError};
use crate::quarantine::{self, Ending};
use crate::segment::segment;
use crate::shutdown::stopped;
use crate::source::Door;
use crate::source::dicom::{self, DicomError, Port};
use crate::source::folder::{self, FolderError};
use crate::status::Status;
use crate::systemd;

#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Dicom(#[from] DicomError),
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    #[error(transparent)]
    Mqtt(#[from] mqtt::MqttError),
    #[error("cannot start the inference thread: {0}")]
    Thread(std::io::Error),
    #[error("a task of the daemon ended by a panic; see the log above")]
    Panicked,
}

/// Everything the inference thread owns.
struct Worker {
    outbox: Arc<Outbox>,
    shelves: Shelves,
    segmenter: Segmenter,
    limits: Limits,
    speaker: Speaker,
    status: Arc<Status>,
    attempts_max: u32,
    fresh: Arc<Notify>,
}

/// Runs until `shutdown`, or until the box cannot keep its promise any more. `started`: when the
/// start began, for the log.
pub async fn run(
    config: Config,
    segmenter: Segmenter,
    started: Instant,
    shutdown: impl Future<Output = ()>,
) -> Result<(), PipelineError> {
    let opened = control::open(&config.state.directory).await;
    let outbox = opened.map_err(AcceptError::from)?;
    let outbox = Arc::new(outbox.keeping(config.results.clone()));
    // After the outbox, whose lock says best that another scansided runs.
    let grace = Duration::from_millis(config.pipeline.shutdown_grace_ms);
    let ports = config.dicom.iter().map(|dicom| Port::open(dicom, grace));
    let ports = ports.collect::<Result<Vec<Port>, DicomError>>()?;
    let shelves = Shelves::create(&config.state.directory, config.state.keep_inputs_days)
        .map_err(AcceptError::from)?;
    let waiting = accept::recover(&outbox, &shelves)?;
    let status = Arc::new(Status::default());
    let fresh = Arc::new(Notify::new());
    let speaker = Speaker {
        node: config.node.clone(),
        boot: boot_id(),
        model: segmenter.manifest().into(),
        inline_max_bytes: config.mqtt.inline_max_bytes,
        privacy: Privacy::open(config.privacy.identifiers, &config.state.directory)?,
    };
    let (boot, model) = (speaker.boot, speaker.model.name.clone());
    let backlog = waiting.len();

    let (stop_sources, sources_stopped) = watch::channel(false);
    let (stop_mqtt, mqtt_stopped) = watch::channel(false);
    let (tickets, queue) = mpsc::channel(config.pipeline.queue_max_jobs);
    let mut inference = start_inference(
        Worker {
            outbox: Arc::clone(&outbox),
            shelves: shelves.clone(),
            segmenter,
            limits: Limits::from(&config.decode),
            speaker: speaker.clone(),
            status: Arc::clone(&status),
            attempts_max: config.pipeline.attempts_max,
            fresh: Arc::clone(&fresh),
        },
        queue,
        sources_stopped.clone(),
    )?;
    let (retried, controls_stopped) = (tickets.clone(), sources_stopped.clone());
    let door = Door {
        outbox: Arc::clone(&outbox),
        shelves: shelves.clone(),
        status: Arc::clone(&status),
        min_free_bytes: config.state.min_free_bytes,
    };
    let (digest, waker) = (speaker.model.digest.clone(), Arc::clone(&fresh));
    let requests = mqtt::Requests::new(&config, door.clone(), tickets.clone(), digest, waker);
    let sources = Sources {
        folders: config.folder.clone(),
        ports,
        requests,
        waiting,
        door,
    };
    let mut sources = tokio::spawn(sources.run(tickets, sources_stopped));
    let desk = Control {
        outbox: Arc::clone(&outbox),
        shelves: shelves.clone(),
        limits: config.quarantine.clone(),
        history_max_jobs: config.state.history_max_jobs,
        keep_days: config.results.keep_days,
        fresh: Arc::clone(&fresh),
    };
    let listener = control::listen(&config.state.directory);
    let mut desk = tokio::spawn(control::run(desk, listener, retried, controls_stopped));
    let publisher = mqtt::Publisher::new(&config, speaker, outbox, shelves, Arc::clone(&status));
    let mut publishing = tokio::spawn(publisher.run(fresh, mqtt_stopped, grace));

    let startup_ms = started.elapsed().as_millis() as u64;
    tracing::info!(%boot, model, waiting = backlog, startup_ms, "ready");
    systemd::ready();
    let image_timeout = Duration::from_secs(config.pipeline.image_timeout_s);
    tokio::spawn(systemd::keep_watch(Arc::clone(&status), image_timeout));
    let early = tokio::select! {
        () = shutdown => None,
        ended = &mut sources => Some(flatten(ended)),
        ended = &mut desk => Some(flatten(ended)),
        ended = &mut inference => Some(ended.unwrap_or(Err(PipelineError::Panicked))),
        ended = &mut publishing => Some(flatten(ended)),
    };
    tracing::info!("stopping");
    systemd::stopping();
    status.set_draining();
    // A send fails only when every receiver is gone, and then there is nothing left to stop.
    let _ = stop_sources.send(true);
    if let Some(result) = early {
        result?;
        return Err(PipelineError::Panicked);
    }
    flatten(sources.await)?;
    flatten(desk.await)?;
    inference.await.unwrap_or(Err(PipelineError::Panicked))?;
    let _ = stop_mqtt.send(true);
    flatten(publishing.await)
}

fn flatten<E: Into<PipelineError>>(
    ended: Result<Result<(), E>, tokio::task::JoinError>,
) -> Result<(), PipelineError> {
    ended
        .map_err(|_| PipelineError::Panicked)?
        .map_err(Into::into)
}

/// Where images come from.
struct Sources {
    folders: Vec<config::Folder>,
    ports: Vec<Port>,
    requests: mqtt::Requests,
    /// What an earlier run left.
    waiting: Vec<Ticket>,
    door: Door,
}

impl Sources {
    /// Ports answer at once; folders wait until the inference thread has what was left.
    async fn run(
        self,
        tickets: mpsc::Sender<Ticket>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), PipelineError> {
        let mut tasks = JoinSet::new();
        for port in self.ports {
            let run = dicom::run(port, self.door.clone(), tickets.clone(), stop.clone());
            tasks.spawn(async { Ok(run.await?) });
        }
        let requests = self.requests.run(stop.clone());
        tasks.spawn(async { Ok(requests.await?) });
        let folders = run_folders(self.folders, self.door, self.waiting, (tickets, stop));
        tasks.spawn(async { Ok(folders.await?) });
        while let Some(ended) = tasks.join_next().await {
            flatten::<PipelineError>(ended)?;
        }
        Ok(())
    }
}

/// Hands over what an earlier run left, then watches every folder.
async fn run_folders(
    folders: Vec<config::Folder>,
    door: Door,
    waiting: Vec<Ticket>,
    (tickets, mut stop): (mpsc::Sender<Ticket>, watch::Receiver<bool>),
) -> Result<(), FolderError> {
    for ticket in waiting {
        tokio::select! {
            sent = tickets.send(ticket) => if sent.is_err() { return Ok(()) },
            () = stopped(&mut stop) => return Ok(()),
        }
    }
    let mut tasks = JoinSet::new();
    for folder in folders {
        tasks.spawn(folder::run(
            folder,
            door.clone(),
            tickets.clone(),
            stop.clone(),
        ));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

type Ended = oneshot::Receiver<Result<(), PipelineError>>;

fn start_inference(
    worker: Worker,
    mut queue: mpsc::Receiver<Ticket>,
    stop: watch::Receiver<bool>,
) -> Result<Ended, PipelineError> {
    let (done, ended) = oneshot::channel();
    let run = move || {
        let mut result = Ok(());
        while let Some(ticket) = queue.blocking_recv() {
            // What is still queued is in the outbox and comes back at the next start.
            if *stop.borrow() {
                break;
            }
            result = worker.work(ticket);
            if result.is_err() {
                break;
            }
        }
        // Who hears that the daemon ended may open its outbox at once.
        drop(worker);
        // The receiver is gone only when the daemon has ended already.
        let _ = done.send(result);
    };
    thread::Builder::new()
        .name("inference".to_owned())
        .spawn(run)
        .map_err(PipelineError::Thread)?;
    Ok(ended)
}

impl Worker {
    fn work(&self, ticket: Ticket) -> Result<(), PipelineError> {
        let boot = self.speaker.boot;
        let lease = self
            .outbox
            .lease(ticket, boot, self.attempts_max)
            .map_err(AcceptError::from)?;
        match lease {
            None => Ok(()),
            Some(Lease::CrashLoop { attempts }) => {
                self.quarantine(ticket, None, &Failure::CrashLoop { attempts })
            }
            Some(Lease::Work(job)) => {
                self.status.image_taken();
                let done = self.infer(ticket, &job);
                self.status.image_done();
                done
            }
        }
    }

    fn infer(&self, ticket: Ticket, job: &Job) -> Result<(), PipelineError> {
        let wait = accept::waited(&job.file);
        let bytes = match std::fs::read(self.shelves.input(job)) {
            Ok(bytes) => bytes,
            Err(error) => return self.quarantine(ticket, None, &Failure::Input(error)),
        };
        let found = match segment(&self.segmenter, &self.limits, &bytes) {
            Ok(found) => found,
            Err(failure) => return self.quarantine(ticket, Some(&bytes), &failure),
        };
        let origin = Origin {
            source: job.source.clone(),
            received_at: job.received_at.clone(),
            wait_ms: wait.as_millis() as f64,
        };
        let mut report = self.speaker.report(found, &origin);
        let (id, timing) = (report.job_id, report.timing_ms);
        let input = Input {
            bytes: bytes.len() as u64,
            sha256: report.image.sha256.clone(),
        };
        self.outbox
            .append(ticket, &input, |seq| {
                report.seq = seq;
                self.speaker.messages(report)
            })
            .map_err(AcceptError::from)?;
        self.fresh.notify_one();
        tracing::info!(
            ticket, job_id = %id, decode_ms = timing.decode, preprocess_ms = timing.preprocess,
            infer_ms = timing.infer, postprocess_ms = timing.postprocess,
            encode_ms = timing.encode, "image segmented"
        );
        Ok(())
    }

    fn quarantine(
        &self,
        ticket: Ticket,
        bytes: Option<&[u8]>,
        failure: &Failure,
    ) -> Result<(), PipelineError> {
        let job_id = bytes.map(|bytes| job_id(&sha256(bytes), &self.speaker.model.digest));
        let (outbox, speaker) = (&*self.outbox, &self.speaker);
        quarantine::end(
            &self.shelves,
            &Ending {
                outbox,
                speaker,
                ticket,
                job_id,
                failure,
            },
        )?;
        self.status.count_quarantined();
        self.fresh.notify_one();
        Ok(())
    }
}
