//! The chain on one screen:
//!
//! source task -> bounded channel of job numbers -> thread `inference` (decode .. encode as plain
//! functions) -> outbox append (flushed) -> wake -> mqtt task -> outbox acknowledge
//!
//! Stopping goes the same way: sources, the image in hand, the window in flight.

mod counters;
mod inference;
mod shared;
mod sources;

use std::sync::Arc;
use std::time::{Duration, Instant};

use segmenter::decode::Limits;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::config::Config;
use crate::disk::rights;
use crate::intake::dicom::DicomError;
use crate::intake::folder::FolderError;
use crate::intake::http::HttpError;
use crate::intake::{Intake, Releases};
use crate::models::{Models, ModelsError};
use crate::mqtt::{self, Publisher};
use crate::operate::control::{self, ControlError};
use crate::operate::reload;
use crate::operate::systemd;
use crate::outbox::job::{JobNumber, boot_id};
use crate::report::encode::Encoder;
use crate::report::privacy::{Key, Privacy, PrivacyError};
use crate::seg::{self, SeriesError, SeriesTask};
use crate::segment::decoder::Decoder;
use crate::segment::route::Router;
use crate::spool::recover::recover;
use crate::spool::{AcceptError, Spool};
use crate::status::Status;
use crate::tls::credentials::{CredentialError, Credentials, warn_exposed};
use shared::Shared;
use sources::{Ports, Sources};

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
    let outbox = outbox.with_retention(config.results.clone());
    // After the outbox, whose lock says best that another scansided runs.
    let ports = Ports::open(&config)?;
    warn_exposed(&config);
    let (renewed, credentials) = watch::channel(Credentials::load(&config)?);
    credentials.borrow().expiries.warn();
    rights::tighten(&config.state.directory);
    let spool = Spool::create(&config.state.directory, config.state.keep_inputs_days)
        .map_err(AcceptError::from)?;
    let waiting = recover(&outbox, &spool)?;
    models.take_over()?;
    let status = Status::default();
    status.set_model_fell_back(models.fell_back());
    counters::begin(&config, &status.metrics);
    let shared = Shared {
        encoder: encoder(&config)?,
        outbox: Arc::new(outbox),
        spool,
        models: Arc::new(models),
        status: Arc::new(status),
        credentials,
        fresh: Arc::new(Notify::new()),
    };
    let boot = shared.encoder.boot;
    let backlog = waiting.len();
    let tasks = Tasks::start(&config, &shared, ports, waiting)?;

    let startup_ms = started.elapsed().as_millis() as u64;
    tracing::info!(%boot, waiting = backlog, startup_ms, "ready");
    systemd::ready();
    let image_timeout = Duration::from_secs(config.pipeline.image_timeout_s);
    let watched = Arc::clone(&shared.status);
    tokio::spawn(systemd::keep_watch(watched, image_timeout));
    tokio::spawn(reload::run(config, renewed));
    tasks.run(shutdown, &shared.status).await
}

type Task = JoinHandle<Result<(), PipelineError>>;

fn task<E: Into<PipelineError>>(run: impl Future<Output = Result<(), E>> + Send + 'static) -> Task {
    tokio::spawn(async { run.await.map_err(Into::into) })
}

/// What runs until the end, and what stops it.
struct Tasks {
    sources: Task,
    control: Task,
    series: Task,
    inference: inference::Ended,
    publisher: Task,
    stop_sources: watch::Sender<bool>,
    stop_publisher: watch::Sender<bool>,
}

