//! One accepted image on its way through the box.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::failure::Reason;
use crate::report::sha256;

pub use crate::report::JobNumber;
pub use crate::report::response::Input;

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

impl Input {
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            sha256: sha256(bytes),
        }
    }

    /// Reads a file of any size block by block.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let (mut file, mut digest, mut bytes) = (File::open(path)?, Sha256::new(), 0);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n_bytes = match file.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            digest.update(&buffer[..n_bytes]);
            bytes += n_bytes as u64;
        }
        let sha256 = hex::encode(digest.finalize());
        Ok(Self { bytes, sha256 })
    }
}

/// Who handed an image over, as far as its source tells. Stays on the box.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The calling AE title of a C-STORE association.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ae_title: Option<String>,
    /// The address of the other end of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Of a request over MQTT: where it wanted its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.map(|address| address.to_string());
        match (&self.ae_title, address, &self.response_topic) {
            (Some(title), Some(address), _) => write!(f, "{title} at {address}"),
            (Some(title), None, _) => f.write_str(title),
            (None, Some(address), _) => f.write_str(&address),
            (None, None, Some(topic)) => write!(f, "MQTT, answered at {topic}"),
            (None, None, None) => f.write_str("unknown"),
        }
    }
}

/// What people can look for a job by, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookupKeys {
    pub input: Option<Input>,
    pub job_id: Option<Uuid>,
    /// Hashed with the key of this state directory.
    pub sop_instance_uid: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Accepted,
    /// The process with this boot id works on it. A lease of another boot does not hold.
    Leased {
        boot: Uuid,
    },
    /// Its messages are in the outbox under `seq`.
    Inferred {
        seq: u64,
    },
    /// Every message is acknowledged; the input waits for its removal.
    Published,
    /// The input is still to be moved into quarantine.
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
