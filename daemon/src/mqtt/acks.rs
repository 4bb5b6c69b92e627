//! What the broker's acknowledgements mean for the outbox.

use tokio::time::Instant;

use super::connection::version_probe::probe_version;
use super::connection::{Lost, Signal};
use super::session::{End, Session};
use super::window::{MessageKey, Outcome, PublishAck};
use super::{MqttError, Publisher};
use crate::config::Version;
use crate::failure::Failure;

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
                    if let Some(lost) = self.begin_session(session).await? {
                        return Ok(Some(End::Lost(lost)));
                    }
                }
                Signal::Published(packet_id) => self.window.published(packet_id),
                Signal::Acked(packet_id, publish_ack) => {
                    session.ack_timer.restart(Instant::now());
                    match self.acked(session, packet_id, publish_ack).await? {
                        Some(MessageKey::Fresh(key)) => delivered.push(key),
                        Some(MessageKey::Replayed(key)) => session.replay.acked(key),
                        None => {}
                    }
                }
                // Only the connection of `scansided doctor` subscribes.
                Signal::Subscribed(_) | Signal::Received(_) => {}
                // Both ends trusted each other when the connection began, so trust is not the trouble.
                Signal::Lost(Lost::Distrusted(words)) if session.is_connected() => {
                    end = Some(End::Lost(Lost::Broken(words)));
                }
                Signal::Lost(lost) => end = Some(End::Lost(lost)),
            }
        }
        if !delivered.is_empty() {
            self.backoff.reset();
            self.ack_timeouts = 0;
            self.delivery.delivered(delivered).await?;
        }
        self.record_replay_progress(session).await?;
        Ok(end)
    }

    /// After CONNACK. Gives the reason when the connection is not to be used.
    async fn begin_session(&mut self, session: &mut Session) -> Result<Option<Lost>, MqttError> {
        let (mqtt, node) = (&self.config.mqtt, &self.config.node);
        if self.version_choice.connected() {
            let broker = self.credentials.borrow().mqtt.clone();
            let reply = probe_version(mqtt, &broker, node).await;
            if self.version_choice.confirmed(reply) {
                let words = "the broker speaks MQTT 5 after all".to_owned();
                return Ok(Some(Lost::Unreachable(words)));
            }
        }
        let now = Instant::now();
        session.connected_at = Some(now);
        session.ack_timer.restart(now);
        self.outage.clear();
        let protocol = self.version_choice.level();
        self.status.connected();
        self.status.set_mqtt_level(protocol);
        tracing::info!(host = mqtt.host, %protocol, "connected to the broker");
        if protocol == Version::Three {
            let missing = protocol.missing().join(", ");
            tracing::warn!(
                missing,
                "the broker is spoken to in MQTT 3.1.1, which says less; one with MQTT 5 has these"
            );
        }
        self.publish_birth(session).await?;
        Ok(None)
    }

    /// Handles one PUBACK. Gives the message when it is done with.
    async fn acked(
        &mut self,
        session: &mut Session,
        packet_id: u16,
        publish_ack: PublishAck,
    ) -> Result<Option<MessageKey>, MqttError> {
        match self.window.acked(packet_id, publish_ack) {
            Outcome::Delivered(message_key) => {
                acknowledged(session, message_key);
                return Ok(Some(message_key));
            }
            Outcome::NoSubscribers(message_key) => {
                self.status.count_no_subscribers();
                let topic = acknowledged(session, message_key);
                if !std::mem::replace(&mut session.no_subscribers_logged, true) {
                    tracing::warn!(
                        topic = self.topic(&topic),
                        "nobody subscribes to this topic; the broker took the message and dropped it"
                    );
                }
                return Ok(Some(message_key));
            }
            Outcome::Refused(message_key, reason) => {
                let topic = session.sent.remove(&message_key).map(|sent| sent.topic);
                let again = matches!(message_key, MessageKey::Replayed(_));
                self.refused(session, &topic.unwrap_or_default(), !again, reason);
                // A replay does not insist: the subscriber can ask for it again.
                return Ok(again.then_some(message_key));
            }
            Outcome::PresenceRefused(topic, reason) => {
                self.refused(session, topic, false, reason);
            }
            Outcome::Invalid(message_key, reason) => {
                session.sent.remove(&message_key);
                let code = reason.to_owned();
                match message_key {
                    MessageKey::Fresh(key) => {
                        self.delivery
                            .give_up_message(key, Failure::Refused { code })
                            .await?;
                    }
                    MessageKey::Replayed(_) => return Ok(Some(message_key)),
                }
            }
            Outcome::Presence => {}
            Outcome::Unknown => {
                tracing::warn!(packet_id, "answer to a message that is not in flight");
            }
        }
        Ok(None)
    }

    fn refused(&self, session: &mut Session, topic: &str, durable: bool, reason: &str) {
        if session.nacks.refused(topic, durable, Instant::now()) {
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

/// Forgets the message and gives its topic.
fn acknowledged(session: &mut Session, message_key: MessageKey) -> String {
    let sent = session.sent.remove(&message_key);
    let publish_ms = sent
        .as_ref()
        .map(|sent| sent.at.elapsed().as_millis() as u64);
    let (MessageKey::Fresh((seq, part)) | MessageKey::Replayed((seq, part))) = message_key;
    let replayed = matches!(message_key, MessageKey::Replayed(_));
    tracing::debug!(seq, part, replayed, publish_ms, "acknowledged");
    sent.map(|sent| sent.topic).unwrap_or_default()
}
