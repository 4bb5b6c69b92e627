use serde::{Deserialize, Serialize};

use super::{Problem, at_least};

/// How much of what the broker acknowledged is kept for a replay.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Results {
    /// 0 keeps nothing.
    pub keep_days: u32,
    /// Of topics and payloads together.
    pub max_bytes: u64,
    /// Replays that wait for their turn or are under way.
    pub replays_max: u64,
}

impl Default for Results {
    fn default() -> Self {
        Self {
            keep_days: 7,
            max_bytes: 256 * 1024 * 1024,
            replays_max: 8,
        }
    }
}

impl Results {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        at_least("results.max_bytes", self.max_bytes, 1)?;
        at_least("results.replays_max", self.replays_max, 1)
    }
}
