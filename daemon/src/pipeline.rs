//! The chain on one screen:
//!
//! source task -> bounded channel of tickets -> thread `inference` (decode .. encode as plain
//! functions) -> outbox append (flushed) -> wake -> mqtt task -> outbox acknowledge
//!
//! Stopping goes the same way: sources, the image in hand, the window in flight.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use segmenter::decode::Limits;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::accept::{self, AcceptError, Shelves};
use crate::config::{self, Config};
use crate::control::{self, Control, ControlError};
use crate::credentials::{CredentialError, Credentials};
use crate::encode::{Origin, Speaker};
use crate::failure::Failure;
use crate::http::{self, HttpError};
use crate::job::{Input, Job, Ticket, boot_id, job_id, sha256};
use crate::models::{Glimpse, Models, ModelsError, Shadow};
use crate::mqtt;
use crate::outbox::{Lease, Outbox};
use crate::privacy::{Privacy, PrivacyError};
use crate::quarantine::{self, Ending};
use crate::reload;
use crate::route::{Router, Target};
use crate::seg::{self, SeriesError};
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
    Http(#[from] HttpError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error(transparent)]
    Models(#[from] ModelsError),
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    #[error(transparent)]
    Mqtt(#[from] mqtt::MqttError),
    #[error(transparent)]
    Series(#[from] SeriesError),
    #[error("cannot start the inference thread: {0}")]
    Thread(std::io::Error),
    #[error("a task of the daemon ended by a panic; see the log above")]
    Panicked,
}

/// Everything the inference thread owns.
struct Worker {
    outbox: Arc<Outbox>,
    shelves: Shelves,
    models: Arc<Models>,
    router: Router,
    shadow: Option<Shadow>,
    limits: Limits,
    speaker: Speaker,
    status: Arc<Status>,
    attempts_max: u32,
    fresh: Arc<Notify>,
    /// For segmentations of series.
    keeps_slices: bool,
}

/// Runs until `shutdown`, or until the box cannot keep its promise any more. `started`: when the
/// start began, for the log.
pub async fn run(
    config: Config,
    models: Models,
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
    let http = http::Port::open(&config)?;
    let (renewed, credentials) = watch::channel(Credentials::load(&config)?);
    let shelves = Shelves::create(&config.state.directory, config.state.keep_inputs_days)
        .map_err(AcceptError::from)?;
    let waiting = accept::recover(&outbox, &shelves)?;
    models.settle()?;
    let models = Arc::new(models);
    let status = Arc::new(Status::default());
    // A counter that is not there yet looks like one that is missing.
    let sources = config.sources();
    sources.for_each(|source| status.metrics.accepted(source, 0));
    let shadow = start_shadow(&config, &models, &status)?;
    let fresh = Arc::new(Notify::new());
    let speaker = Speaker {
        node: config.node.clone(),
        boot: boot_id(),
        inline_max_bytes: config.mqtt.inline_max_bytes,
        privacy: Privacy::open(config.privacy.identifiers, &config.state.directory)?,
    };
    let boot = speaker.boot;
    let backlog = waiting.len();

    let (stop_sources, sources_stopped) = watch::channel(false);
    let (stop_mqtt, mqtt_stopped) = watch::channel(false);
    let (tickets, queue) = mpsc::channel(config.pipeline.queue_max_jobs);
    let (releases, released) = seg::Releases::new();
    let keeper = seg::Keeper::open(&config, &outbox, &speaker, &fresh)?;
    let mut inference = start_inference(
        Worker {
            outbox: Arc::clone(&outbox),
            shelves: shelves.clone(),
            models: Arc::clone(&models),
            router: Router::new(&config),
            shadow,
            limits: Limits::from(&config.decode),
            speaker: speaker.clone(),
            status: Arc::clone(&status),
            attempts_max: config.pipeline.attempts_max,
            fresh: Arc::clone(&fresh),
            keeps_slices: keeper.is_some(),
        },
        queue,
        sources_stopped.clone(),
    )?;
    let (retried, controls_stopped) = (tickets.clone(), sources_stopped.clone());
    let door = Door {
        outbox: Arc::clone(&outbox),
        shelves: shelves.clone(),
        status: Arc::clone(&status),
        credentials: credentials.clone(),
        min_free_bytes: config.state.min_free_bytes,
        releases: keeper.is_some().then_some(releases),
    };
    let waker = Arc::clone(&fresh);
    let requests = mqtt::Requests::new(&config, door.clone(), tickets.clone(), waker);
    let sources = Sources {
        folders: config.folder.clone(),
        ports,
        http,
        requests,
        waiting,
        door,
    };
    let keeping = seg::run(keeper, released, sources_stopped.clone());
    let mut keeping = tokio::spawn(keeping);
    let mut sources = tokio::spawn(sources.run(tickets, sources_stopped));
    let desk = Control {
        outbox: Arc::clone(&outbox),
        shelves: shelves.clone(),
        limits: config.quarantine.clone(),
        history_max_jobs: config.state.history_max_jobs,
        models: Arc::clone(&models),
        keep_days: config.results.keep_days,
        fresh: Arc::clone(&fresh),
    };
    let listener = control::listen(&config.state.directory);
    let mut desk = tokio::spawn(control::run(desk, listener, retried, controls_stopped));
    let letterbox = (outbox, shelves);
    let publisher = mqtt::Publisher::new(
        &config,
        speaker,
        letterbox,
        models,
        Arc::clone(&status),
        credentials,
    );
    let mut publishing = tokio::spawn(publisher.run(fresh, mqtt_stopped, grace));

    let startup_ms = started.elapsed().as_millis() as u64;
    tracing::info!(%boot, waiting = backlog, startup_ms, "ready");
    systemd::ready();
    let image_timeout = Duration::from_secs(config.pipeline.image_timeout_s);
    tokio::spawn(systemd::keep_watch(Arc::clone(&status), image_timeout));
    tokio::spawn(reload::run(config, renewed));
    let early = tokio::select! {
        () = shutdown => None,
        ended = &mut sources => Some(flatten(ended)),
        ended = &mut desk => Some(flatten(ended)),
        ended = &mut keeping => Some(flatten(ended)),
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
    flatten(keeping.await)?;
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
    http: Option<http::Port>,
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
        if let Some(port) = self.http {
            let run = http::run(port, self.door.clone(), tickets.clone(), stop.clone());
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

fn start_shadow(
    config: &Config,
    models: &Arc<Models>,
    status: &Arc<Status>,
) -> Result<Option<Shadow>, PipelineError> {
    if config.models.shadow == config::Shadow::Off {
        return Ok(None);
    }
    let queue = config.models.shadow_queue_max_images;
    Shadow::start(Arc::clone(models), Arc::clone(status), queue)
        .map(Some)
        .map_err(PipelineError::Thread)
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
        let slot = match self.route(&job.source, &bytes) {
            Ok(slot) => slot,
            Err(failure) => return self.quarantine(ticket, None, &failure),
        };
        let serving = self.models.serving(slot);
        let mut found = match segment(&serving.segmenter, &self.limits, &bytes) {
            Ok(found) => found,
            Err(failure) => {
                let id = job_id(&sha256(&bytes), &serving.model.digest);
                return self.quarantine(ticket, Some(id), &failure);
            }
        };
        let slice = self.keeps_slices.then(|| {
            let by = (&serving.model, serving.segmenter.manifest());
            seg::Slice::note(&bytes, &found, &job.source, by, &self.limits)
        });
        let glimpse = self.models.compares(slot).then(|| Glimpse {
            slot,
            digest: serving.model.digest.clone(),
            frames: std::mem::take(&mut found.frames),
            labels: std::mem::take(&mut found.labels),
        });
        let origin = Origin {
            source: job.source.clone(),
            received_at: job.received_at.clone(),
            wait_ms: wait.as_millis() as f64,
        };
        let mut report = self.speaker.report(found, &origin, &serving.model);
        let (id, timing) = (report.job_id, report.timing_ms);
        self.status.metrics.inferred(timing.infer / 1000.0);
        let input = Input {
            bytes: bytes.len() as u64,
            sha256: report.image.sha256.clone(),
        };
        self.outbox
            .append_with(ticket, &input, slice.flatten().as_ref(), |seq| {
                report.seq = seq;
                self.speaker.messages(report)
            })
            .map_err(AcceptError::from)?;
        self.fresh.notify_one();
        if let (Some(shadow), Some(glimpse)) = (&self.shadow, glimpse) {
            shadow.show(glimpse);
        }
        tracing::info!(
            ticket, job_id = %id, decode_ms = timing.decode, preprocess_ms = timing.preprocess,
            infer_ms = timing.infer, postprocess_ms = timing.postprocess,
            encode_ms = timing.encode, "image segmented"
        );
        Ok(())
    }

    /// Number of the slot that the image is for.
    fn route(&self, source: &str, bytes: &[u8]) -> Result<usize, Failure> {
        let choice = self.router.choose(bytes, source, &self.limits)?;
        match (choice.target, choice.rule) {
            (Target::Slot(slot), _) => Ok(slot),
            (Target::Nowhere(reason), rule) => Err(Failure::NotRouted {
                rule: rule.unwrap_or_default(),
                reason,
            }),
        }
    }

    fn quarantine(
        &self,
        ticket: Ticket,
        job_id: Option<Uuid>,
        failure: &Failure,
    ) -> Result<(), PipelineError> {
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
