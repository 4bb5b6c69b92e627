//! What the node says about itself: `availability`, `state`, `info` and `model/<slot>` (retained), `health`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::session::Session;
use super::window::Item;
use super::{MqttError, Publisher};
use crate::clock;
use crate::config::{Config, Version};
use crate::disk;
use crate::models::Models;
use crate::outbox::{Message, Outbox, OutboxError};
use crate::report::encode::{Speaker, object};
use crate::report::health::{self, Health};
use crate::report::info::{self, Info, Limits};
use crate::report::result;
use crate::report::state::{self, State};
use crate::status::Status;

fn info(
    config: &Config,
    (speaker, status): (&Speaker, &Status),
    models: &Models,
    protocol: Version,
) -> Value {
    object(&Info {
        schema: info::SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        result_schema: result::SCHEMA,
        node: &speaker.node,
        boot: speaker.boot,
        model: models.serving(0).model.clone(),
        models: models.serving_models(),
        sources: config.sources().collect(),
        formats: &["png", "jpeg", "tiff", "dicom"],
        protocol,
        missing: protocol.missing(),
        requests: &config.mqtt.requests,
        state_directory: status.identity.get(),
        identifiers: config.privacy.identifiers,
        limits: Limits {
            inline_max_bytes: speaker.inline_max_bytes,
            frame_max_pixels: config.decode.frame_max_pixels,
            frames_max: config.decode.frames_max,
            image_max_bytes: config.decode.image_max_bytes,
            request_max_bytes: config.mqtt.request_max_bytes,
        },
    })
}

/// Blocking: reads the outbox.
fn state(
    config: &Config,
    (speaker, models): (&Speaker, &Models),
    status: &Status,
    outbox: &Outbox,
) -> Result<Value, OutboxError> {
    let ledger = outbox.ledger()?;
    Ok(object(&State {
        schema: state::SCHEMA,
        session: speaker.boot,
        state: status.readiness(),
        reasons: status.reasons(),
        at: clock::now(),
        pending: ledger.pending,
        disk_free_bytes: disk::free_bytes(&config.state.directory),
        model: models.serving(0).model.digest.clone(),
        models: models.digests(),
    }))
}

/// Blocking: reads the outbox.
fn health(
    config: &Config,
    status: &Status,
    outbox: &Outbox,
    started: std::time::Instant,
) -> Result<Value, OutboxError> {
    let oldest = outbox.oldest_pending()?;
    Ok(object(&Health {
        schema: health::SCHEMA,
        at: clock::now(),
        state: status.readiness(),
        uptime_s: started.elapsed().as_secs(),
        resident_bytes: resident_bytes(),
        ledger: outbox.ledger()?,
        results_kept: outbox.kept()?,
        oldest_pending_at: oldest.map(|job| job.received_at),
        since_start: status.counts(),
        connected_since: status.broker().since,
        segmentations: status.pacs.counts(),
        disk_free_bytes: disk::free_bytes(&config.state.directory),
    }))
}

impl Publisher {
    /// After every CONNACK: a will of an earlier connection may have said `offline` since.
    pub(super) async fn greet(&mut self, session: &mut Session) -> Result<(), MqttError> {
        self.present(session, "availability", b"online".to_vec());
        let info = self.info();
        self.present(session, "info", info.to_string().into_bytes());
        session.said = None;
        session.models_said = None;
        self.tell(session).await
    }

    fn info(&self) -> Value {
        let (config, level) = (&self.config, self.dialect.level());
        info(config, (&self.speaker, &self.status), &self.models, level)
    }

    fn present(&mut self, session: &mut Session, topic: &'static str, payload: Vec<u8>) {
        let message = Message {
            topic: topic.to_owned(),
            payload,
        };
        // Handed over, it would end the connection, on every connection.
        if self.packet_bytes(message.bytes()) > session.packet_max_bytes {
            tracing::warn!(
                topic,
                "a retained message is above the broker's packet limit"
            );
        } else if !self.send(session, Item::Presence(topic), message) {
            tracing::warn!(topic, "no room for a retained message");
        }
    }

    /// `state` when it changed, `health` when it is due.
    pub(super) async fn tell(&mut self, session: &mut Session) -> Result<(), MqttError> {
        if !session.is_connected() {
            return Ok(());
        }
        let current = (self.status.readiness(), self.status.reasons());
        let healthy = Instant::now() >= session.health_due;
        self.tell_models(session, healthy);
        if session.said.as_ref() == Some(&current) && !healthy {
            return Ok(());
        }
        let (config, status) = (Arc::clone(&self.config), Arc::clone(&self.status));
        let (outbox, speaker) = (Arc::clone(&self.outbox), self.speaker.clone());
        let models = Arc::clone(&self.models);
        let started = self.started;
        let (state, health) = tokio::task::spawn_blocking(move || {
            let state = state(&config, (&speaker, &models), &status, &outbox)?;
            let health = health(&config, &status, &outbox, started)?;
            Ok::<_, OutboxError>((state, health))
        })
        .await??;
        self.present(session, "state", state.to_string().into_bytes());
        session.said = Some(current);
        if healthy {
            let interval = Duration::from_secs(self.config.mqtt.health_interval_s);
            session.health_due = Instant::now() + interval;
            let payload = health.to_string().into_bytes();
            if !session.connection.announce(self.topic("health"), payload) {
                tracing::debug!("no room for a health message");
            }
        }
        Ok(())
    }

    /// `model/<slot>` when something changed, and with `health` for the figures of a shadow run. What
    /// serves stands in `info` and `state` too.
    fn tell_models(&mut self, session: &mut Session, healthy: bool) {
        let revision = self.models.revision();
        let figures = healthy && self.models.shadows();
        if session.models_said == Some(revision) && !figures {
            return;
        }
        if session.models_said.is_some_and(|said| said != revision) {
            let info = self.info();
            self.present(session, "info", info.to_string().into_bytes());
            session.said = None;
        }
        for (topic, payload) in self.models.messages() {
            self.present(session, topic, payload);
        }
        session.models_said = Some(revision);
    }

    /// `stopped` instead of the will's `offline`.
    pub(super) async fn farewell(&mut self, mut session: Session) -> Result<(), MqttError> {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.tell(&mut session).await?;
        self.present(&mut session, "availability", b"stopped".to_vec());
        let answered = async {
            while !self.window.is_empty() {
                let signals = session.connection.signals().await;
                if self.handle(&mut session, signals).await?.is_some() {
                    break;
                }
            }
            Ok::<_, MqttError>(())
        };
        if let Ok(result) = timeout(PATIENCE, answered).await {
            result?;
        } else {
            tracing::warn!("the broker did not acknowledge the farewell");
        }
        session.connection.close().await;
        Ok(())
    }
}

/// Absent outside Linux.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}

#[cfg(test)]
mod tests;
