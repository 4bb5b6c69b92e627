//! The chain on one screen:
//!
//! source task -> bounded channel of tickets -> thread `inference` (decode .. encode as plain
//! functions) -> outbox append (flushed) -> wake -> mqtt task -> outbox acknowledge
//!
//! Stopping goes the same way: sources, the image in hand, the window in flight.

mod counters;
mod inference;
mod sources;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segmenter::decode::Limits;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::config::{self, Config};
use crate::disk::mounts::missing_above;
use crate::disk::rights;
use crate::intake::dicom::{DicomError, Port};
use crate::intake::folder::FolderError;
use crate::intake::http::{self, HttpError};
use crate::intake::{Intake, Releases};
use crate::models::{Models, ModelsError, Shadow};
use crate::mqtt;
use crate::operate::control::{self, Control, ControlError};
use crate::operate::reload;
use crate::operate::systemd;
use crate::outbox::Outbox;
use crate::outbox::job::{Ticket, boot_id};
use crate::report::encode::{Notice, Speaker};
use crate::report::privacy::{Key, Privacy, PrivacyError};
use crate::seg::{self, SeriesError};
use crate::segment::decoder::Decoder;
use crate::segment::route::Router;
use crate::spool::recover::recover;
use crate::spool::{AcceptError, Shelves};
use crate::status::Status;
use crate::tls::credentials::{CredentialError, Credentials, warn_exposed};
use sources::Sources;

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
    let opened = Opened::open(&config, models).await?;
    let (boot, waiting) = (opened.speaker.boot, opened.waiting.len());
    let status = Arc::clone(&opened.status);
    let image_timeout = Duration::from_secs(config.pipeline.image_timeout_s);
    let (stop_sources, sources_stopped) = watch::channel(false);
    let (stop_mqtt, mqtt_stopped) = watch::channel(false);
    let tasks = opened.start(config, sources_stopped, mqtt_stopped)?;

    let startup_ms = started.elapsed().as_millis() as u64;
    tracing::info!(%boot, waiting, startup_ms, "ready");
    systemd::ready();
    tokio::spawn(systemd::keep_watch(Arc::clone(&status), image_timeout));
    tasks
        .run(shutdown, (stop_sources, stop_mqtt), &status)
        .await
}

/// What is open before anything runs.
struct Opened {
    outbox: Arc<Outbox>,
    ports: Vec<Port>,
    http: Option<http::Port>,
    /// New ones come after SIGHUP.
    renewed: watch::Sender<Credentials>,
    credentials: watch::Receiver<Credentials>,
    shelves: Shelves,
    /// What an earlier run left.
    waiting: Vec<Ticket>,
    models: Arc<Models>,
    status: Arc<Status>,
    shadow: Option<Shadow>,
    speaker: Speaker,
    key: Key,
}

impl Opened {
    async fn open(config: &Config, models: Models) -> Result<Self, PipelineError> {
        let opened = control::open(&config.state.directory).await;
        let outbox = opened.map_err(AcceptError::from)?;
        let outbox = Arc::new(outbox.keeping(config.results.clone()));
        // After the outbox, whose lock says best that another scansided runs.
        let ports = open_ports(config, grace(config))?;
        let http = http::Port::open(config)?;
        warn_exposed(config);
        let (renewed, credentials) = watch::channel(Credentials::load(config)?);
        credentials.borrow().expiries.warn();
        rights::tighten(&config.state.directory);
        let shelves = Shelves::create(&config.state.directory, config.state.keep_inputs_days)
            .map_err(AcceptError::from)?;
        let waiting = recover(&outbox, &shelves)?;
        models.settle()?;
        let models = Arc::new(models);
        let status = Arc::new(Status::default());
        status.set_model_fell_back(models.fell_back());
        counters::begin(config, &status.metrics);
        let shadow = start_shadow(config, &models, &status)?;
        let speaker = speaker(config)?;
        let key = Key::of(&config.state.directory)?;
        announce(&outbox, &speaker, &config.state.directory, &status)?;
        Ok(Self {
            outbox,
            ports,
            http,
            renewed,
            credentials,
            shelves,
            waiting,
            models,
            status,
            shadow,
            speaker,
            key,
        })
    }

