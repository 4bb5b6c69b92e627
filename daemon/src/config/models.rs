use std::path::PathBuf;

use contract::signature::TrustedKeys;
use serde::{Deserialize, Serialize};

use super::{Config, Problem, topic_word, within};

/// The slot of `[model]`.
pub const DEFAULT_SLOT: &str = "default";
/// What a rule says that keeps images from every model.
pub const NO_SLOT: &str = "none";
/// Each has a retained topic, and all of them go out at every connection.
const SLOTS_MAX: usize = 8;

/// A bundle beside `[model]`, for images that `[[route]]` sends to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    pub name: String,
    /// Serves until another version is promoted.
    pub bundle: PathBuf,
}

/// Whose bundles are accepted, and how new ones come in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Minisign public keys. When there is one, every bundle needs a signature.
    pub trusted_keys: Vec<String>,
    /// That multiply; 0: as many as the CPU has.
    pub threads: usize,
    /// Multiplies f32 in 16 bits where the CPU can.
    pub half_precision: bool,
    /// `models install --unsigned` works.
    pub allow_unsigned: bool,
    pub shadow: Shadow,
    /// Images that wait for the candidate; the rest is not compared.
    pub shadow_queue_max_images: usize,
    /// Installed versions of a slot; beyond it the oldest that nobody needs goes.
    pub versions_max: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shadow {
    #[default]
    Off,
    /// The newest installed version that was not promoted yet sees every image too.
    Candidate,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            trusted_keys: Vec::new(),
            threads: 0,
            half_precision: false,
            allow_unsigned: false,
            shadow: Shadow::Off,
            shadow_queue_max_images: 1,
            versions_max: 4,
        }
    }
}

impl Models {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        TrustedKeys::parse(&self.trusted_keys)
            .map_err(|error| ("models.trusted_keys", error.to_string()))?;
        let queue = self.shadow_queue_max_images as u64;
        within("models.shadow_queue_max_images", queue, 1, 64)?;
        // The one that serves, the one before it, and a new one.
        within("models.threads", self.threads as u64, 0, 256)?;
        within("models.versions_max", self.versions_max as u64, 3, 100)
    }
}

impl Config {
    /// Name and configured bundle of each slot; that of `[model]` is the first.
    pub fn slots(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        let named = self.slot.iter().map(|slot| (&*slot.name, &slot.bundle));
        [(DEFAULT_SLOT, &self.model.bundle)]
            .into_iter()
            .chain(named)
    }

    pub(super) fn validate_slots(&self) -> Result<(), Problem> {
        if self.slot.len() >= SLOTS_MAX {
            let problem = format!(
                "{} are too many; use {} or fewer",
                self.slot.len(),
                SLOTS_MAX - 1
            );
            return Err(("slot", problem));
        }
        for (index, slot) in self.slot.iter().enumerate() {
            let key = "slot.name";
            topic_word(key, &slot.name)?;
            if [DEFAULT_SLOT, NO_SLOT].contains(&&*slot.name) {
                let problem = format!(
                    "`{}` has a meaning of its own; take another name",
                    slot.name
                );
                return Err((key, problem));
            }
            if self.slot[..index]
                .iter()
                .any(|other| other.name == slot.name)
            {
                return Err((
                    key,
                    format!("two slots are called `{}`; rename one", slot.name),
                ));
            }
        }
        Ok(())
    }
}
