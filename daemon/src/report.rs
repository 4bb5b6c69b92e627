//! What leaves the box of an image or of a series, as plain data, and the id that a result is known by.
//!
//! The privacy gate: what is no field of a message here or in `encode` does not leave the box, and no field holds a
//! file name or, beyond what `privacy` lets out, a patient attribute or a DICOM UID.

pub mod encode;
pub mod privacy;
pub mod schema;

use std::collections::BTreeMap;
use std::time::Duration;

use contract::LabelMap;
use segmenter::decode::SpacingFrom;
use segmenter::result::Instance;
use segmenter::seg::Volume;
use segmenter::{Segmenter, Timing, decode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::report::privacy::Identifiers;

/// Number of an acceptance on this box: two copies of one file have two tickets and one job id.
pub type Ticket = u64;

/// Topic below the node's root, and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
}

impl Message {
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// What was found in one file.
#[derive(Debug)]
pub struct Findings {
    pub image: Image,
    /// Of the patient, and not for everybody: see `privacy`.
    pub identifiers: decode::Identifiers,
    pub sha256: String,
    pub instances: Vec<Instance>,
    pub warnings: Vec<String>,
    pub decode: Duration,
    /// Summed over frames.
    pub timing: Timing,
    /// Label maps to instances.
    pub encode: Duration,
    /// Decoded frames and their label maps, for overlays.
    pub frames: Vec<contract::Image>,
    pub labels: Vec<LabelMap>,
}

/// One image's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub job_id: Uuid,
    /// On this box; copies of an image have one each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Ticket>,
    pub seq: u64,
    pub node: String,
    pub boot: Uuid,
    pub received_at: String,
    pub finished_at: String,
    pub source: String,
    pub image: Image,
    pub model: Model,
    pub timing_ms: TimingMs,
    pub instances: Vec<Entry>,
    /// Where the masks are when they are not inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<Masks>,
    pub warnings: Vec<String>,
    pub replay: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Of the input file.
    pub sha256: String,
    pub rows: usize,
    pub cols: usize,
    pub frames: usize,
    /// Between rows, between columns; none where frames differ.
    pub spacing_mm: Option<[f64; 2]>,
    /// Of each frame, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacings_mm: Option<Vec<Option<[f64; 2]>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacing_from: Option<SpacingFrom>,
    pub modality: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifiers: Option<Identifiers>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    pub version: String,
    pub digest: String,
    pub precision: contract::manifest::Precision,
    /// What f32 was multiplied as, "f16" or "bf16".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_precision: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimingMs {
    /// From acceptance to the inference thread.
    pub wait: f64,
    pub decode: f64,
    pub preprocess: f64,
    pub infer: f64,
    pub postprocess: f64,
    /// Masks to run lengths, areas and boxes.
    pub encode: f64,
}

/// An instance with its mask inline, or without when the masks travel apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    Inline(Instance),
    Bare(BareInstance),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BareInstance {
    pub id: u8,
    pub label: String,
    pub frame: usize,
    pub bbox: contract::mask::BoundingBox,
    pub area_px: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_mm2: Option<f64>,
}

/// Joined payloads of `<topic>/1` to `<topic>/<parts>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masks {
    /// Below the node's root.
    pub topic: String,
    pub parts: usize,
    pub bytes: usize,
    pub sha256: String,
}

/// What is said of a series whose segmentation was made. No UID: `series` follows from the jobs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeriesFacts {
    pub series: Uuid,
    pub source: String,
    pub images: usize,
    pub model: Model,
    /// Of every class, where the planes tell.
    pub volumes: Vec<Volume>,
    pub warnings: Vec<String>,
    /// How many images some of the warnings are about.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub warned_images: BTreeMap<String, usize>,
    /// Which volume of the series this is, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeOf>,
    /// Segmentations of before that this one and those said with it take the place of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<Uuid>,
    /// Of the images; empty where they would make the message too large.
    pub jobs: Vec<Uuid>,
}

/// One of the volumes of a series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumeOf {
    /// From 1.
    pub number: usize,
    pub of: usize,
    /// Keywords of the attributes that set it apart, with its values.
    pub by: BTreeMap<String, String>,
}

impl From<&Segmenter> for Model {
    fn from(segmenter: &Segmenter) -> Self {
        let manifest = segmenter.manifest();
        Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: manifest.digest.clone(),
            precision: manifest.precision,
            half_precision: segmenter.half_precision().map(str::to_owned),
        }
    }
}

/// Version of everything besides input and model that shapes a result.
const PARAMETERS: &str = "result/1";

/// Function of input bytes, model, parameters and what f32 is multiplied as: copies of a result carry the same id.
pub fn job_id(input_sha256: &str, model: &Model) -> Uuid {
    let half_precision = model.half_precision.as_ref();
    let half_precision = half_precision.map_or(String::new(), |format| format!("\n{format}"));
    let name = format!(
        "{input_sha256}\n{}\n{PARAMETERS}{half_precision}",
        model.digest
    );
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_depends_on_input_and_model_only() {
        let model = |digest: &str, half: Option<&str>| Model {
            name: "lv".into(),
            version: "1.0.0".into(),
            digest: digest.into(),
            precision: contract::manifest::Precision::Int8,
            half_precision: half.map(str::to_owned),
        };
        let id = job_id(&sha256(b"pixels"), &model("model", None));
        // What others have stored must be found again.
        assert_eq!(id.to_string(), "6506926c-f7bf-5395-a4f0-6a4df201475f");
        assert_ne!(id, job_id(&sha256(b"pixel"), &model("model", None)));
        assert_ne!(id, job_id(&sha256(b"pixels"), &model("other", None)));
        assert_ne!(id, job_id(&sha256(b"pixels"), &model("model", Some("f16"))));
        assert_eq!(id.get_version_num(), 5);
    }
}
