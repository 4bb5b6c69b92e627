use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What leaves the box of who an image is of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Privacy {
    pub identifiers: Level,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    None,
    /// Under a key that stays on the box.
    #[default]
    Hashed,
    /// As they stand in the file.
    Full,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Hashed => "hashed",
            Self::Full => "full",
        })
    }
}
