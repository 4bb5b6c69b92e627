//! What the broker refused on one connection, without any I/O: each topic is said once, and after a
//! while the refused rows are sent again.
//!
//! No list of them is kept. A row behind the cursor that is still in the outbox and not in flight was
//! refused, so a second cursor from the head finds them all.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::outbox::Key;

#[derive(Debug)]
pub(super) struct Refusals {
    period: Duration,
    said: HashSet<String>,
    due: Option<Instant>,
    round: Option<Round>,
}

/// One walk over the rows behind the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) after: Option<Key>,
    pub(super) until: Key,
}

impl Refusals {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            said: HashSet::new(),
            due: None,
            round: None,
        }
    }

    /// True when nobody was told about this topic yet.
    pub(super) fn refused(&mut self, topic: &str, durable: bool, now: Instant) -> bool {
        if durable {
            self.due.get_or_insert(now + self.period);
        }
        // Every mask has a topic of its own, and one rule allows them all.
        let rule = if topic.starts_with("mask/") {
            "mask/"
        } else {
            topic
        };
        self.said.insert(rule.to_owned())
    }

    /// The round under way, or one that begins now. `cursor`: last row handed over.
    pub(super) fn round(&mut self, cursor: Option<Key>, now: Instant) -> Option<Round> {
        if self.round.is_none() && self.due.is_some_and(|due| now >= due) {
            self.due = None;
            self.round = cursor.map(|until| Round { after: None, until });
        }
        self.round
    }

    /// How far it came; none when it is done.
    pub(super) fn set_round(&mut self, round: Option<Round>) {
        self.round = round;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_said_once() {
        let now = Instant::now();
        let mut refusals = Refusals::new(Duration::from_secs(30));
        for (topic, said) in [
            ("event", true),
            ("event", false),
            ("result/a", true),
            ("result/b", true),
            ("mask/x/1", true),
            ("mask/y/1", false),
        ] {
            assert_eq!(refusals.refused(topic, true, now), said, "{topic}");
        }
    }

    #[test]
    fn a_round_begins_after_the_period_and_goes_to_the_cursor() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut refusals = Refusals::new(Duration::from_secs(30));
        let cursor = Some((9, 0));
        assert_eq!(refusals.round(cursor, at(100)), None, "nothing was refused");
        refusals.refused("state", false, at(100));
        assert_eq!(refusals.round(cursor, at(200)), None, "presence has no row");
        refusals.refused("event", true, at(200));
        refusals.refused("event", true, at(210));
        assert_eq!(refusals.round(cursor, at(229)), None);
        let mut round = Round {
            after: None,
            until: (9, 0),
        };
        assert_eq!(refusals.round(cursor, at(230)), Some(round));
        round.after = Some((4, 0));
        refusals.set_round(Some(round));
        assert_eq!(refusals.round(Some((12, 0)), at(231)), Some(round));
        refusals.refused("event", true, at(231));
        refusals.set_round(None);
        assert_eq!(refusals.round(Some((12, 0)), at(260)), None);
        assert!(refusals.round(Some((12, 0)), at(261)).is_some());
    }
}
