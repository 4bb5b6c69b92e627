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
use crate::report::encode::{Encoder, object};
use crate::report::health::{self, Health};
use crate::report::info::{self, Info, Limits};
use crate::report::result;
use crate::report::state::{self, State};
use crate::status::Status;

fn info(
    config: &Config,
    (encoder, status): (&Encoder, &Status),
    models: &Models,
    protocol: Version,
) -> Value {
    object(&Info {
        schema: info::SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        result_schema: result::SCHEMA,
        node: &encoder.node,
        boot: encoder.boot,
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
            inline_max_bytes: encoder.inline_max_bytes,
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
    (encoder, models): (&Encoder, &Models),
    status: &Status,
    outbox: &Outbox,
) -> Result<Value, OutboxError> {
    let ledger = outbox.ledger()?;
    Ok(object(&State {
        schema: state::SCHEMA,
        session: encoder.boot,
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
    pub(super) async fn publish_birth(&mut self, session: &mut Session) -> Result<(), MqttError> {
        self.publish_retained(session, "availability", b"online".to_vec());
        let info = self.info();
        self.publish_retained(session, "info", info.to_string().into_bytes());
        session.state_published = None;
        session.models_published = None;
        self.publish_state(session).await
    }

    fn info(&self) -> Value {
        let (config, level) = (&self.config, self.version_choice.level());
        info(config, (&self.encoder, &self.status), &self.models, level)
    }

    fn publish_retained(&mut self, session: &mut Session, topic: &'static str, payload: Vec<u8>) {
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
    pub(super) async fn publish_state(&mut self, session: &mut Session) -> Result<(), MqttError> {
        if !session.is_connected() {
            return Ok(());
        }
        let current = (self.status.readiness(), self.status.reasons());
        let healthy = Instant::now() >= session.health_due;
        self.publish_models(session, healthy);
        if session.state_published.as_ref() == Some(&current) && !healthy {
            return Ok(());
        }
        let (config, status) = (Arc::clone(&self.config), Arc::clone(&self.status));
        let (outbox, encoder) = (Arc::clone(&self.outbox), self.encoder.clone());
        let models = Arc::clone(&self.models);
        let started = self.started;
        let (state, health) = tokio::task::spawn_blocking(move || {
            let state = state(&config, (&encoder, &models), &status, &outbox)?;
            let health = health(&config, &status, &outbox, started)?;
            Ok::<_, OutboxError>((state, health))
        })
        .await??;
        self.publish_retained(session, "state", state.to_string().into_bytes());
        session.state_published = Some(current);
        if healthy {
            let interval = Duration::from_secs(self.config.mqtt.health_interval_s);
            session.health_due = Instant::now() + interval;
            let payload = health.to_string().into_bytes();
            if !session
                .connection
                .publish_at_most_once(self.topic("health"), payload)
            {
                tracing::debug!("no room for a health message");
            }
        }
        Ok(())
    }

    /// `model/<slot>` when something changed, and with `health` for the figures of a shadow run. What
    /// serves stands in `info` and `state` too.
    fn publish_models(&mut self, session: &mut Session, healthy: bool) {
        let revision = self.models.revision();
        let figures = healthy && self.models.has_shadow_figures();
        if session.models_published == Some(revision) && !figures {
            return;
        }
        if session
            .models_published
            .is_some_and(|published| published != revision)
        {
            let info = self.info();
            self.publish_retained(session, "info", info.to_string().into_bytes());
            session.state_published = None;
        }
        for (topic, payload) in self.models.messages() {
            self.publish_retained(session, topic, payload);
        }
        session.models_published = Some(revision);
    }

    /// `stopped` instead of the will's `offline`.
    pub(super) async fn publish_stopped(&mut self, mut session: Session) -> Result<(), MqttError> {
        const ACK_TIMEOUT: Duration = Duration::from_secs(1);
        self.publish_state(&mut session).await?;
        self.publish_retained(&mut session, "availability", b"stopped".to_vec());
        let answered = async {
            while !self.window.is_empty() {
                let signals = session.connection.signals().await;
                if self.handle(&mut session, signals).await?.is_some() {
                    break;
                }
            }
            Ok::<_, MqttError>(())
        };
        if let Ok(result) = timeout(ACK_TIMEOUT, answered).await {
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
