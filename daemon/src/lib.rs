//! Every image in the inbox becomes masks on MQTT, and none is lost on the way.
//!
//! Modules in the order an image meets them; `ARCHITECTURE.md` has the promise.

pub mod accept;
pub mod check;
pub mod cli;
mod clock;
pub mod config;
pub mod control;
#[cfg(feature = "demo")]
pub mod demo;
mod disk;
pub mod encode;
pub mod failure;
pub mod job;
pub mod mqtt;
pub mod outbox;
pub mod pipeline;
pub mod privacy;
pub mod quarantine;
pub mod schema;
pub mod segment;
pub mod shutdown;
pub mod source;
pub mod status;
mod systemd;

use std::time::Instant;

use segmenter::{OpenError, Segmenter};

pub use config::Config;
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
    Pipeline(#[from] PipelineError),
}

/// The daemon from open bundle to clean stop. The bundle's golden pair runs first.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let started = Instant::now();
    for folder in &config.folder {
        check::writable(&folder.directory).map_err(|problem| RunError::Inbox {
            name: folder.name.clone(),
            problem,
        })?;
    }
    let path = config.model.bundle.clone();
    let opened = tokio::task::spawn_blocking(move || {
        Segmenter::open(&path).map_err(|source| RunError::Bundle { path, source })
    });
    let segmenter = opened.await.map_err(|_| PipelineError::Panicked)??;
    pipeline::run(config, segmenter, started, shutdown).await?;
    Ok(())
}
