use serde::{Deserialize, Serialize};

use super::{Problem, at_least};

/// How much is kept in quarantine; beyond it the oldest files are dropped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quarantine {
    pub keep_days: u32,
    /// Of all files together.
    pub max_bytes: u64,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            keep_days: 30,
            max_bytes: 2 * 1024 * 1024 * 1024,
        }
    }
}

impl Quarantine {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        at_least("quarantine.keep_days", self.keep_days.into(), 1)?;
        at_least("quarantine.max_bytes", self.max_bytes, 1)
    }
}
