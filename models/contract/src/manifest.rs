//! `manifest.json` of a bundle: everything the daemon needs, nothing guessed from file names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::geometry::InputRules;

pub const SCHEMA: &str = "scanside-bundle/1";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    pub name: String,
    /// Semantic version of this bundle.
    pub version: String,
    /// Monotone counter: a daemon refuses a lower one than the last it accepted.
    pub counter: u64,
    pub kind: Kind,
    /// Foreground classes in ascending id order; id 0 is background and not listed.
    pub classes: Vec<Class>,
    pub input: InputRules,
    pub output: Output,
    pub precision: Precision,
    pub opset: i64,
    pub licence: String,
    /// File name in the bundle -> hex SHA-256.
    pub files: BTreeMap<String, String>,
    pub provenance: Provenance,
    /// Hex SHA-256 over this manifest's JSON with this field empty: finds a flipped byte.
    pub digest: String,
}

/// The graphs of a bundle and the tensors that matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// One graph: image (1, 3, size, size) f32 -> class logits (1, classes + 1, side, side) f32.
    Automatic { graph: String, input: String, output: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    pub id: u8,
    pub label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snomed: Option<String>,
    /// Overlay colour, sRGB.
    pub color: [u8; 3],
}

/// What the graph's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Side of the square logits, px.
    pub side: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    F32,
    Int8,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Command line that made the bundle.
    pub command: String,
    /// Hex SHA-256 of the resolved recipe.
    pub recipe_digest: String,
    /// Fingerprint of the training data.
    pub data_fingerprint: String,
    pub teacher: String,
    /// Measured foreground Dice: label of the row ("f32 tract test" ...) -> value.
    pub dice: BTreeMap<String, f64>,
    pub code_version: String,
}
