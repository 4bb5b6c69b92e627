//! A `.pth` from its zip to tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::Device;

use super::archive::{Archive, Trouble};
use super::error::{CheckpointError, damaged, tensor_error};
use super::pickle::{self, Refusal};
use super::state_dict::{Checkpoint, State, tensor};
use super::torch::{self, Entry, StateDict, View};

/// In a message.
const KEYS_NAMED: usize = 8;

/// Elements that tensors may have beyond the bytes of their file: those that are shared or expanded.
const SHARED_ELEMENTS_MAX: u64 = 64 << 20;

pub(super) fn read(
    path: &Path,
    key: Option<&str>,
    device: &Device,
) -> Result<Checkpoint, CheckpointError> {
    let trouble = |trouble: Trouble| trouble_with(path, trouble);
    let mut archive = Archive::open(path).map_err(trouble)?;
    let pickle = archive.pickle().map_err(trouble)?;
    let not_plain = |found| CheckpointError::NotPlain {
        path: path.to_owned(),
        found,
    };
    let values = pickle::read(&pickle).map_err(|refusal| match refusal {
        Refusal::Foreign(found) => not_plain(found),
        Refusal::Damaged => damaged(path, "its pickle ends too early or contradicts itself"),
    })?;
    drop(pickle);
    if archive.is_big_endian().map_err(trouble)? {
        return Err(not_plain(
            "a machine with the other order of bytes wrote it (big-endian)".to_owned(),
        ));
    }
    let found = torch::state_dicts(&values);
    let chosen = chosen(path, key, &found, || torch::instead(&values))?;
    let mut views: BTreeMap<String, Vec<(String, View)>> = BTreeMap::new();
    let mut left_out = BTreeMap::new();
    for (name, entry) in chosen.entries(&values) {
        match entry {
            Entry::Float(view) => views
                .entry(view.storage.clone())
                .or_default()
                .push((name, view)),
            Entry::NoFloat(kind) => drop(left_out.insert(name, kind)),
            Entry::Damaged => {
                return Err(damaged(
                    path,
                    &format!("tensor {name} has no sound description"),
                ));
            }
        }
    }
    Ok(Checkpoint {
        state: read_storages(path, &mut archive, &views, device)?,
        metadata: HashMap::new(),
        left_out,
        key: chosen.key(),
        other_keys: found
            .iter()
            .filter(|it| it.key() != chosen.key() && !it.is_of_optimizer)
            .map(StateDict::key)
            .collect(),
    })
}

/// The state dict under `key`, or the one that is meant.
fn chosen<'a>(
    path: &Path,
    key: Option<&str>,
    found: &'a [StateDict],
    instead: impl Fn() -> String,
) -> Result<&'a StateDict, CheckpointError> {
    let path = path.to_owned();
    let list = |state_dicts: &[&StateDict]| {
        let name = |it: &&StateDict| match it.key().as_str() {
            "" => format!("{} tensors at the top", it.n_tensors),
            key => format!("{key} ({} tensors)", it.n_tensors),
        };
        let names: Vec<String> = state_dicts.iter().take(KEYS_NAMED).map(name).collect();
        let more = if state_dicts.len() > KEYS_NAMED {
            ", .."
        } else {
            ""
        };
        format!("{}{more}", names.join(", "))
    };
    if let Some(key) = key {
        return found.iter().find(|it| it.key() == key).ok_or_else(|| {
            let all: Vec<&StateDict> = found.iter().collect();
            let there = if all.is_empty() {
                instead()
            } else {
                list(&all)
            };
            CheckpointError::WhichStateDict {
                path,
                found: format!("nothing under the key {key}, but {there}"),
            }
        });
    }
    torch::choose(found).map_err(|weights| match weights.as_slice() {
        [] if found.is_empty() => CheckpointError::NoStateDict {
            path,
            found: instead(),
        },
        [] => CheckpointError::NoStateDict {
            path,
            found: format!(
                "its tensors are an optimizer's, under {}",
                list(&found.iter().take(2).collect::<Vec<_>>())
            ),
        },
        several => CheckpointError::WhichStateDict {
            path,
            found: format!(
                "several state dicts and none under model or state_dict alone, under the keys {}",
                list(several)
            ),
        },
    })
}

/// Each storage once, and only one at a time.
fn read_storages(
    path: &Path,
    archive: &mut Archive,
    views: &BTreeMap<String, Vec<(String, View)>>,
    device: &Device,
) -> Result<State, CheckpointError> {
    let mut elements_left = archive.file_bytes.saturating_add(SHARED_ELEMENTS_MAX);
    let mut bytes_left = archive.file_bytes;
    let mut state = State::new();
    for (storage, views) in views {
        let entry = format!("data/{storage}");
        bytes_left = bytes_left
            .checked_sub(archive.size(&entry).unwrap_or_default())
            .ok_or_else(|| damaged(path, "its storages lie over each other"))?;
        let bytes = archive
            .read(&entry)
            .map_err(|trouble| match trouble {
                Trouble::Damaged(what, source) => {
                    Trouble::Damaged(format!("{what} (tensor {})", views[0].0), source)
                }
                other => other,
            })
            .map_err(|trouble| trouble_with(path, trouble))?;
        for (name, view) in views {
            elements_left = view
                .n_elements()
                .and_then(|n| elements_left.checked_sub(n as u64))
                .ok_or_else(|| {
                    let what = format!(
                        "tensor {name} of size {:?} is too large for the file that it is in",
                        view.size
                    );
                    damaged(path, &what)
                })?;
            let elements = view.gather(&bytes).ok_or_else(|| {
                let what = format!(
                    "tensor {name} of size {:?} and strides {:?} reaches beyond its storage of {} bytes",
                    view.size,
                    view.stride,
                    bytes.len()
                );
                damaged(path, &what)
            })?;
            let tensor = tensor(&elements, view.dtype, &view.size, device)
                .and_then(|it| if view.negated { it.neg() } else { Ok(it) })
                .map_err(|source| tensor_error(path, name, source))?;
            state.insert(name.clone(), tensor);
        }
    }
    Ok(state)
}

fn trouble_with(path: &Path, trouble: Trouble) -> CheckpointError {
    let path = path.to_owned();
    match trouble {
        Trouble::NoZip(source) => CheckpointError::Format {
            path,
            source: source.into(),
        },
        Trouble::Other(found) => CheckpointError::NotPlain { path, found },
        Trouble::Damaged(what, source) => CheckpointError::Damaged {
            path,
            what,
            source: source.map(Into::into),
        },
    }
}
