//! What the broker's answers mean for the outbox.

use tokio::time::Instant;

use super::connection::Signal;
use super::session::{End, Session};
use super::window::{Outcome, Verdict};
use super::{MqttError, Publisher};
use crate::failure::Failure;
use crate::outbox::Key;

impl Publisher {
    pub(super) async fn handle(
        &mut self,
        session: &mut Session,
        signals: Vec<Signal>,
    ) -> Result<Option<End>, MqttError> {
        let mut delivered = Vec::new();
        let mut end = None;
        for signal in signals {
            match signal {
                Signal::Connected {
                    packet_max_bytes,
                    receive_max,
                } => {
                    session.packet_max_bytes = packet_max_bytes;
                    self.window
                        .set_limit(receive_max.min(self.config.mqtt.window_max_messages));
                    let now = Instant::now();
                    session.connected_at = Some(now);
                    session.silence.broken(now);
                    self.outage.clear();
                    self.status.connected();
                    tracing::info!(host = self.config.mqtt.host, "connected to the broker");
                    self.greet(session).await?;
                }
                Signal::Published(packet_id) => self.window.published(packet_id),
                Signal::Answered(packet_id, verdict) => {
                    session.silence.broken(Instant::now());
                    let answer = (packet_id, verdict);
                    delivered.extend(self.answered(session, answer).await?);
                }
                Signal::Broken(error) => end = Some(End::Broken(error)),
                // Both ends trusted each other already.
                Signal::Distrusted(error) if session.is_connected() => {
                    end = Some(End::Broken(error));
                }
                Signal::Distrusted(error) => end = Some(End::Distrusted(error)),
                Signal::Silent(error) => end = Some(End::Silent(error)),
            }
        }
        if !delivered.is_empty() {
            self.backoff.reset();
            self.silences = 0;
            self.letters.delivered(delivered).await?;
        }
        Ok(end)
    }

    /// One answer; the key when its row may go.
    async fn answered(
        &mut self,
        session: &mut Session,
        (packet_id, verdict): (u16, Verdict),
    ) -> Result<Option<Key>, MqttError> {
        match self.window.answered(packet_id, verdict) {
            Outcome::Delivered(key) => {
                acknowledged(session, key);
                return Ok(Some(key));
            }
            Outcome::Unheard(key) => {
                self.status.count_unheard();
                let topic = acknowledged(session, key);
                if !std::mem::replace(&mut session.unheard, true) {
                    tracing::warn!(
                        topic = self.topic(&topic),
                        "nobody subscribes to this topic; the broker took the message and dropped it"
                    );
                }
                return Ok(Some(key));
            }
            Outcome::Refused(key, reason) => {
                let topic = session.sent.remove(&key).map(|sent| sent.topic);
                self.refused(session, &topic.unwrap_or_default(), true, reason);
            }
            Outcome::PresenceRefused(topic, reason) => {
                self.refused(session, topic, false, reason);
            }
            Outcome::Invalid(key, reason) => {
                session.sent.remove(&key);
                let code = reason.to_owned();
                self.letters.dead(key, Failure::Refused { code }).await?;
            }
            Outcome::Presence => {}
            Outcome::Unknown => {
                tracing::warn!(packet_id, "answer to a message that is not in flight");
            }
        }
        Ok(None)
    }

    fn refused(&self, session: &mut Session, topic: &str, durable: bool, reason: &str) {
        if session.refusals.refused(topic, durable, Instant::now()) {
            tracing::error!(
                topic = self.topic(topic),
                reason,
                allow = self.topic("#"),
                "the broker refuses this topic, its messages stay queued; allow this user to write \
                 there"
            );
        }
    }
}

/// Its topic.
fn acknowledged(session: &mut Session, key: Key) -> String {
    let sent = session.sent.remove(&key);
    let publish_ms = sent
        .as_ref()
        .map(|sent| sent.at.elapsed().as_millis() as u64);
    tracing::debug!(seq = key.0, part = key.1, publish_ms, "acknowledged");
    sent.map(|sent| sent.topic).unwrap_or_default()
}
