//! Waiting times between connections: doubled up to a limit, with jitter so that boxes behind one
//! broker do not come back together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(least_ms: u64, most_ms: u64) -> Self {
        let least = Duration::from_millis(least_ms);
        Self {
            least,
            most: Duration::from_millis(most_ms),
            next: least,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.least;
    }

    /// Half of the time plus a random part of the other half.
    pub(crate) fn wait(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.most);
        // Each RandomState has other keys; no random number crate for one number.
        let random = RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64;
        full.mul_f64(0.5 + 0.5 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let mut backoff = Backoff::new(500, 30_000);
        for full_ms in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            let wait = backoff.wait();
            let full = Duration::from_millis(full_ms);
            assert!(wait >= full / 2 && wait <= full, "{wait:?} for {full:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(500));
    }
}
