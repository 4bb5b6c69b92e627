//! What the broker's answers mean for the outbox.

use tokio::time::Instant;

use super::connection::hello::hello;
use super::connection::{Lost, Signal};
use super::session::{End, Session};
use super::window::{Letter, Outcome, Verdict};
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
                    if let Some(lost) = self.welcome(session).await? {
                        return Ok(Some(End::Lost(lost)));
                    }
                }
                Signal::Published(packet_id) => self.window.published(packet_id),
                Signal::Answered(packet_id, verdict) => {
                    session.silence.broken(Instant::now());
                    let answer = (packet_id, verdict);
                    match self.answered(session, answer).await? {
                        Some(Letter::Fresh(key)) => delivered.push(key),
                        Some(Letter::Again(key)) => session.again.answered(key),
                        None => {}
                    }
                }
                // Of the doctor's connection.
                Signal::Subscribed(_) | Signal::Came(_) => {}
                // Both ends trusted each other already.
                Signal::Lost(Lost::Distrusted(words)) if session.is_connected() => {
                    end = Some(End::Lost(Lost::Broken(words)));
                }
                Signal::Lost(lost) => end = Some(End::Lost(lost)),
            }
        }
        if !delivered.is_empty() {
            self.backoff.reset();
            self.silences = 0;
            self.letters.delivered(delivered).await?;
        }
        self.note_replay(session).await?;
        Ok(end)
    }

    /// After CONNACK. Why the connection is not used, if so.
    async fn welcome(&mut self, session: &mut Session) -> Result<Option<Lost>, MqttError> {
        let (mqtt, node) = (&self.config.mqtt, &self.config.node);
        if self.dialect.connected() {
            let broker = self.credentials.borrow().mqtt.clone();
            let greeting = hello(mqtt, &broker, node).await;
            if self.dialect.confirmed(greeting) {
                let words = "the broker speaks MQTT 5 after all".to_owned();
                return Ok(Some(Lost::Silent(words)));
            }
        }
        let now = Instant::now();
        session.connected_at = Some(now);
        session.silence.broken(now);
        self.outage.clear();
        let protocol = self.dialect.level();
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
        self.greet(session).await?;
        Ok(None)
    }

    /// One answer; the letter when nothing more is to be done for it.
    async fn answered(
        &mut self,
        session: &mut Session,
        (packet_id, verdict): (u16, Verdict),
    ) -> Result<Option<Letter>, MqttError> {
        match self.window.answered(packet_id, verdict) {
            Outcome::Delivered(letter) => {
                acknowledged(session, letter);
                return Ok(Some(letter));
            }
            Outcome::Unheard(letter) => {
                self.status.count_unheard();
                let topic = acknowledged(session, letter);
                if !std::mem::replace(&mut session.unheard, true) {
                    tracing::warn!(
                        topic = self.topic(&topic),
                        "nobody subscribes to this topic; the broker took the message and dropped it"
                    );
                }
                return Ok(Some(letter));
            }
            Outcome::Refused(letter, reason) => {
                let topic = session.sent.remove(&letter).map(|sent| sent.topic);
                let again = matches!(letter, Letter::Again(_));
                self.refused(session, &topic.unwrap_or_default(), !again, reason);
                // Whoever asked for it can ask anew.
                return Ok(again.then_some(letter));
            }
            Outcome::PresenceRefused(topic, reason) => {
                self.refused(session, topic, false, reason);
            }
            Outcome::Invalid(letter, reason) => {
                session.sent.remove(&letter);
                let code = reason.to_owned();
                match letter {
                    Letter::Fresh(key) => {
                        self.letters.dead(key, Failure::Refused { code }).await?;
                    }
                    Letter::Again(_) => return Ok(Some(letter)),
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
fn acknowledged(session: &mut Session, letter: Letter) -> String {
    let sent = session.sent.remove(&letter);
    let publish_ms = sent
        .as_ref()
        .map(|sent| sent.at.elapsed().as_millis() as u64);
    let (Letter::Fresh((seq, part)) | Letter::Again((seq, part))) = letter;
    let replayed = matches!(letter, Letter::Again(_));
    tracing::debug!(seq, part, replayed, publish_ms, "acknowledged");
    sent.map(|sent| sent.topic).unwrap_or_default()
}
