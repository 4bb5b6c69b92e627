//! How long the broker has owed an answer. Time that this program spent on its own work, a flush to a
//! slow disk for one, is not the broker's silence.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Silence {
    patience: Duration,
    since: Instant,
}

/// Twice as long after each silence in a row, up to eight times: the message at the head may be too
/// large for the line, and given up every time at the same point it would hold back the rest for ever.
pub(super) fn patience(ack_timeout_ms: u64, silences: u32) -> Duration {
    Duration::from_millis(ack_timeout_ms) * (1 << silences.min(3))
}

impl Silence {
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self {
            patience,
            since: now,
        }
    }

    /// The broker answered, or was asked for the first time.
    pub(super) fn broken(&mut self, now: Instant) {
        self.since = now;
    }

    /// This program looked away from `began` to `now`.
    pub(super) fn worked(&mut self, began: Instant, now: Instant) {
        self.since = now.min(self.since + (now - began));
    }

    pub(super) fn is_too_long(&self, now: Instant) -> bool {
        now - self.since > self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_doubles_up_to_eight_times() {
        for (silences, expected_s) in [(0, 10), (1, 20), (2, 40), (3, 80), (4, 80), (99, 80)] {
            let expected = Duration::from_secs(expected_s);
            assert_eq!(patience(10_000, silences), expected, "{silences}");
        }
    }

    #[test]
    fn own_work_is_no_silence() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::new(Duration::from_secs(10), start);
        assert!(!silence.is_too_long(at(10_000)));
        assert!(silence.is_too_long(at(10_001)));
        // A flush that took 30 s, during which an answer came that is read only afterwards.
        silence.worked(at(1000), at(31_000));
        assert!(!silence.is_too_long(at(40_000)), "9 s of its own");
        assert!(silence.is_too_long(at(40_001)));
        silence.broken(at(40_001));
        assert!(!silence.is_too_long(at(50_001)));
        // An answer within the work.
        silence.broken(at(60_000));
        silence.worked(at(55_000), at(61_000));
        assert!(!silence.is_too_long(at(71_000)));
        assert!(silence.is_too_long(at(71_001)), "never in the future");
    }
}
