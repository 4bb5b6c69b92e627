//! The chain on one screen:
//!
//! source task -> bounded channel of tickets -> thread `inference` (decode .. encode as plain
//! functions) -> outbox append (flushed) -> wake -> mqtt task -> outbox acknowledge
//!
//! Stopping goes the same way: sources, the image in hand, the window in flight.

mod counters;
mod inference;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segmenter::decode::Limits;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::config::{self, Config};
use crate::disk::mounts::missing_above;
use crate::disk::rights;
use crate::intake::dicom::{self, DicomError, Port};
use crate::intake::folder::{self, FolderError};
use crate::intake::http::{self, HttpError};
use crate::intake::{Intake, Releases};
use crate::models::{Models, ModelsError, Shadow};
use crate::mqtt;
use crate::operate::control::{self, Control, ControlError};
use crate::operate::reload;
use crate::operate::systemd;
use crate::outbox::Outbox;
use crate::outbox::job::{Ticket, boot_id};
use crate::report::encode::{Encoder, Notice};
use crate::report::privacy::{Key, Privacy, PrivacyError};
use crate::seg::{self, SeriesError};
use crate::segment::decoder::Decoder;
use crate::segment::route::Router;
use crate::shutdown::stopped;
use crate::spool::recover::recover;
use crate::spool::{AcceptError, Shelves};
use crate::status::Status;
use crate::tls::credentials::{CredentialError, Credentials, warn_exposed};

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
    let (ports, http) = (open_ports(&config, grace)?, http::Port::open(&config)?);
    warn_exposed(&config);
    let (renewed, credentials) = watch::channel(Credentials::load(&config)?);
    credentials.borrow().expiries.warn();
    rights::tighten(&config.state.directory);
    let shelves = Shelves::create(&config.state.directory, config.state.keep_inputs_days)
        .map_err(AcceptError::from)?;
    let waiting = recover(&outbox, &shelves)?;
    models.settle()?;
    let models = Arc::new(models);
    let status = Arc::new(Status::default());
    status.set_model_fell_back(models.fell_back());
    counters::begin(&config, &status.metrics);
    let shadow = start_shadow(&config, &models, &status)?;
    let fresh = Arc::new(Notify::new());
    let encoder = encoder(&config)?;
    let key = Key::of(&config.state.directory)?;
    announce(&outbox, &encoder, &config.state.directory, &status)?;
    let boot = encoder.boot;
    let backlog = waiting.len();

    let (stop_sources, sources_stopped) = watch::channel(false);
    let (stop_mqtt, mqtt_stopped) = watch::channel(false);
    let (tickets, queue) = mpsc::channel(config.pipeline.queue_max_jobs);
    let (releases, released) = Releases::new();
    let series_task =
        seg::SeriesTask::open(&config, &outbox, &encoder, (&fresh, &credentials, &status))?;
    let inference = inference::start(inference::Worker {
        outbox: Arc::clone(&outbox),
        shelves: shelves.clone(),
        models: Arc::clone(&models),
        router: Router::new(&config),
        shadow,
        limits: Limits::from(&config.decode),
        decoder: Decoder::new(Limits::from(&config.decode)),
        encoder: encoder.clone(),
        key,
        status: Arc::clone(&status),
        attempts_max: config.pipeline.attempts_max,
        fresh: Arc::clone(&fresh),
        keeps_slices: series_task.is_some(),
        queue,
        stop: sources_stopped.clone(),
    })?;
    let (retried, controls_stopped) = (tickets.clone(), sources_stopped.clone());
    let intake = Intake {
        outbox: Arc::clone(&outbox),
        shelves: shelves.clone(),
        status: Arc::clone(&status),
        credentials: credentials.clone(),
        min_free_bytes: config.state.min_free_bytes,
        tickets,
        releases: series_task.is_some().then_some(releases),
    };
    let waker = Arc::clone(&fresh);
    let requests = mqtt::Requests::new(&config, intake.clone(), waker);
    let sources = Sources {
        folders: config.folder.clone(),
        ports,
        http,
        requests,
        waiting,
        intake,
    };
    let series = task(seg::run(series_task, released, sources_stopped.clone()));
    let sources = task(sources.run(sources_stopped));
    let desk = Control::new(&config, (&outbox, &shelves), (&models, &status), &fresh);
    let listener = control::listen(&config.state.directory);
    let desk = task(control::run(desk, listener, retried, controls_stopped));
    let letterbox = (outbox, shelves);
    let publisher = mqtt::Publisher::new(
        &config,
        encoder,
        letterbox,
        models,
        Arc::clone(&status),
        credentials,
    );
    let publishing = task(publisher.run(fresh, mqtt_stopped, grace));

    let startup_ms = started.elapsed().as_millis() as u64;
    tracing::info!(%boot, waiting = backlog, startup_ms, "ready");
    systemd::ready();
    let image_timeout = Duration::from_secs(config.pipeline.image_timeout_s);
    tokio::spawn(systemd::keep_watch(Arc::clone(&status), image_timeout));
    tokio::spawn(reload::run(config, renewed));
    let tasks = Tasks {
        sources,
        desk,
        series,
        inference,
        publishing,
    };
    tasks
        .run(shutdown, (stop_sources, stop_mqtt), &status)
        .await
}

