//! `models install|list|promote|rollback`: what a command asks for, done by the daemon that serves, or on
//! the disk alone where none runs. The record on the disk changes first, then what serves: a result says
//! itself which model made it, and after a kill the next start serves what the record says.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::record::{Deployment, Version};
use super::store::Store;
use super::{Models, ModelsError, Serving};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    List,
    /// `staged`: where [`Store::stage`] put it.
    Install {
        slot: String,
        staged: String,
        unsigned: bool,
    },
    /// The newest version unless one is named, by its version or the start of its digest.
    Promote {
        slot: String,
        version: Option<String>,
    },
    Rollback {
        slot: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Slots(Vec<SlotView>),
    /// What was done, in words.
    Done(String),
    /// Why nothing was done.
    Refused(String),
}

/// A slot as `models list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    pub slot: String,
    /// None before the first start.
    pub active: Option<Deployment>,
    pub previous: Option<Deployment>,
    pub highest_counter: Option<u64>,
    /// The highest counter first.
    pub installed: Vec<Version>,
    /// Folders of installed versions that were changed since.
    pub damaged: Vec<String>,
    /// What does not work, where a daemon runs.
    pub problem: Option<String>,
}

/// Blocking. `live`: the daemon's models, where one runs.
pub fn perform(store: &Store, live: Option<&Models>, change: &Change) -> Reply {
    let done = match change {
        Change::List => list(store, live).map(Reply::Slots),
        Change::Install {
            slot,
            staged,
            unsigned,
        } => {
            let done = install(store, slot, staged, *unsigned);
            store.unstage(slot, staged);
            done
        }
        Change::Promote { slot, version } => promote(store, live, slot, version.as_deref()),
        Change::Rollback { slot } => rollback(store, live, slot),
    };
    let slot = match change {
        Change::List => None,
        Change::Install { slot, .. } | Change::Promote { slot, .. } | Change::Rollback { slot } => {
            Some(slot)
        }
    };
    if let (Some(live), Some(slot)) = (live, slot) {
        live.changed(slot, done.as_ref().err());
    }
    done.unwrap_or_else(|error| {
        let words = crate::failure::chain(&error);
        tracing::warn!(slot, error = words, "models: nothing was changed");
        Reply::Refused(words)
    })
}

fn list(store: &Store, live: Option<&Models>) -> Result<Vec<SlotView>, ModelsError> {
    let view = |slot: &str| {
        let record = store.record(slot)?;
        let installed = store.installed(slot)?;
        Ok(SlotView {
            slot: slot.to_owned(),
            highest_counter: record.highest.map(|mark| mark.counter),
            active: record.active,
            previous: record.previous,
            installed: installed.versions,
            damaged: installed.damaged,
            problem: live.and_then(|live| live.problem(slot)),
        })
    };
    store.slots().map(view).collect()
}

fn install(store: &Store, slot: &str, staged: &str, unsigned: bool) -> Result<Reply, ModelsError> {
    let (version, fresh) = store.install(slot, staged, unsigned)?;
    if !fresh {
        return Ok(Reply::Done(format!(
            "slot {slot}: {version} was installed already"
        )));
    }
    tracing::info!(slot, %version, unsigned, "model installed");
    Ok(Reply::Done(format!(
        "slot {slot}: {version} is installed; `scansided models promote` lets it serve"
    )))
}

fn promote(
    store: &Store,
    live: Option<&Models>,
    slot: &str,
    wanted: Option<&str>,
) -> Result<Reply, ModelsError> {
    store.known(slot)?;
    let mut record = store.record(slot)?;
    let version = choose(store, slot, wanted)?;
    let active = record.active.as_ref();
    if active.is_some_and(|active| active.version.digest == version.digest) {
        if live.is_none_or(|live| !live.slot_fell_back(slot)) {
            return Ok(Reply::Done(format!(
                "slot {slot}: {version} serves already"
            )));
        }
        // Its place is its own; it did not open when the daemon started.
        serve(live, slot, load(store, slot, &version)?);
        return Ok(Reply::Done(format!("slot {slot}: {version} serves again")));
    }
    record.check(slot, &version)?;
    let serving = load(store, slot, &version)?;
    record.previous = record.active.take();
    record.active = Some(Deployment::now(version.clone()));
    record.rolled_back = false;
    record.raise(&version);
    store.write_record(slot, &record)?;
    serve(live, slot, serving);
    tracing::info!(slot, %version, "model promoted");
    let before = record.previous.map_or(String::new(), |previous| {
        format!(", in place of {}", previous.version)
    });
    let when = if live.is_some() {
        "serves"
    } else {
        "serves from the next start"
    };
    Ok(Reply::Done(format!(
        "slot {slot}: {version} {when}{before}"
    )))
}

fn choose(store: &Store, slot: &str, wanted: Option<&str>) -> Result<Version, ModelsError> {
    let installed = store.installed(slot)?;
    let fits = |version: &Version| {
        wanted.is_none_or(|wanted| version.version == wanted || version.digest.starts_with(wanted))
    };
    let damaged = installed.damaged.len();
    let mut fitting = installed.versions.iter().filter(|version| fits(version));
    let Some(first) = fitting.next() else {
        return Err(match wanted {
            _ if damaged > 0 => ModelsError::Damaged {
                slot: slot.to_owned(),
                damaged,
            },
            None => ModelsError::NothingInstalled(slot.to_owned()),
            Some(wanted) => ModelsError::NoVersion {
                slot: slot.to_owned(),
                wanted: wanted.to_owned(),
            },
        });
    };
    match (wanted, fitting.next()) {
        (Some(wanted), Some(_)) => Err(ModelsError::Ambiguous {
            slot: slot.to_owned(),
            wanted: wanted.to_owned(),
        }),
        _ => Ok(first.clone()),
    }
}

fn rollback(store: &Store, live: Option<&Models>, slot: &str) -> Result<Reply, ModelsError> {
    store.known(slot)?;
    let mut record = store.record(slot)?;
    let (Some(active), Some(previous)) = (record.active.take(), record.previous.take()) else {
        return Err(ModelsError::NothingBefore(slot.to_owned()));
    };
    // A record of before knows it by the counters alone.
    if record.rolled_back || previous.version.counter > active.version.counter {
        return Err(ModelsError::RolledBack {
            slot: slot.to_owned(),
            active: active.version.to_string(),
            newer: previous.version.version,
        });
    }
    let version = previous.version;
    let loaded = live.and_then(|live| live.before(slot, &version));
    let serving = loaded.map_or_else(|| load(store, slot, &version), Ok)?;
    record.active = Some(Deployment::now(version.clone()));
    record.previous = Some(active.clone());
    record.rolled_back = true;
    store.write_record(slot, &record)?;
    serve(live, slot, serving);
    let from = active.version;
    tracing::warn!(slot, %version, %from, "model rolled back");
    let when = if live.is_some() {
        "serves again"
    } else {
        "serves again from the next start"
    };
    Ok(Reply::Done(format!(
        "slot {slot}: {version} {when}, in place of {from}"
    )))
}

fn load(store: &Store, slot: &str, version: &Version) -> Result<Arc<Serving>, ModelsError> {
    store.open(slot, version).map(Serving::new)
}

fn serve(live: Option<&Models>, slot: &str, serving: Arc<Serving>) {
    if let Some(live) = live {
        live.serve(slot, serving);
    }
}
