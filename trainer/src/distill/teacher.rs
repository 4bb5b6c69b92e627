//! Whom the student learns from: a fine-tuned run, or a checkpoint as it was published.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use contract::geometry::InputRules;
use nets::lora;
use nets::params::Compute;
use nets::sam::{EncoderConfig, SamConfig};
use nets::tiny_vit::fit_attention_biases;

use crate::config::{Config, Finetune, Method};
use crate::dataset::Dataset;
use crate::model::{self, Model, Start};
use crate::run_folder::{self, State};

/// The frozen teacher and the file that its weights are in. A run folder's has learned the classes; a
/// checkpoint (`model.encoder` says of what) gives its embedding and nothing else.
/// `data` is what the student may share with it: the lists alone, or with those for distillation.
pub(super) fn open(
    config: &Config,
    data: [&Dataset; 2],
    compute: &Compute,
) -> Result<(Model, PathBuf)> {
    let path = &config.distill.teacher;
    if path.is_dir() {
        let teacher = Model::open_on(path, compute)?;
        ensure_fits(config, data)?;
        return Ok((teacher, path.join("best.safetensors")));
    }
    ensure!(
        path.exists(),
        "there is no such file or folder: name the run folder of `trainer finetune`, or a checkpoint"
    );
    ensure!(
        config.distill.teacher_weight == 0.0,
        "a checkpoint that was not fine-tuned has no masks of your classes: set \
         distill.teacher_weight=0.0, or name the run folder of `trainer finetune`"
    );
    let own_size = InputRules {
        size: config.model.encoder.own_size(),
        ..config.input
    };
    let plain = Config {
        input: own_size,
        finetune: Finetune {
            method: Method::Vanilla,
            ..config.finetune.clone()
        },
        ..config.clone()
    };
    let teacher = Model::build(
        model::teacher_config(&plain)?,
        own_size,
        Start {
            state: model::fit_mask_tokens(model::start_state(path)?, config.num_cls())?,
            seed: config.seed,
            compute,
        },
        |_| false,
    )?;
    let mut random = teacher.loaded.report.random.iter();
    if let Some(missing) = random.find(|name| name.starts_with("image_encoder.")) {
        bail!(
            "no {} in it (model.encoder): it lacks {missing}",
            config.model.encoder.name()
        );
    }
    Ok((teacher, path.clone()))
}

/// The teacher sees the student's pixels (at its own size) and names its classes.
fn ensure_fits(config: &Config, data: [&Dataset; 2]) -> Result<()> {
    let folder = &config.distill.teacher;
    let its = Config::read(&folder.join("config.toml"))?;
    let at_our_size = InputRules {
        size: config.input.size,
        ..its.input
    };
    ensure!(
        at_our_size == config.input,
        "it was trained with the input {:?}, this recipe has {:?}: give both the same [input], only the \
         size may differ",
        its.input,
        config.input
    );
    let labels = |config: &Config| -> Vec<String> {
        let classes = config.data.classes.iter();
        classes.map(|class| class.label.clone()).collect()
    };
    ensure!(
        its.data.target == config.data.target && labels(&its) == labels(config),
        "it was trained for the classes {:?} with the target {:?}, this recipe has {:?} with {:?}: give \
         both the same data.target and data.classes",
        labels(&its),
        its.data.target,
        labels(config),
        config.data.target
    );
    let fingerprint = run_folder::read_identity(folder)?.data_fingerprint;
    if data.iter().all(|data| data.fingerprint != fingerprint) {
        tracing::warn!(
            teacher = %folder.display(),
            "the teacher was trained on other data or another split: it may have seen patients of \
             this validation or test split"
        );
    }
    Ok(())
}

/// Weights of the student `distill.start`, or the teacher's without its LoRA; tensors of the same name and shape start
/// the student. Biases of windows are stretched to the student's.
pub(super) fn start_of_student(
    start: &Path,
    teacher: &Model,
    student: &SamConfig,
) -> Result<State> {
    let mut state = if start.as_os_str().is_empty() {
        let state = teacher.loaded.state_dict()?;
        match &teacher.config.lora {
            Some(config) => lora::merge(state, config.rows, model::HEAD_DIM)?,
            None => state,
        }
    } else {
        run_folder::read_best(start)
            .with_context(|| format!("distill.start {}", start.display()))?
    };
    if let EncoderConfig::TinyVit(encoder) = &student.encoder {
        fit_attention_biases(&mut state, encoder)?;
    }
    Ok(state)
}
