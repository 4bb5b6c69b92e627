//! From the outbox into the window: fresh rows first, then refused rows in the room that is left, then replays.

use tokio::time::Instant;

use super::connection::Kind;
use super::nacks::RetryPass;
use super::replay::{self, NOTE_INTERVAL, PROPERTY_BYTES, ReplayProgress};
use super::session::{Sent, Session};
use super::window::{Item, MessageKey};
use super::{MqttError, Publisher};
use crate::outbox::{Key, Message, Queued};

/// PUBLISH beside topic and payload: fixed header (at most 5), topic length, packet id, no properties.
const PACKET_OVERHEAD_BYTES: usize = 5 + 2 + 2 + 1;

/// How far a walk over the outbox came.
struct Walk {
    /// Last row handed over or passed.
    cursor: Option<Key>,
    finished: bool,
}

impl Publisher {
    /// Sends what the window admits. True when the outbox has nothing more to send.
    pub(super) async fn fill(&mut self, session: &mut Session) -> Result<bool, MqttError> {
        let fresh = self.walk(session, session.cursor, None).await?;
        session.cursor = fresh.cursor;
        if fresh.finished
            && let Some(retry_pass) = session.nacks.retry_pass(session.cursor, Instant::now())
        {
            let walk = self
                .walk(session, retry_pass.after, Some(retry_pass.until))
                .await?;
            let rest = (!walk.finished).then_some(RetryPass {
                after: walk.cursor,
                ..retry_pass
            });
            session.nacks.set_retry_pass(rest);
        }
        if fresh.finished && !session.draining {
            self.send_replay(session).await?;
        }
        Ok(fresh.finished)
    }

    /// Hands over rows after `cursor` up to `until`.
    async fn walk(
        &mut self,
        session: &mut Session,
        mut cursor: Option<Key>,
        until: Option<Key>,
    ) -> Result<Walk, MqttError> {
        let limit = self.config.mqtt.window_max_messages;
        let ended = |cursor, finished| Ok(Walk { cursor, finished });
        while self.window.has_room() {
            let rows = self.delivery.next_messages(cursor, limit).await?;
            let exhausted = rows.len() < limit;
            let mut rows = rows.into_iter().peekable();
            while let Some(row) = rows.next() {
                let key = row.key;
                if until.is_some_and(|until| key > until) {
                    return ended(cursor, true);
                }
                if self.window.contains(MessageKey::Fresh(key)) {
                    cursor = Some(key);
                    continue;
                }
                if !self.window.admits(MessageKey::Fresh(key)) {
                    return ended(cursor, false);
                }
                // Parts beyond this batch count too: a row at its end may have some.
                let more = rows.peek().is_none_or(|next| next.key.0 == key.0);
                if self.largest_bytes(&row, more).await? > session.packet_max_bytes {
                    let overhead = self.packet_bytes(row.message.topic.len());
                    let room = session.packet_max_bytes.saturating_sub(overhead);
                    self.delivery.split_or_quarantine(row, room).await?;
                    // The row was replaced by others, or is gone.
                    return ended(cursor, false);
                }
                if !self.send_message(session, MessageKey::Fresh(key), row.message) {
                    return ended(cursor, false);
                }
                cursor = Some(key);
            }
            if exhausted {
                return ended(cursor, true);
            }
        }
        ended(cursor, false)
    }

    /// Packet of this row; of the largest part when it is the first of a result. Once a part was sent
    /// the result cannot be split anew.
    async fn largest_bytes(&self, row: &Queued, more: bool) -> Result<usize, MqttError> {
        let own = row.message.bytes();
        let largest = if more && row.key.1 == 0 && row.job_number.is_some() {
            self.delivery.largest_bytes(row.key.0).await?.max(own)
        } else {
            own
        };
        Ok(self.packet_bytes(largest))
    }

