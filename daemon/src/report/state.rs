//! `state`: how the node is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

pub const SCHEMA: &str = "state/1";

/// What `<base>/v1/<node>/state` carries, retained: how the node is. Published at every connection and when it changes.
/// Later versions of /1 only add fields; ignore those you do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Scanside state", extend("$id" = SCHEMA))]
pub struct State {
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// Start of the daemon.
    pub session: Uuid,
    pub state: Readiness,
    /// Why it is not simply ready, e.g. `disk_low`, or `segmentations_waiting` for a PACS that takes none.
    pub reasons: Vec<&'static str>,
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// Images accepted and not yet acknowledged.
    pub pending: u64,
    pub disk_free_bytes: Option<u64>,
    /// Digest of what serves in the slot of `[model]`.
    pub model: String,
    /// Digest of what serves, by slot.
    pub models: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    Ready,
    Degraded,
    Draining,
    Error,
}
