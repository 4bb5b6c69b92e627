//! `response/<verb>`: what came of a request.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::branch::only_with;
use super::health::Kept;
use super::result::Ticket;
use crate::config::Verb;

pub const SCHEMA: &str = "response/1";

/// Answer to one request, on `<base>/v1/<node>/response/<verb>` or at the request's MQTT 5 response topic, with the
/// request's correlation data. Later versions of /1 only add fields; ignore those you do not know. A request may be
/// answered twice.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(title = "Scanside response", extend("$id" = SCHEMA))]
pub struct Response {
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    pub verb: Verb,
    /// `id` of a replay, or the correlation data where it is text of at most 200 bytes.
    pub id: Option<String>,
    pub node: String,
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    pub status: Outcome,
    #[serde(flatten)]
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Error,
}

/// The fields that go with verb and status.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Answer {
    Replay(ReplaySummary),
    Segment(Taken),
    Refused(Refused),
}

/// What comes again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = only_replay)]
pub struct ReplaySummary {
    /// Results that come again.
    pub results: u64,
    /// These with their masks, and events.
    pub messages: u64,
    /// The first number that comes again.
    #[schemars(range(min = 1))]
    pub first_seq: Option<u64>,
    #[schemars(range(min = 1))]
    pub last_seq: Option<u64>,
    /// All that could come again; what is older is gone.
    pub kept: Option<Kept>,
}

/// An image that is on the disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(transform = only_segment)]
pub struct Taken {
    /// Its number on this box, for `scansided ledger show`.
    #[schemars(range(min = 1))]
    pub job: Ticket,
    /// The image as it was accepted.
    pub input: Input,
    /// Topic of its result, below the node's root.
    pub result: String,
}

/// What an input is, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    #[schemars(range(min = 1))]
    pub bytes: u64,
    /// Hex, over the payload of the request: `image.sha256` of its result.
    pub sha256: String,
}

/// Nothing was done.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(transform = only_refused)]
pub struct Refused {
    /// Stable, for programs.
    pub code: Code,
    /// What is wrong, for people.
    pub words: String,
    /// What to do about it.
    pub remedy: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    IdTooLong,
    Unreadable,
    Busy,
    Empty,
    TooLarge,
    DiskLow,
    QueueFull,
    /// Never sent: the request waits for the next start.
    #[schemars(skip)]
    Stopping,
}

impl Code {
    /// As it is written, for log and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::IdTooLong => "id_too_long",
            Self::Unreadable => "unreadable",
            Self::Busy => "busy",
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::DiskLow => "disk_low",
            Self::QueueFull => "queue_full",
            Self::Stopping => "stopping",
        }
    }
}

impl Response {
    /// What went wrong, if anything.
    pub fn code(&self) -> Option<Code> {
        match &self.answer {
            Answer::Refused(refused) => Some(refused.code),
            Answer::Replay(_) | Answer::Segment(_) => None,
        }
    }

    pub fn job(&self) -> Option<Ticket> {
        match &self.answer {
            Answer::Segment(taken) => Some(taken.job),
            Answer::Replay(_) | Answer::Refused(_) => None,
        }
    }
}

fn only_replay(schema: &mut Schema) {
    only_with(schema, "verb", &[Verb::Replay]);
    only_with(schema, "status", &[Outcome::Ok]);
}

fn only_segment(schema: &mut Schema) {
    only_with(schema, "verb", &[Verb::Segment]);
    only_with(schema, "status", &[Outcome::Ok]);
}

fn only_refused(schema: &mut Schema) {
    only_with(schema, "status", &[Outcome::Error]);
}