type Task = JoinHandle<Result<(), PipelineError>>;

fn task<E: Into<PipelineError>>(run: impl Future<Output = Result<(), E>> + Send + 'static) -> Task {
    tokio::spawn(async { run.await.map_err(Into::into) })
}

/// What runs until the end.
struct Tasks {
    sources: Task,
    desk: Task,
    series: Task,
    inference: inference::Ended,
    publishing: Task,
}

impl Tasks {
    /// Until `shutdown`, or until one of them ends; then stops them in the order of the chain.
    async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        (stop_sources, stop_mqtt): (watch::Sender<bool>, watch::Sender<bool>),
        status: &Status,
    ) -> Result<(), PipelineError> {
        let early = tokio::select! {
            () = shutdown => None,
            ended = &mut self.sources => Some(flatten(ended)),
            ended = &mut self.desk => Some(flatten(ended)),
            ended = &mut self.series => Some(flatten(ended)),
            ended = &mut self.inference => Some(ended.unwrap_or(Err(PipelineError::Panicked))),
            ended = &mut self.publishing => Some(flatten(ended)),
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
        flatten(self.sources.await)?;
        flatten(self.desk.await)?;
        flatten(self.series.await)?;
        self.inference
            .await
            .unwrap_or(Err(PipelineError::Panicked))?;
        let _ = stop_mqtt.send(true);
        flatten(self.publishing.await)
    }
}

fn flatten(ended: Result<Result<(), PipelineError>, JoinError>) -> Result<(), PipelineError> {
    ended.unwrap_or(Err(PipelineError::Panicked))
}

/// Where images come from.
struct Sources {
    folders: Vec<config::Folder>,
    ports: Vec<Port>,
    http: Option<http::Port>,
    requests: mqtt::Requests,
    /// What an earlier run left.
    waiting: Vec<Ticket>,
    intake: Intake,
}

impl Sources {
    /// Ports answer at once; folders wait until the inference thread has what was left.
    async fn run(self, stop: watch::Receiver<bool>) -> Result<(), PipelineError> {
        let mut tasks = JoinSet::new();
        for port in self.ports {
            let run = dicom::run(port, self.intake.clone(), stop.clone());
            tasks.spawn(async { Ok(run.await?) });
        }
        if let Some(port) = self.http {
            let run = http::run(port, self.intake.clone(), stop.clone());
            tasks.spawn(async { Ok(run.await?) });
        }
        let requests = self.requests.run(stop.clone());
        tasks.spawn(async { Ok(requests.await?) });
        let folders = run_folders(self.folders, self.intake, self.waiting, stop);
        tasks.spawn(async { Ok(folders.await?) });
        while let Some(ended) = tasks.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }
}

/// Hands over what an earlier run left, then watches every folder.
async fn run_folders(
    folders: Vec<config::Folder>,
    intake: Intake,
    waiting: Vec<Ticket>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), FolderError> {
    for ticket in waiting {
        tokio::select! {
            sent = intake.tickets.send(ticket) => if sent.is_err() { return Ok(()) },
            () = stopped(&mut stop) => return Ok(()),
        }
    }
    let mut tasks = JoinSet::new();
    for folder in folders {
        tasks.spawn(folder::run(folder, intake.clone(), stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn encoder(config: &Config) -> Result<Encoder, PrivacyError> {
    Ok(Encoder {
        node: config.node.clone(),
        boot: boot_id(),
        inline_max_bytes: config.mqtt.inline_max_bytes,
        privacy: Privacy::open(config.privacy.identifiers, &config.state.directory)?,
    })
}

/// Says where that is news whose state directory this is, and that it is a new one: a daemon that lost its own begins
/// anew without any other sign.
fn announce(
    outbox: &Outbox,
    encoder: &Encoder,
    state: &Path,
    status: &Status,
) -> Result<(), AcceptError> {
    let notice = outbox.belongs_to(&encoder.node, |notice, seq| encoder.notice(notice, seq))?;
    if let Some(notice) = notice {
        let (words, remedy) = notice.words(&encoder.node);
        let path = state.display();
        match missing_above(state) {
            Some(mount) if matches!(notice, Notice::Created { .. }) => tracing::error!(
                state = %path, words, mount = %mount.display(), remedy,
                "/etc/fstab has a disk for the state directory, and it is not mounted"
            ),
            _ => tracing::warn!(state = %path, words, remedy, "not the state directory of before"),
        }
    }
    let identity = outbox.identity()?;
    // Set once: this process has one state directory.
    let _ = status.identity.set(identity);
    Ok(())
}

fn open_ports(config: &Config, grace: Duration) -> Result<Vec<Port>, DicomError> {
    let ports = config.dicom.iter();
    ports.map(|dicom| Port::open(dicom, grace)).collect()
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
