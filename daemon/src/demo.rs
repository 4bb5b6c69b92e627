//! `scansided demo`: broker, phantom images, the daemon's own pipeline and a subscriber in one process.
//!
//! What is printed came over TCP as MQTT from the broker: nothing is taken from the pipeline's side.

mod broker;
mod packet;
mod patient;
mod score;
mod setup;
mod subscriber;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use segmenter::Segmenter;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::outbox::{Outbox, OutboxError};
use crate::{Models, PipelineError, RunError, pipeline, shutdown};
use broker::Broker;
use score::Scoreboard;
use setup::Setup;
use subscriber::Received;

/// What `scansided demo` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Phantom images to segment.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub images: u32,
    /// Stop after the last image; otherwise broker and daemon stay until Ctrl-C.
    #[arg(long)]
    pub exit: bool,
    /// Bundle directory or `.tar`; the int8 bundle of the repository's models/zoo unless given.
    #[arg(long)]
    pub bundle: Option<PathBuf>,
    /// Where inbox, state and overlay pictures go; a new temporary folder unless given.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("no bundle below {}; name one with --bundle", .0.display())]
    NoBundle(PathBuf),
    #[error("cannot write {}: {source}; name another folder with --directory", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot start the demo's broker: {0}")]
    Broker(io::Error),
    #[error("the demo's subscriber lost its connection")]
    Unsubscribed,
    #[error("no image came back for {0:?}; SCANSIDE_LOG=info says what the daemon does")]
    Silent(Duration),
    #[error(transparent)]
    Phantom(#[from] phantom::dicom::DicomError),
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error("a message on {topic} is not what it says: {source}")]
    Payload {
        topic: String,
        source: serde_json::Error,
    },
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Longest wait for the next image; one takes a second or two on a small box.
const IMAGE_TIMEOUT: Duration = Duration::from_mins(2);

/// True when every image came back as masks and the ledger holds.
pub async fn run(args: Args, out: &mut impl Write) -> Result<bool, DemoError> {
    let bundle = args.bundle.map_or_else(setup::shipped_bundle, Ok)?;
    let broker = Broker::start().await.map_err(DemoError::Broker)?;
    let setup = Setup::build(args.directory, &bundle, broker.address)?;
    writeln!(out, "broker   mqtt://{} (MQTT 3.1.1 and 5)", broker.address)?;
    writeln!(out, "bundle   {}", bundle.display())?;
    writeln!(
        out,
        "inbox    {}",
        setup.config.folder[0].directory.display()
    )?;
    let started = Instant::now();
    let segmenter = Segmenter::open(&bundle).map_err(|source| RunError::Bundle {
        path: bundle,
        source,
    })?;
    let manifest = segmenter.manifest().clone();
    let mut received = subscriber::subscribe(broker.address, setup.filter());
    next(&mut received, Instant::now() + IMAGE_TIMEOUT).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    drop(segmenter);
    let models = Models::open(&setup.config).map_err(RunError::from)?;
    let mut daemon = tokio::spawn(pipeline::run(
        setup.config.clone(),
        models,
        started,
        async move {
            // A sender that is gone means that the demo ended: stop as well.
            let _ = stopped.await;
        },
    ));
    let mut show = Show {
        setup: &setup,
        images: args.images,
        exit: args.exit,
        received,
    };
    let mut scoreboard = Scoreboard::new(&setup, manifest, started);
    let told = tokio::select! {
        told = run_show(&mut show, &mut scoreboard, out) => told,
        ended = &mut daemon => {
            flatten(ended)?;
            return Err(PipelineError::Panicked.into());
        }
    };
    // The receiver is gone only when the daemon ended by itself, and then awaiting it says why.
    let _ = stop.send(());
    flatten(daemon.await)?;
    told?;
    let ledger = Outbox::open(&setup.config.state.directory)?.ledger()?;
    scoreboard.summary(&ledger, out)?;
    Ok(scoreboard.complete(args.images) && ledger.balances())
}

fn flatten(
    ended: Result<Result<(), PipelineError>, tokio::task::JoinError>,
) -> Result<(), PipelineError> {
    ended.map_err(|_| PipelineError::Panicked)?
}

/// What the demo sends and where its messages come from.
struct Show<'a> {
    setup: &'a Setup,
    images: u32,
    exit: bool,
    received: mpsc::Receiver<Received>,
}

/// Drops the images into the inbox and prints what the subscriber receives.
async fn run_show(
    show: &mut Show<'_>,
    scoreboard: &mut Scoreboard,
    out: &mut impl Write,
) -> Result<(), DemoError> {
    let Show {
        setup,
        images,
        exit,
        ref mut received,
    } = *show;
    let mut sending = Some(setup.send(images, scoreboard.sent_images()));
    let mut end = Box::pin(shutdown::requested());
    let mut deadline = Instant::now() + IMAGE_TIMEOUT;
    while !scoreboard.ended(images) {
        tokio::select! {
            message = next(received, deadline) => {
                let message = message?;
                // Health comes for ever; it must not keep a stuck demo alive.
                if message.ends_an_image() {
                    deadline = Instant::now() + IMAGE_TIMEOUT;
                }
                scoreboard.receive(message, out)?;
            }
            sent = wait(&mut sending), if sending.is_some() => {
                sending = None;
                sent?;
            }
            () = &mut end => return Ok(()),
        }
    }
    if exit {
        return Ok(());
    }
    setup.print_hints(out)?;
    loop {
        tokio::select! {
            message = received.recv() => {
                scoreboard.receive(message.ok_or(DemoError::Unsubscribed)?, out)?;
            }
            () = &mut end => return Ok(()),
        }
    }
}

async fn wait(sending: &mut Option<JoinHandle<Result<(), DemoError>>>) -> Result<(), DemoError> {
    match sending {
        Some(task) => task.await.map_err(|_| PipelineError::Panicked)?,
        None => std::future::pending().await,
    }
}

async fn next(
    received: &mut mpsc::Receiver<Received>,
    deadline: Instant,
) -> Result<Received, DemoError> {
    tokio::time::timeout_at(deadline.into(), received.recv())
        .await
        .map_err(|_| DemoError::Silent(IMAGE_TIMEOUT))?
        .ok_or(DemoError::Unsubscribed)
}
