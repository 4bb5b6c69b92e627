//! How long the broker has owed a PUBACK. The time that this program spent on work of its own, on a flush to a
//! slow disk for example, does not count.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct AckTimer {
    ack_timeout: Duration,
    since: Instant,
}

/// The timeout doubles after each one that expires in a row, up to eight times: the first message may be too large
/// for a slow link, and given up at the same point every time it would hold back all others for ever.
pub(super) fn ack_timeout(ack_timeout_ms: u64, ack_timeouts: u32) -> Duration {
    Duration::from_millis(ack_timeout_ms) * (1 << ack_timeouts.min(3))
}

impl AckTimer {
    pub(super) fn new(ack_timeout: Duration, now: Instant) -> Self {
        Self {
            ack_timeout,
            since: now,
        }
    }

    /// The broker acknowledged something, or the first message went out.
    pub(super) fn restart(&mut self, now: Instant) {
        self.since = now;
    }

    /// This program read nothing from `began` to `now`.
    pub(super) fn exclude(&mut self, began: Instant, now: Instant) {
        self.since = now.min(self.since + (now - began));
    }

    pub(super) fn has_expired(&self, now: Instant) -> bool {
        now - self.since > self.ack_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ack_timeout_doubles_up_to_eight_times() {
        for (ack_timeouts, expected_s) in [(0, 10), (1, 20), (2, 40), (3, 80), (4, 80), (99, 80)] {
            let expected = Duration::from_secs(expected_s);
            assert_eq!(
                ack_timeout(10_000, ack_timeouts),
                expected,
                "{ack_timeouts}"
            );
        }
    }

    #[test]
    fn own_work_does_not_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timer = AckTimer::new(Duration::from_secs(10), start);
        assert!(!timer.has_expired(at(10_000)));
        assert!(timer.has_expired(at(10_001)));
        // A flush that took 30 s, during which an answer came that is read only afterwards.
        timer.exclude(at(1000), at(31_000));
        assert!(!timer.has_expired(at(40_000)), "9 s of its own");
        assert!(timer.has_expired(at(40_001)));
        timer.restart(at(40_001));
        assert!(!timer.has_expired(at(50_001)));
        // An answer within the work.
        timer.restart(at(60_000));
        timer.exclude(at(55_000), at(61_000));
        assert!(!timer.has_expired(at(71_000)));
        assert!(timer.has_expired(at(71_001)), "never in the future");
    }
}
