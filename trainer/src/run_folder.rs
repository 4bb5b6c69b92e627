//! One folder a run: `config.toml`, `run.json`, `metrics.jsonl`, `last.safetensors` (weights, averaged
//! weights, optimizer moments and position in one file, so one rename commits all) and `best.safetensors`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use nets::checkpoint;
use nets::sam::SamConfig;
use serde::{Deserialize, Serialize};

use crate::cli::Recipe;
use crate::config::Config;
use crate::parallel::Group;

pub type State = BTreeMap<String, Tensor>;

/// What a run is a function of, besides its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub kind: RunKind,
    pub seed: u64,
    pub recipe_digest: String,
    pub data_fingerprint: String,
    /// SHA-256 of the weights it started from; empty for random ones.
    pub start_digest: String,
    /// SHA-256 of the student that it started from, where `start_digest` is only its teacher's; else empty.
    #[serde(default)]
    pub student_digest: String,
    pub code_version: String,
    pub command: String,
    /// How many trained together, which batches and learning rates depend on.
    #[serde(default = "one")]
    pub processes: usize,
}

/// Runs from before several processes could train together.
fn one() -> usize {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    Teacher,
    Student,
}

impl Identity {
    /// What may not change while a run goes on, in words.
    fn depends_on(&self) -> [(&'static str, String); 5] {
        [
            ("the configuration", self.recipe_digest.clone()),
            ("the data", self.data_fingerprint.clone()),
            ("the start weights", self.start_digest.clone()),
            ("the student to start from", self.student_digest.clone()),
            ("the number of processes", self.processes.to_string()),
        ]
    }

    /// The teacher's weights by digest; empty for a teacher.
    pub fn teacher(&self) -> String {
        match self.kind {
            RunKind::Student => format!("sha256:{}", self.start_digest),
            RunKind::Teacher => String::new(),
        }
    }
}

/// Where a run stands; the next batch to do is `batch` of `epoch`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    pub epoch: u64,
    pub batch: u64,
    /// Optimizer steps done.
    pub step: u64,
    pub best_dice: f64,
    pub best_epoch: u64,
    pub finished: bool,
}

/// Everything a resumed run needs, as it lies in `last.safetensors`.
pub struct Checkpoint {
    pub position: Position,
    pub model: State,
    pub averaged: State,
    pub optimizer: State,
}

/// What a run folder records of how it was made.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    pub config: &'a Config,
    pub sam: &'a SamConfig,
}

pub struct RunFolder {
    pub path: PathBuf,
    pub identity: Identity,
}

impl RunFolder {
    /// Creates the folder, or opens it again with `--resume` when nothing the run depends on has changed.
    /// Rank 0 does, once it is sure that all processes mean the same run.
    pub fn open(
        recipe: &Recipe,
        settings: Settings<'_>,
        identity: Identity,
        group: &Group,
    ) -> Result<Self> {
        let folder = Self {
            path: recipe.run.clone(),
            identity,
        };
        let identity = &folder.identity;
        for (field, value) in identity.depends_on() {
            group.ensure_same(
                field,
                &value,
                "start all processes with the same recipe, flags and data",
            )?;
        }
        let remedy = "start the same program everywhere";
        group.ensure_same("the code version", &identity.code_version, remedy)?;
        group.from_first(|| folder.prepare(settings, recipe.resume))?;
        Ok(folder)
    }

    fn prepare(&self, settings: Settings<'_>, resume: bool) -> Result<()> {
        let (path, identity) = (&self.path, &self.identity);
        let run_json = path.join("run.json");
        if run_json.exists() {
            ensure!(
                resume,
                "{} holds a run already: add --resume to go on with it, or name another folder",
                path.display()
            );
            let old = read_identity(path)?;
            for ((field, was), (_, is)) in old.depends_on().into_iter().zip(identity.depends_on()) {
                if was != is {
                    bail!(
                        "{}: {field} changed since the run began ({was} -> {is}): \
                         start another folder, or restore it",
                        path.display()
                    );
                }
            }
            if old.code_version != identity.code_version {
                tracing::warn!(
                    was = old.code_version,
                    is = identity.code_version,
                    "the program changed since the run began: the weights may differ from those of \
                     an uninterrupted run"
                );
            }
        } else {
            std::fs::create_dir_all(path)
                .with_context(|| format!("cannot create the run folder {}", path.display()))?;
            std::fs::write(path.join("config.toml"), settings.config.to_toml())?;
            std::fs::write(&run_json, serde_json::to_string_pretty(identity)?)?;
        }
        let sam = serde_json::to_string_pretty(settings.sam)?;
        std::fs::write(path.join("sam.json"), sam)?;
        Ok(())
    }

    /// The last checkpoint, if there is one.
    pub fn last(&self) -> Result<Option<Checkpoint>> {
        let path = self.path.join("last.safetensors");
        if !path.exists() {
            return Ok(None);
        }
        let file = checkpoint::read_whole(&path, None, &Device::Cpu)?;
        let (tensors, metadata) = (file.state, file.metadata);
        let text = metadata
            .get("position")
            .with_context(|| format!("{} lacks its position", path.display()))?;
        let position = serde_json::from_str(text)
            .with_context(|| format!("{}: position is damaged", path.display()))?;
        let part = |prefix: &str| -> State {
            tensors
                .iter()
                .filter_map(|(name, tensor)| {
                    name.strip_prefix(prefix)
                        .map(|name| (name.to_owned(), tensor.clone()))
                })
                .collect()
        };
        Ok(Some(Checkpoint {
            position,
            model: part("model/"),
            averaged: part("averaged/"),
            optimizer: part("optimizer/"),
        }))
    }

    /// Replaces `last.safetensors` in one rename.
    pub fn save_last(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut tensors = State::new();
        for (prefix, part) in [
            ("model/", &checkpoint.model),
            ("averaged/", &checkpoint.averaged),
            ("optimizer/", &checkpoint.optimizer),
        ] {
            tensors.extend(
                part.iter()
                    .map(|(name, t)| (format!("{prefix}{name}"), t.clone())),
            );
        }
        let position = serde_json::to_string(&checkpoint.position)?;
        let metadata = HashMap::from([("position".to_owned(), position)]);
        checkpoint::write(&self.path.join("last.safetensors"), &tensors, &metadata)?;
        Ok(())
    }

    /// Keeps `state` as the run's result.
    pub fn save_best(&self, state: &State, position: &Position) -> Result<()> {
        let metadata = HashMap::from([("position".to_owned(), serde_json::to_string(position)?)]);
        checkpoint::write(&self.path.join("best.safetensors"), state, &metadata)?;
        Ok(())
    }
}

pub fn read_identity(path: &Path) -> Result<Identity> {
    let file = path.join("run.json");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}: is this a run folder?", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))
}

/// The weights a finished (or interrupted) run is judged by.
pub fn read_best(path: &Path) -> Result<State> {
    let file = path.join("best.safetensors");
    ensure!(
        file.exists(),
        "{} is missing: let the run reach its first validation",
        file.display()
    );
    Ok(checkpoint::read(&file, &Device::Cpu)?)
}
