//! What several tasks of the daemon use, and each task's share of it.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::PipelineError;
use crate::config::{self, Config};
use crate::disk::mounts::missing_above;
use crate::models::{Models, Shadow};
use crate::mqtt::PublisherContext;
use crate::operate::control::Control;
use crate::outbox::Outbox;
use crate::report::encode::{Encoder, Notice};
use crate::seg::SeriesContext;
use crate::spool::{AcceptError, Spool};
use crate::status::Status;
use crate::tls::credentials::Credentials;

pub(super) struct Shared {
    pub(super) encoder: Encoder,
    pub(super) outbox: Arc<Outbox>,
    pub(super) spool: Spool,
    pub(super) models: Arc<Models>,
    pub(super) status: Arc<Status>,
    pub(super) credentials: watch::Receiver<Credentials>,
    /// Wakes the publisher.
    pub(super) fresh: Arc<Notify>,
}

impl Shared {
    pub(super) fn series_context(&self) -> SeriesContext {
        SeriesContext {
            outbox: Arc::clone(&self.outbox),
            encoder: self.encoder.clone(),
            fresh: Arc::clone(&self.fresh),
            credentials: self.credentials.clone(),
            status: Arc::clone(&self.status),
        }
    }

    pub(super) fn publisher_context(&self) -> PublisherContext {
        PublisherContext {
            encoder: self.encoder.clone(),
            outbox: Arc::clone(&self.outbox),
            spool: self.spool.clone(),
            models: Arc::clone(&self.models),
            status: Arc::clone(&self.status),
            credentials: self.credentials.clone(),
        }
    }

    pub(super) fn control(&self, config: &Config) -> Control {
        Control {
            outbox: Arc::clone(&self.outbox),
            spool: self.spool.clone(),
            limits: config.quarantine.clone(),
            history_max_jobs: config.state.history_max_jobs,
            models: Arc::clone(&self.models),
            status: Arc::clone(&self.status),
            keep_days: config.results.keep_days,
            fresh: Arc::clone(&self.fresh),
        }
    }

    pub(super) fn start_shadow(&self, config: &Config) -> Result<Option<Shadow>, PipelineError> {
        if config.models.shadow == config::Shadow::Off {
            return Ok(None);
        }
        let (models, status) = (Arc::clone(&self.models), Arc::clone(&self.status));
        Shadow::start(models, status, config.models.shadow_queue_max_images)
            .map(Some)
            .map_err(PipelineError::Thread)
    }

    /// Says whose state directory this is, where that is news, and that it is a new one: a daemon that lost its own
    /// begins anew without any other sign.
    pub(super) fn announce_identity(&self, state: &Path) -> Result<(), AcceptError> {
        let (outbox, encoder) = (&self.outbox, &self.encoder);
        let notice =
            outbox.record_node(&encoder.node, |notice, seq| encoder.notice(notice, seq))?;
        if let Some(notice) = notice {
            let (words, remedy) = notice.words(&encoder.node);
            let path = state.display();
            match missing_above(state) {
                Some(mount) if matches!(notice, Notice::Created { .. }) => tracing::error!(
                    state = %path, words, mount = %mount.display(), remedy,
                    "/etc/fstab has a disk for the state directory, and it is not mounted"
                ),
                _ => tracing::warn!(
                    state = %path, words, remedy, "not the state directory of before"
                ),
            }
        }
        let identity = outbox.identity()?;
        // Set once: this process has one state directory.
        let _ = self.status.identity.set(identity);
        Ok(())
    }
}
