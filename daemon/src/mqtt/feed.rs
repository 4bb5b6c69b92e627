//! From the outbox into the window: fresh rows first, refused ones with what room is left, then what is
//! asked for again.

use tokio::time::Instant;

use super::connection::Kind;
use super::refusals::Round;
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
}
