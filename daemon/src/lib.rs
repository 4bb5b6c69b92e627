//! Every image in the inbox becomes masks on MQTT, and none is lost on the way.
//!
//! Modules in the order an image meets them, then what stands beside its way, then the leaves that import nothing of
//! the others; `ARCHITECTURE.md` has the promise.

pub mod config;
pub mod intake;
pub mod spool;
pub mod pipeline;
pub mod models;
pub mod segment;
pub mod report;
pub mod outbox;
pub mod mqtt;
pub mod seg;

pub mod status;
mod tls;
pub mod operate;
pub mod cli;
#[cfg(feature = "demo")]
pub mod demo;

mod backoff;
mod clock;
mod dimse;
mod disk;
pub mod failure;
pub mod shutdown;

use std::time::Instant;

use segmenter::OpenError;

pub use config::Config;
pub use models::{Models, ModelsError};
pub use pipeline::PipelineError;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("bundle {}: {source}", path.display())]
    Bundle {
        path: std::path::PathBuf,
        source: OpenError,
    },
    #[error("folder `{name}`: {problem}")]
    Inbox { name: String, problem: String },
    #[error(transparent)]
    Models(#[from] ModelsError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

/// The daemon from open bundle to clean stop. The bundle's golden pair runs first.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let started = Instant::now();
    operate::reload::catch_hangup(&config);
    for folder in &config.folder {
        disk::writable(&folder.directory).map_err(|problem| RunError::Inbox {
            name: folder.name.clone(),
            problem,
        })?;
    }
    let configured = config.clone();
    let opened = tokio::task::spawn_blocking(move || Models::open(&configured));
    let models = opened.await.map_err(|_| PipelineError::Panicked)??;
    pipeline::run(config, models, started, shutdown).await?;
    Ok(())
}
