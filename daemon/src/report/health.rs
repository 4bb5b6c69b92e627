//! `health`: figures of the node, again and again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::Readiness;

pub const SCHEMA: &str = "health/1";

/// What `<base>/v1/<node>/health` carries every `mqtt.health_interval_s`, at most once and not retained. Later versions of
/// /1 only add fields; ignore those you do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Scanside health", extend("$id" = SCHEMA))]
pub struct Health {
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    pub state: Readiness,
    pub uptime_s: u64,
    pub resident_bytes: Option<u64>,
    /// Since the state directory was made: received = published + pending + quarantined + rejected + dropped.
    pub ledger: Ledger,
    /// What a replay can bring.
    pub results_kept: Option<Kept>,
    #[schemars(extend("format" = "date-time"))]
    pub oldest_pending_at: Option<String>,
    pub since_start: SinceStart,
    /// To the broker.
    #[schemars(extend("format" = "date-time"))]
    pub connected_since: String,
    /// On their way to a PACS; null where none are sent.
    pub segmentations: Option<Segmentations>,
    pub disk_free_bytes: Option<u64>,
}

/// Counted since the state directory was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ledger {
    /// Inputs taken, and inputs refused at the door.
    pub received: u64,
    pub published: u64,
    /// Accepted, in hand, or waiting for the broker.
    pub pending: u64,
    /// In quarantine, after they were accepted.
    pub quarantined: u64,
    /// Refused at the door.
    pub rejected: u64,
    /// Taken out of quarantine for good, by hand or by `quarantine.keep_days` and `max_bytes`.
    pub dropped: u64,
    /// Messages in the outbox: results, masks and events.
    pub messages: u64,
}

/// What can be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    #[schemars(range(min = 1))]
    pub first_seq: u64,
    #[schemars(range(min = 1))]
    pub last_seq: u64,
    /// Of topics and payloads.
    pub bytes: u64,
}

/// Values of the counters since the start.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct SinceStart {
    /// Results and events.
    pub acknowledged: u64,
    /// Of these, what no client was subscribed to.
    #[serde(rename = "unheard")]
    pub no_subscribers: u64,
    pub quarantined: u64,
    /// To the broker.
    pub connects: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segmentations {
    pub waiting: u64,
    pub waiting_bytes: u64,
    /// Since the oldest that waits was made; 0 without one.
    pub oldest_waiting_s: u64,
    /// What the PACS refused; it lies aside.
    pub refused: u64,
}
