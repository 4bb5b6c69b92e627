//! Bodies of HTTP's answers; that of an error is also what `scansided segment` prints for a file without a result.

use schemars::JsonSchema;
use serde::Serialize;

use super::result::Ticket;
use super::state::Readiness;

pub const ACCEPTED_SCHEMA: &str = "accepted/1";
pub const ERROR_SCHEMA: &str = "error/1";

/// What `POST /v1/images` answers with 202: the image is on the disk. Later versions of /1 only add fields; ignore those
/// you do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Scanside accepted", extend("$id" = ACCEPTED_SCHEMA))]
pub struct Accepted<'a> {
    #[schemars(extend("const" = ACCEPTED_SCHEMA))]
    pub schema: &'static str,
    /// Its number on this box, for `scansided ledger show`.
    #[schemars(range(min = 1))]
    pub job: Ticket,
    /// Name that its result carries.
    pub source: &'a str,
    #[schemars(range(min = 1))]
    pub bytes: u64,
    /// Hex, over the body: `image.sha256` of its result.
    pub sha256: String,
}

/// What HTTP answers with a status from 400 on, and what `scansided segment` prints for a file that has no result.
/// HTTP keeps nothing of the image. Later versions of /1 only add fields; ignore those you do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Scanside error", extend("$id" = ERROR_SCHEMA))]
pub struct Error<'a> {
    #[schemars(extend("const" = ERROR_SCHEMA))]
    pub schema: &'static str,
    /// From `scansided segment`: the file as it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Stable, for programs.
    pub code: &'a str,
    /// What is wrong, for people.
    pub words: &'a str,
    /// What to do about it.
    pub remedy: &'a str,
}

/// Of `GET /healthz`.
#[derive(Debug, Serialize)]
pub struct Alive {
    pub alive: bool,
    pub image_in_hand_s: f64,
}

/// Of `GET /readyz`.
#[derive(Debug, Serialize)]
pub struct Ready {
    pub ready: bool,
    pub state: Readiness,
    pub reasons: Vec<&'static str>,
    /// Since when the broker is there or away, in a sentence.
    pub mqtt: String,
    /// What waits for the PACS, in a sentence; null where nothing is sent to one.
    pub segmentations: Option<String>,
}
