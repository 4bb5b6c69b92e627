//! One HTTP port, where `[http]` opens it:
//!
//! - `POST /v1/images`: the body is one image file. 202 is answered once it is as safe as a file of an
//!   inbox that was accepted, and never waits for inference.
//! - `GET /metrics` for Prometheus, `GET /healthz` (does the work go on?), `GET /readyz` (are images
//!   taken?).

mod images;
mod probes;
mod refusal;
mod serve;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::sync::{Mutex, mpsc, watch};

use crate::config::{self, Config};
use crate::intake::{Intake, Watermark, bind};
use crate::spool::AcceptError;

pub use serve::run;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("http: {0}")]
    Listen(String),
    #[error("http: cannot wait for connections: {0}")]
    Wait(io::Error),
    #[error(transparent)]
    Accept(#[from] AcceptError),
}

/// A port that is open; connections wait until [`run`] takes them.
#[derive(Debug)]
pub struct Port {
    config: config::Http,
    listener: TcpListener,
    image_timeout: Duration,
    /// Time for what is under way when the daemon stops.
    grace: Duration,
}

impl Port {
    /// None where the configuration has no `[http]`.
    pub fn open(config: &Config) -> Result<Option<Self>, HttpError> {
        let Some(http) = &config.http else {
            return Ok(None);
        };
        let listener = bind(http.listen, "listen").map_err(HttpError::Listen)?;
        Ok(Some(Self {
            config: http.clone(),
            listener,
            image_timeout: Duration::from_secs(config.pipeline.image_timeout_s),
            grace: Duration::from_millis(config.pipeline.shutdown_grace_ms),
        }))
    }
}

/// Reasons for which the metrics count what was not taken.
pub(crate) fn refusal_reasons() -> impl Iterator<Item = &'static str> {
    let images = refusal::Refusal::OF_IMAGES;
    images
        .into_iter()
        .map(refusal::Refusal::code)
        .chain([serve::NO_TLS])
}

/// What the requests share.
struct Context {
    config: config::Http,
    intake: Intake,
    /// The first trouble of the state directory's disk.
    failed: mpsc::Sender<AcceptError>,
    stop: watch::Receiver<bool>,
    image_timeout: Duration,
    grace: Duration,
    watermark: Watermark,
    /// The last page of metrics, for those who ask in quick succession.
    page: Mutex<Option<probes::Page>>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
struct Peer(Option<IpAddr>);

/// `full`: this connection has no place for an image.
fn router(context: Arc<Context>, full: bool, peer: Peer) -> Router {
    let images = if full {
        post(images::no_place)
    } else {
        post(images::post)
    };
    Router::new()
        .route("/v1/images", images)
        .route("/metrics", get(probes::metrics))
        .route("/healthz", get(probes::health))
        .route("/readyz", get(probes::ready))
        .fallback(refusal::unknown_path)
        .layer(Extension(peer))
        .with_state(context)
}

#[cfg(test)]
mod tests;
