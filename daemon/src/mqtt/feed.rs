//! From the outbox into the window: fresh rows first, refused ones with what room is left, then what is
//! asked for again.

use tokio::time::Instant;

use super::connection::Kind;
use super::nacks::Round;
use super::replay::{self, Again, NOTE_INTERVAL, PROPERTY_BYTES};
use super::session::{Sent, Session};
use super::window::{Item, Letter};
use super::{MqttError, Publisher};
use crate::outbox::{Key, Message, Queued};

/// PUBLISH beside topic and payload: fixed header (at most 5), topic length, packet id, no properties.
const PACKET_OVERHEAD_BYTES: usize = 5 + 2 + 2 + 1;

/// How a walk over the outbox ended.
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
            && let Some(round) = session.refusals.round(session.cursor, Instant::now())
        {
            let again = self.walk(session, round.after, Some(round.until)).await?;
            let rest = (!again.finished).then_some(Round {
                after: again.cursor,
                ..round
            });
            session.refusals.set_round(rest);
        }
        if fresh.finished && !session.draining {
            self.send_again(session).await?;
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
            let rows = self.letters.next(cursor, limit).await?;
            let exhausted = rows.len() < limit;
            let mut rows = rows.into_iter().peekable();
            while let Some(row) = rows.next() {
                let key = row.key;
                if until.is_some_and(|until| key > until) {
                    return ended(cursor, true);
                }
                if self.window.holds(Letter::Fresh(key)) {
                    cursor = Some(key);
                    continue;
                }
                if !self.window.admits(Letter::Fresh(key)) {
                    return ended(cursor, false);
                }
                // Parts beyond this batch count too: a row at its end may have some.
                let more = rows.peek().is_none_or(|next| next.key.0 == key.0);
                if self.largest_bytes(&row, more).await? > session.packet_max_bytes {
                    let overhead = self.packet_bytes(row.message.topic.len());
                    let room = session.packet_max_bytes.saturating_sub(overhead);
                    self.letters.too_large(row, room).await?;
                    // The place now holds other messages or none.
                    return ended(cursor, false);
                }
                if !self.send_letter(session, Letter::Fresh(key), row.message) {
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
        let largest = if more && row.key.1 == 0 && row.ticket.is_some() {
            self.letters.largest_bytes(row.key.0).await?.max(own)
        } else {
            own
        };
        Ok(self.packet_bytes(largest))
    }

    pub(super) fn send_letter(
        &mut self,
        session: &mut Session,
        letter: Letter,
        message: Message,
    ) -> bool {
        let sent = Sent {
            at: Instant::now(),
            topic: message.topic.clone(),
        };
        let handed = self.send(session, Item::Durable(letter), message);
        if handed {
            session.sent.insert(letter, sent);
        }
        handed
    }

    pub(super) fn send(&mut self, session: &mut Session, item: Item, message: Message) -> bool {
        if self.window.is_empty() {
            session.silence.broken(Instant::now());
        }
        let topic = self.topic(&message.topic);
        let kind = match item {
            Item::Durable(Letter::Fresh(_)) => Kind::Message,
            Item::Durable(Letter::Again(_)) => Kind::Replayed,
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

    pub(super) async fn send_again(&mut self, session: &mut Session) -> Result<(), MqttError> {
        let share = (self.config.mqtt.window_max_messages / 2).max(1);
        while session.again.wanted && !session.again.exhausted && self.window.has_room() {
            let again = &mut session.again;
            let room = share.saturating_sub(again.flying.len());
            if room == 0 {
                return Ok(());
            }
            let at = again.number.map(|number| (number, again.cursor));
            let Some(page) = self.letters.again(at, room).await? else {
                again.wanted = false;
                return Ok(());
            };
            if again.number != Some(page.number) {
                *again = Again::new(Instant::now());
                again.number = Some(page.number);
            }
            for (key, message) in page.messages {
                let letter = Letter::Again(key);
                let message = replay::marked(message);
                let bytes = self.packet_bytes(message.bytes()) + PROPERTY_BYTES;
                if bytes > session.packet_max_bytes {
                    session.again.too_large += 1;
                } else if !self.window.admits(letter) || !self.send_letter(session, letter, message)
                {
                    return Ok(());
                } else {
                    session.again.flying.insert(key);
                    session.again.sent += 1;
                }
                session.again.cursor = Some(key);
            }
            session.again.cursor = page.cursor;
            session.again.exhausted = page.finished;
            self.note_replay(session).await?;
        }
        Ok(())
    }

    /// Tells the outbox how far the replay came, now and then and at its end.
    pub(super) async fn note_replay(&mut self, session: &mut Session) -> Result<(), MqttError> {
        let again = &mut session.again;
        let Some(number) = again.number else {
            return Ok(());
        };
        if again.is_over() {
            self.letters.replayed(number, None).await?;
            let (messages, too_large) = (again.sent, again.too_large);
            tracing::info!(replay = number, messages, too_large, "replay finished");
            *again = Again::new(Instant::now());
        } else if again.moved && again.noted_at.elapsed() > NOTE_INTERVAL {
            self.letters.replayed(number, again.done()).await?;
            again.moved = false;
            again.noted_at = Instant::now();
        }
        Ok(())
    }

    /// The connection breaks on this message: the replay goes on behind it.
    pub(super) async fn skip_replayed(&mut self, key: Key) -> Result<(), MqttError> {
        tracing::error!(seq = key.0, part = key.1, "a replayed message was given up");
        let page = self.letters.again(None, 1).await?;
        match page {
            Some(page) => self.letters.replayed(page.number, Some(key)).await,
            None => Ok(()),
        }
    }
}
