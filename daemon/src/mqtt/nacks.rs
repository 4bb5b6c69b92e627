//! The negative acknowledgements of one connection, without any I/O: each topic is logged once, and after a
//! while the refused rows are sent again.
//!
//! No list of them is kept. A row behind the cursor that is still in the outbox and not in flight was
//! refused, so a second cursor from the head finds them all.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::outbox::Key;

#[derive(Debug)]
pub(super) struct Nacks {
    period: Duration,
    logged: HashSet<String>,
    due: Option<Instant>,
    retry_pass: Option<RetryPass>,
}

/// One pass over the rows behind the cursor, which sends the refused ones again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RetryPass {
    pub(super) after: Option<Key>,
    pub(super) until: Key,
}

impl Nacks {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            logged: HashSet::new(),
            due: None,
            retry_pass: None,
        }
    }

    /// True when this topic was not logged before.
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
        self.logged.insert(rule.to_owned())
    }

    /// The pass under way, or one that begins now. `cursor`: the row that was handed over last.
    pub(super) fn retry_pass(&mut self, cursor: Option<Key>, now: Instant) -> Option<RetryPass> {
        if self.retry_pass.is_none() && self.due.is_some_and(|due| now >= due) {
            self.due = None;
            self.retry_pass = cursor.map(|until| RetryPass { after: None, until });
        }
        self.retry_pass
    }

    /// How far the pass came; `None` when it is done.
    pub(super) fn set_retry_pass(&mut self, retry_pass: Option<RetryPass>) {
        self.retry_pass = retry_pass;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_said_once() {
        let now = Instant::now();
        let mut nacks = Nacks::new(Duration::from_secs(30));
        for (topic, logged) in [
            ("event", true),
            ("event", false),
            ("result/a", true),
            ("result/b", true),
            ("mask/x/1", true),
            ("mask/y/1", false),
        ] {
            assert_eq!(nacks.refused(topic, true, now), logged, "{topic}");
        }
    }

    #[test]
    fn a_retry_pass_begins_after_the_period_and_goes_to_the_cursor() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut nacks = Nacks::new(Duration::from_secs(30));
        let cursor = Some((9, 0));
        assert_eq!(
            nacks.retry_pass(cursor, at(100)),
            None,
            "nothing was refused"
        );
        nacks.refused("state", false, at(100));
        assert_eq!(
            nacks.retry_pass(cursor, at(200)),
            None,
            "presence has no row"
        );
        nacks.refused("event", true, at(200));
        nacks.refused("event", true, at(210));
        assert_eq!(nacks.retry_pass(cursor, at(229)), None);
        let mut retry_pass = RetryPass {
            after: None,
            until: (9, 0),
        };
        assert_eq!(nacks.retry_pass(cursor, at(230)), Some(retry_pass));
        retry_pass.after = Some((4, 0));
        nacks.set_retry_pass(Some(retry_pass));
        assert_eq!(nacks.retry_pass(Some((12, 0)), at(231)), Some(retry_pass));
        nacks.refused("event", true, at(231));
        nacks.set_retry_pass(None);
        assert_eq!(nacks.retry_pass(Some((12, 0)), at(260)), None);
        assert!(nacks.retry_pass(Some((12, 0)), at(261)).is_some());
    }
}