impl Tasks {
    /// `waiting`: the jobs that an earlier run left.
    fn start(
        config: &Config,
        shared: &Shared,
        ports: Ports,
        waiting: Vec<JobNumber>,
    ) -> Result<Self, PipelineError> {
        let shadow = shared.start_shadow(config)?;
        let key = Key::of(&config.state.directory)?;
        shared.announce_identity(&config.state.directory)?;
        let (stop_sources, sources_stopped) = watch::channel(false);
        let (stop_publisher, publisher_stopped) = watch::channel(false);
        let (job_numbers, queue) = mpsc::channel(config.pipeline.queue_max_jobs);
        let (releases, released) = Releases::new();
        let series_task = SeriesTask::open(config, shared.series_context())?;
        let inference = inference::start(inference::Worker {
            outbox: Arc::clone(&shared.outbox),
            spool: shared.spool.clone(),
            models: Arc::clone(&shared.models),
            router: Router::new(config),
            shadow,
            limits: Limits::from(&config.decode),
            decoder: Decoder::new(Limits::from(&config.decode)),
            encoder: shared.encoder.clone(),
            key,
            status: Arc::clone(&shared.status),
            attempts_max: config.pipeline.attempts_max,
            fresh: Arc::clone(&shared.fresh),
            keeps_slices: series_task.is_some(),
            queue,
            stop: sources_stopped.clone(),
        })?;
        let intake = Intake {
            outbox: Arc::clone(&shared.outbox),
            spool: shared.spool.clone(),
            status: Arc::clone(&shared.status),
            credentials: shared.credentials.clone(),
            min_free_bytes: config.state.min_free_bytes,
            job_numbers: job_numbers.clone(),
            releases: series_task.is_some().then_some(releases),
        };
        let sources = Sources {
            folders: config.folder.clone(),
            ports,
            requests: mqtt::Requests::new(config, intake.clone(), Arc::clone(&shared.fresh)),
            waiting,
            intake,
        };
        let series = task(seg::run(series_task, released, sources_stopped.clone()));
        let sources = task(sources.run(sources_stopped.clone()));
        let listener = control::listen(&config.state.directory);
        let control = control::run(
            shared.control(config),
            listener,
            job_numbers,
            sources_stopped,
        );
        let publisher = Publisher::new(config, shared.publisher_context());
        let publishing = publisher.run(Arc::clone(&shared.fresh), publisher_stopped, grace(config));
        Ok(Self {
            sources,
            control: task(control),
            series,
            inference,
            publisher: task(publishing),
            stop_sources,
            stop_publisher,
        })
    }

    /// Until `shutdown`, or until one of them ends; then stops them in the order of the chain.
    async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        status: &Status,
    ) -> Result<(), PipelineError> {
        let early = tokio::select! {
            () = shutdown => None,
            ended = &mut self.sources => Some(flatten(ended)),
            ended = &mut self.control => Some(flatten(ended)),
            ended = &mut self.series => Some(flatten(ended)),
            ended = &mut self.inference => Some(ended.unwrap_or(Err(PipelineError::Panicked))),
            ended = &mut self.publisher => Some(flatten(ended)),
        };
        tracing::info!("stopping");
        systemd::stopping();
        status.set_draining();
        // A send fails only when every receiver is gone, and then there is nothing left to stop.
        let _ = self.stop_sources.send(true);
        if let Some(result) = early {
            result?;
            return Err(PipelineError::Panicked);
        }
        flatten(self.sources.await)?;
        flatten(self.control.await)?;
        flatten(self.series.await)?;
        self.inference
            .await
            .unwrap_or(Err(PipelineError::Panicked))?;
        let _ = self.stop_publisher.send(true);
        flatten(self.publisher.await)
    }
}

fn flatten(ended: Result<Result<(), PipelineError>, JoinError>) -> Result<(), PipelineError> {
    ended.unwrap_or(Err(PipelineError::Panicked))
}

fn grace(config: &Config) -> Duration {
    Duration::from_millis(config.pipeline.shutdown_grace_ms)
}

fn encoder(config: &Config) -> Result<Encoder, PrivacyError> {
    Ok(Encoder {
        node: config.node.clone(),
        boot: boot_id(),
        inline_max_bytes: config.mqtt.inline_max_bytes,
        privacy: Privacy::open(config.privacy.identifiers, &config.state.directory)?,
    })
}