    pub(super) fn send_message(
        &mut self,
        session: &mut Session,
        message_key: MessageKey,
        message: Message,
    ) -> bool {
        let sent = Sent {
            at: Instant::now(),
            topic: message.topic.clone(),
        };
        let handed = self.send(session, Item::Durable(message_key), message);
        if handed {
            session.sent.insert(message_key, sent);
        }
        handed
    }

    pub(super) fn send(&mut self, session: &mut Session, item: Item, message: Message) -> bool {
        if self.window.is_empty() {
            session.ack_timer.restart(Instant::now());
        }
        let topic = self.topic(&message.topic);
        let kind = match item {
            Item::Durable(MessageKey::Fresh(_)) => Kind::Message,
            Item::Durable(MessageKey::Replayed(_)) => Kind::Replayed,
            Item::Presence(_) => Kind::Retained,
        };
        let sent = session.connection.publish(topic, message.payload, kind);
        if sent {
            self.window.handed(item);
        }
        sent
    }

    /// Size of the PUBLISH packet for a topic below the root and payload of so many bytes.
    pub(super) fn packet_bytes(&self, message_bytes: usize) -> usize {
        PACKET_OVERHEAD_BYTES + self.root.len() + message_bytes
    }

    pub(super) async fn send_replay(&mut self, session: &mut Session) -> Result<(), MqttError> {
        let share = (self.config.mqtt.window_max_messages / 2).max(1);
        while session.replay.wanted && !session.replay.exhausted && self.window.has_room() {
            let replay = &mut session.replay;
            let room = share.saturating_sub(replay.in_flight.len());
            if room == 0 {
                return Ok(());
            }
            let at = replay.number.map(|number| (number, replay.cursor));
            let Some(page) = self.delivery.replay_page(at, room).await? else {
                replay.wanted = false;
                return Ok(());
            };
            if replay.number != Some(page.number) {
                *replay = ReplayProgress::new(Instant::now());
                replay.number = Some(page.number);
            }
            for (key, message) in page.messages {
                let message_key = MessageKey::Replayed(key);
                let message = replay::marked(message);
                let bytes = self.packet_bytes(message.bytes()) + PROPERTY_BYTES;
                if bytes > session.packet_max_bytes {
                    session.replay.too_large += 1;
                } else if !self.window.admits(message_key)
                    || !self.send_message(session, message_key, message)
                {
                    return Ok(());
                } else {
                    session.replay.in_flight.insert(key);
                    session.replay.sent += 1;
                }
                session.replay.cursor = Some(key);
            }
            session.replay.cursor = page.cursor;
            session.replay.exhausted = page.finished;
            self.record_replay_progress(session).await?;
        }
        Ok(())
    }

    /// Tells the outbox how far the replay came, now and then and at its end.
    pub(super) async fn record_replay_progress(
        &mut self,
        session: &mut Session,
    ) -> Result<(), MqttError> {
        let replay = &mut session.replay;
        let Some(number) = replay.number else {
            return Ok(());
        };
        if replay.is_over() {
            self.delivery.replayed(number, None).await?;
            let (messages, too_large) = (replay.sent, replay.too_large);
            tracing::info!(replay = number, messages, too_large, "replay finished");
            *replay = ReplayProgress::new(Instant::now());
        } else if replay.moved && replay.noted_at.elapsed() > NOTE_INTERVAL {
            self.delivery.replayed(number, replay.done()).await?;
            replay.moved = false;
            replay.noted_at = Instant::now();
        }
        Ok(())
    }

    /// The connection breaks on this message: the replay goes on behind it.
    pub(super) async fn skip_replayed(&mut self, key: Key) -> Result<(), MqttError> {
        tracing::error!(seq = key.0, part = key.1, "a replayed message was given up");
        let page = self.delivery.replay_page(None, 1).await?;
        match page {
            Some(page) => self.delivery.replayed(page.number, Some(key)).await,
            None => Ok(()),
        }
    }
}
