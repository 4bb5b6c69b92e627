//! `request/replay`: the one request that is JSON; `request/segment` has the bytes of an image.

use schemars::JsonSchema;
use serde::Deserialize;

pub const SCHEMA: &str = "replay-request/1";

/// Payload of `<base>/v1/<node>/request/replay`. Another field is an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Scanside replay request", extend("$id" = SCHEMA))]
pub struct ReplayRequest {
    /// Comes back in the response; at most 200 bytes.
    pub id: Option<String>,
    /// The first missing number.
    pub from_seq: u64,
    /// The last one; without it the last that is kept.
    pub to_seq: Option<u64>,
    /// Results of this source and events about it; without it everything.
    pub source: Option<String>,
}
