//! `model/<slot>`: what serves in a slot.

use contract::manifest::Precision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const SCHEMA: &str = "model/1";

/// What `<base>/v1/<node>/model/<slot>` carries, retained: what serves in a slot. Published at every connection and when it
/// changes. Later versions of /1 only add fields; ignore those you do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Scanside model", extend("$id" = SCHEMA))]
pub struct SlotModel {
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    pub slot: String,
    pub name: String,
    pub version: String,
    /// Hex SHA-256 of the bundle's manifest.
    pub digest: String,
    pub precision: Precision,
    /// What f32 was multiplied as, `f16` or `bf16`; null where it is f32.
    pub half_precision: Option<String>,
    pub counter: u64,
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// The bundle that the configuration names, not an installed one.
    pub configured: bool,
    /// What served before.
    pub previous: Option<Deployment>,
    /// The newest installed version that does not serve.
    pub candidate: Option<Version>,
    pub highest_counter: Option<u64>,
    /// The version that should serve does not open.
    pub fell_back: bool,
    /// What was refused last, or does not open.
    pub problem: Option<Problem>,
    /// How far the candidate's masks differ, where `models.shadow` compares.
    pub shadow: Option<Comparison>,
}

/// A bundle that serves, served or may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    pub name: String,
    pub version: String,
    pub counter: u64,
    pub digest: String,
    /// The bundle that the configuration names, not an installed one.
    pub configured: bool,
}

/// A version and since when it has its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deployment {
    #[serde(flatten)]
    pub version: Version,
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Problem {
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    pub words: String,
}

/// Figures of the shadow run since the active model or the candidate changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Comparison {
    /// Of the candidate.
    pub digest: String,
    pub images: u64,
    /// The queue had no room for them.
    pub skipped: u64,
    pub failed: u64,
    /// Of each class that both models have.
    pub dice: Vec<ClassDice>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ClassDice {
    pub label: String,
    /// Images in which one of the two found it.
    pub images: u64,
    pub mean: f64,
    pub least: f64,
}
