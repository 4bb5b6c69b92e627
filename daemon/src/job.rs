//! One accepted image on its way through the box.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::encode::Model;
use crate::failure::Reason;

/// Number of an acceptance on this box: two copies of one file have two tickets and one job id.
pub type Ticket = u64;

/// A row of the outbox's job table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Name of the source it came from.
    pub source: String,
    /// File name below `accepted/<source>/`.
    pub file: String,
    pub received_at: String,
    /// How often the inference thread took it up.
    pub attempts: u32,
    pub state: State,
}

/// What an input is, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub bytes: u64,
    pub sha256: String,
}

impl Input {
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            sha256: sha256(bytes),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Accepted,
    /// In the hands of the process with this boot id. A lease of another boot is free.
    Leased {
        boot: Uuid,
    },
    /// Its messages are in the outbox under `seq`.
    Inferred {
        seq: u64,
    },
    /// Every message is acknowledged; the input waits for its removal.
    Published,
    /// The input waits for its way into quarantine.
    Quarantined {
        reason: Reason,
    },
    /// Taken out of quarantine for good; the input waits for its removal.
    Dropped,
}

impl State {
    /// Counts as pending in the ledger.
    pub fn is_pending(&self) -> bool {
        matches!(
            self,
            Self::Accepted | Self::Leased { .. } | Self::Inferred { .. }
        )
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

/// Fresh for every start of the process: kernel boot, process number and time.
pub fn boot_id() -> Uuid {
    // Absent outside Linux; process number and time are then enough on one machine.
    let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let name = format!(
        "{kernel}\n{}\n{:?}",
        std::process::id(),
        std::time::SystemTime::now()
    );
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
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