    /// Starts every thread and task of the chain.
    fn start(
        self,
        config: Config,
        sources_stopped: watch::Receiver<bool>,
        mqtt_stopped: watch::Receiver<bool>,
    ) -> Result<Tasks, PipelineError> {
        // Woken when something waits for the broker.
        let fresh = Arc::new(Notify::new());
        let (tickets, queue) = mpsc::channel(config.pipeline.queue_max_jobs);
        let (releases, released) = Releases::new();
        let wakes = (&fresh, &self.credentials, &self.status);
        let keeper = seg::Keeper::open(&config, &self.outbox, &self.speaker, wakes)?;
        let intake = self.intake(
            &config,
            tickets.clone(),
            keeper.is_some().then_some(releases),
        );
        let inference = inference::start(inference::Worker {
            outbox: Arc::clone(&self.outbox),
            shelves: self.shelves.clone(),
            models: Arc::clone(&self.models),
            router: Router::new(&config),
            shadow: self.shadow,
            limits: Limits::from(&config.decode),
            decoder: Decoder::new(Limits::from(&config.decode)),
            speaker: self.speaker.clone(),
            key: self.key,
            status: Arc::clone(&self.status),
            attempts_max: config.pipeline.attempts_max,
            fresh: Arc::clone(&fresh),
            keeps_slices: keeper.is_some(),
            queue,
            stop: sources_stopped.clone(),
        })?;
        let sources = Sources {
            folders: config.folder.clone(),
            ports: self.ports,
            http: self.http,
            requests: mqtt::Requests::new(&config, intake.clone(), Arc::clone(&fresh)),
            waiting: self.waiting,
            intake,
        };
        let owned = (&self.outbox, &self.shelves);
        let desk = Control::new(&config, owned, (&self.models, &self.status), &fresh);
        let listener = control::listen(&config.state.directory);
        let publisher = mqtt::Publisher::new(
            &config,
            self.speaker,
            (self.outbox, self.shelves),
            self.models,
            self.status,
            self.credentials,
        );
        let grace = grace(&config);
        let tasks = Tasks {
            keeping: task(seg::run(keeper, released, sources_stopped.clone())),
            desk: task(control::run(
                desk,
                listener,
                tickets,
                sources_stopped.clone(),
            )),
            sources: task(sources.run(sources_stopped)),
            inference,
            publishing: task(publisher.run(fresh, mqtt_stopped, grace)),
        };
        tokio::spawn(reload::run(config, self.renewed));
        Ok(tasks)
    }

    fn intake(
        &self,
        config: &Config,
        tickets: mpsc::Sender<Ticket>,
        releases: Option<Releases>,
    ) -> Intake {
        Intake {
            outbox: Arc::clone(&self.outbox),
            shelves: self.shelves.clone(),
            status: Arc::clone(&self.status),
            credentials: self.credentials.clone(),
            min_free_bytes: config.state.min_free_bytes,
            tickets,
            releases,
        }
    }
}

/// For what is under way when the daemon stops.
fn grace(config: &Config) -> Duration {
    Duration::from_millis(config.pipeline.shutdown_grace_ms)
}

type Task = JoinHandle<Result<(), PipelineError>>;

fn task<E: Into<PipelineError>>(run: impl Future<Output = Result<(), E>> + Send + 'static) -> Task {
    tokio::spawn(async { run.await.map_err(Into::into) })
}

/// What runs until the end.
struct Tasks {
    sources: Task,
    desk: Task,
    keeping: Task,
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
            ended = &mut self.keeping => Some(flatten(ended)),
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
        flatten(self.keeping.await)?;
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

fn speaker(config: &Config) -> Result<Speaker, PrivacyError> {
    Ok(Speaker {
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
    speaker: &Speaker,
    state: &Path,
    status: &Status,
) -> Result<(), AcceptError> {
    let notice = outbox.belongs_to(&speaker.node, |notice, seq| speaker.notice(notice, seq))?;
    if let Some(notice) = notice {
        let (words, remedy) = notice.words(&speaker.node);
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
