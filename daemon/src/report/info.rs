//! `info`: what the node is and takes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::result::{self, Model};
use crate::config::{Level, Verb, Version};

pub const SCHEMA: &str = "info/1";

/// What `<base>/v1/<node>/info` carries, retained: what the node is and takes. Later versions of /1 only add fields; ignore
/// those you do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Scanside info", extend("$id" = SCHEMA))]
pub struct Info<'a> {
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// Of scansided.
    pub version: &'static str,
    #[schemars(extend("const" = result::SCHEMA))]
    pub result_schema: &'static str,
    pub node: &'a str,
    pub boot: Uuid,
    /// What serves in the slot of `[model]`.
    pub model: Model,
    /// What serves, by slot.
    pub models: BTreeMap<String, Model>,
    /// Names that results may carry.
    pub sources: Vec<&'a str>,
    pub formats: &'static [&'static str],
    /// The MQTT that the broker is spoken to in.
    pub protocol: Version,
    /// What that MQTT has not: `refusal_reasons` (what the broker refuses it may drop without a word), `unheard_messages`,
    /// `packet_limit`, `receive_maximum`, `replayed_property`, `response_topic`, `correlation_data`, `request_expiry`;
    /// empty with MQTT 5.
    pub missing: &'static [&'static str],
    pub requests: &'a [Verb],
    /// What `seq` counts in: another `id` is another one, which began at 1.
    pub state_directory: Option<&'a Identity>,
    pub identifiers: Level,
    pub limits: Limits,
}

/// Of a state directory. One that an earlier version made does not know when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    pub id: Uuid,
    /// Null where an earlier version made it.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: Option<String>,
    /// Who works with it, once somebody did.
    pub node: Option<String>,
    /// Whose it was until `renamed_at`.
    pub node_before: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    pub renamed_at: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Limits {
    /// Above it the masks of a result travel apart.
    pub inline_max_bytes: usize,
    pub frame_max_pixels: u64,
    pub frames_max: u32,
    pub image_max_bytes: u64,
    pub request_max_bytes: u64,
}
