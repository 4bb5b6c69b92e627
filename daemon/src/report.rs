//! What leaves the box: one file for each topic of MQTT and for HTTP, whose types make the messages and their schemas,
//! and the id that a result is known by.
//!
//! The privacy gate: what is no field of a message here does not leave the box, and no field holds a file name or, beyond
//! what `privacy` lets out, a patient attribute or a DICOM UID.

pub mod result;
pub mod event;
pub mod state;
pub mod health;
pub mod info;
pub mod model;
pub mod request;
pub mod response;
pub mod http;
mod branch;
pub mod encode;
pub mod privacy;
pub mod schema;

use std::time::Duration;

use contract::LabelMap;
use segmenter::{Segmenter, Timing, decode};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use event::{SeriesFacts, VolumeOf};
pub use result::{Image, Model, Report, Ticket};

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
    pub instances: Vec<segmenter::result::Instance>,
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
