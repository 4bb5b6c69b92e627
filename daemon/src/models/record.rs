//! What `slot.json` says: which version serves, which served before, and the highest counter.

use contract::Manifest;
use serde::{Deserialize, Serialize};

use super::ModelsError;
use crate::clock;

pub use crate::report::model::{Deployment, Version};

impl Version {
    pub(super) fn of(manifest: &Manifest, configured: bool) -> Self {
        Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            counter: manifest.counter,
            digest: manifest.digest.clone(),
            configured,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digest = self.digest.get(..12).unwrap_or(&self.digest);
        let (name, version, counter) = (&self.name, &self.version, self.counter);
        write!(f, "{name} {version}, counter {counter}, {digest}")
    }
}

impl Deployment {
    pub(super) fn now(version: Version) -> Self {
        Self {
            version,
            since: clock::now(),
        }
    }
}

/// The highest counter that ever served, and the digest of its bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HighestCounter {
    pub counter: u64,
    pub digest: String,
}

/// The deployments of a slot; empty before the first start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub active: Option<Deployment>,
    /// What a rollback goes back to.
    pub previous: Option<Deployment>,
    pub highest: Option<HighestCounter>,
    /// `previous` is what a rollback left; going back once more would go forward to it.
    #[serde(default)]
    pub rolled_back: bool,
}

impl Record {
    /// Refuses a counter below the highest, and other content under the same counter.
    pub(super) fn check(&self, slot: &str, version: &Version) -> Result<(), ModelsError> {
        let Some(highest) = &self.highest else {
            return Ok(());
        };
        let older = version.counter < highest.counter;
        let other = version.counter == highest.counter && version.digest != highest.digest;
        if older || other {
            return Err(ModelsError::Counter {
                slot: slot.to_owned(),
                version: version.to_string(),
                highest: highest.counter,
            });
        }
        Ok(())
    }

    pub(super) fn raise(&mut self, version: &Version) {
        let counter = version.counter;
        if self
            .highest
            .as_ref()
            .is_none_or(|mark| mark.counter < counter)
        {
            let digest = version.digest.clone();
            self.highest = Some(HighestCounter { counter, digest });
        }
    }

    /// What may serve when the active version does not open: what it replaced, but nothing that was rolled
    /// back from.
    pub(super) fn fallback(&self) -> Option<&Version> {
        let (active, previous) = (self.active.as_ref()?, self.previous.as_ref()?);
        let older = previous.version.counter <= active.version.counter;
        older.then_some(&previous.version)
    }
}
