//! Results that subscribers ask for again, one replay after the other: only while no fresh message waits, and in at
//! most half of the window, so that fresh messages find room.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::REPLAYED;
use crate::outbox::{Key, Message};

/// A message that comes twice is harmless, a flush for each is not.
pub(super) const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// User properties of a replayed PUBLISH: identifier and two lengths beside the words.
pub(super) const PROPERTY_BYTES: usize = 1 + 2 + REPLAYED.0.len() + 2 + REPLAYED.1.len();

/// The present replay, as far as this connection has sent it.
#[derive(Debug)]
pub(super) struct ReplayProgress {
    /// The outbox may have a replay.
    pub(super) wanted: bool,
    pub(super) number: Option<u64>,
    /// Last message handed over or passed.
    pub(super) cursor: Option<Key>,
    /// Handed over and not acknowledged.
    pub(super) in_flight: BTreeSet<Key>,
    /// Nothing is left to hand over.
    pub(super) exhausted: bool,
    /// Acknowledgements have come since the outbox was told how far the replay is.
    pub(super) moved: bool,
    pub(super) noted_at: Instant,
    pub(super) sent: u64,
    pub(super) too_large: u64,
}

impl ReplayProgress {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wanted: true,
            number: None,
            cursor: None,
            in_flight: BTreeSet::new(),
            exhausted: false,
            moved: false,
            noted_at: now,
            sent: 0,
            too_large: 0,
        }
    }

    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// The broker has acknowledged or refused this message.
    pub(super) fn acked(&mut self, key: Key) {
        self.in_flight.remove(&key);
        self.moved = true;
    }

    /// Everything up to this key was acknowledged.
    pub(super) fn done(&self) -> Option<Key> {
        self.in_flight.first().copied().map(before).or(self.cursor)
    }

    pub(super) fn is_over(&self) -> bool {
        self.exhausted && self.in_flight.is_empty()
    }
}

/// The largest key below; numbers begin at 1.
fn before((seq, part): Key) -> Key {
    match part.checked_sub(1) {
        Some(part) => (seq, part),
        None => (seq - 1, u32::MAX),
    }
}

/// Says `"replay": true` in a result or an event, for clients that see no user properties; a part of the masks
/// is no object and stays as it was.
pub(super) fn marked(mut message: Message) -> Message {
    const FRESH: &[u8] = br#""replay":false"#;
    const MARK: &[u8] = br#""replay":true"#;
    let payload = &mut message.payload;
    // A key of an object: within a string its quotes would be escaped.
    if let Some(at) = payload.windows(FRESH.len()).rposition(|key| key == FRESH) {
        payload.splice(at..at + FRESH.len(), MARK.iter().copied());
    } else if message.topic == "event" && payload.pop_if(|last| *last == b'}').is_some() {
        payload.push(b',');
        payload.extend(MARK);
        payload.push(b'}');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_says_so_itself() {
        let said = |topic: &str, payload: &str| {
            let message = marked(Message {
                topic: topic.into(),
                payload: payload.into(),
            });
            String::from_utf8(message.payload).unwrap()
        };
        let label = r#""label":"\"replay\":false""#;
        let result = format!(r#"{{{label},"replay":false}}"#);
        let marked = format!(r#"{{{label},"replay":true}}"#);
        assert_eq!(said("result/inbox", &result), marked);
        let event = said("event", r#"{"event":"series","seq":4}"#);
        assert_eq!(event, r#"{"event":"series","seq":4,"replay":true}"#);
        let part = r#"[{"id":1}"#;
        assert_eq!(said("mask/7/1", part), part);
    }

    #[test]
    fn done_is_what_nothing_in_flight_lies_before() {
        let mut progress = ReplayProgress::new(Instant::now());
        assert_eq!(progress.done(), None);
        progress.in_flight = BTreeSet::from([(2, 0), (2, 1), (3, 0)]);
        progress.cursor = Some((3, 0));
        progress.acked((2, 1));
        assert_eq!(progress.done(), Some((1, u32::MAX)));
        progress.acked((2, 0));
        assert_eq!(progress.done(), Some((2, u32::MAX)));
        progress.exhausted = true;
        assert!(!progress.is_over());
        progress.acked((3, 0));
        assert_eq!(progress.done(), Some((3, 0)));
        assert!(progress.is_over());
        assert_eq!(before((3, 2)), (3, 1));
    }
}
