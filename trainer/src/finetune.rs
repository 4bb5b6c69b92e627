//! Fine-tuning a SAM for prompt-free masks: the teacher.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use nets::loss::dice_ce;
use nets::optimizer::{AdamW, AdamWConfig};
use nets::params::Loaded;
use nets::sam::{Freezing, trainable};
use nets::schedule::warmup_poly;
use nets::{Mode, checkpoint};

use crate::batch::{Batch, Loader, LoaderOptions};
use crate::cli::FinetuneArgs;
use crate::config::Config;
use crate::dataset::{Dataset, Sample, Split};
use crate::model::{self, Model};
use crate::report;
use crate::run_folder::{Identity, RunFolder, RunKind};
use crate::train::{self, Outcome, Plan, Task};

/// The recipe with the flags over it.
fn resolve(args: &FinetuneArgs) -> Result<Config> {
    let mut overrides = args.recipe.overrides.clone();
    let flags = [
        ("model.encoder", args.encoder.as_ref().and_then(name)),
        ("finetune.scope", args.scope.as_ref().and_then(name)),
        ("finetune.method", args.method.as_ref().and_then(name)),
    ];
    for (key, value) in flags {
        overrides.extend(value.map(|value| format!("{key}={value:?}")));
    }
    if args.strict_reference {
        overrides.push("strict_reference=true".to_owned());
    }
    Config::resolve(args.recipe.config.as_deref(), &overrides)
}

/// A choice as recipes spell it.
fn name(value: &impl clap::ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().replace('-', "_"))
}

pub fn run(args: &FinetuneArgs) -> Result<Outcome> {
    let config = resolve(args)?;
    let dataset = Dataset::read_many(&config.data.lists)?;
    let validation = samples(&dataset, Split::Validation, &config)?;
    let start = model::start_state(&config.model.checkpoint)?;
    let sam_config = model::teacher_config(&config)?;
    let freezing = if config.strict_reference {
        Freezing::Reference
    } else {
        Freezing::Own
    };
    let (scope, method) = (config.finetune.scope.into(), config.finetune.method.into());
    let model = Model::build(
        sam_config,
        config.input,
        start,
        move |name| trainable(name, scope, method, freezing),
        config.seed,
    )?;
    let loader = Loader::new(
        &dataset,
        &dataset.of(Split::Train),
        LoaderOptions {
            input: config.input,
            labels: config.data.target,
            augmentation: Some(config.augmentation.clone()),
            batch: config.finetune.batch,
            seed: config.seed,
            shuffle: true,
        },
    )?;
    let plan = Plan {
        epochs: config.finetune.epochs,
        batches_per_epoch: loader.n_batches() as u64,
        accumulate: config.finetune.accumulate as u64,
        clip_norm: config.finetune.clip_norm,
        ema: config.finetune.ema,
        validate_every_epochs: config.finetune.validate_every_epochs,
        patience_epochs: config.finetune.patience_epochs,
    };
    report::say(&model::describe_start(
        &model.loaded,
        &config.model.checkpoint,
    )?);
    report::say(&report::trainable_table(&model.loaded.vars));
    report::say(&format!(
        "{} training images, {} validation images, {} batches an epoch, {} epochs",
        loader.frames().len(),
        validation.len(),
        plan.batches_per_epoch,
        plan.epochs
    ));
    if args.recipe.dry_run {
        report::say(&config.to_toml());
        return Ok(Outcome::Finished);
    }
    let identity = Identity {
        kind: RunKind::Teacher,
        seed: config.seed,
        recipe_digest: config.digest(),
        data_fingerprint: dataset.fingerprint.clone(),
        start_digest: checkpoint_digest(&config.model.checkpoint)?,
        code_version: report::CODE_VERSION.to_owned(),
        command: report::command_line(),
    };
    let run = RunFolder::open(&args.recipe.run, &config, identity, args.recipe.resume)?;
    std::fs::write(
        run.path.join("sam.json"),
        serde_json::to_string_pretty(&model.config)?,
    )?;
    let mut optimizer = AdamW::new(
        &model.loaded.vars,
        AdamWConfig {
            weight_decay: config.finetune.weight_decay,
            ..AdamWConfig::reference()
        },
    );
    let task = Finetune {
        model: &model,
        loader: &loader,
        validation: &validation,
        config: &config,
        plan: &plan,
    };
    train::train(&task, &plan, &mut optimizer, &run)
}

struct Finetune<'a> {
    model: &'a Model,
    loader: &'a Loader,
    validation: &'a [Sample],
    config: &'a Config,
    plan: &'a Plan,
}

impl Task for Finetune<'_> {
    type Batch = Batch;

    fn batches(
        &self,
        epoch: u64,
        skip: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Batch>> + '_>> {
        Ok(Box::new(self.loader.epoch(epoch, skip)))
    }

    fn loss(&self, batch: &Batch, _epoch: u64) -> Result<(Tensor, Vec<(&'static str, f32)>)> {
        // Eval mode: the frozen encoder keeps its running statistics (the reference lets them drift).
        let logits = self.model.logits(&batch.images, Mode::Eval)?;
        let loss = dice_ce(&logits, &batch.labels)?;
        let parts = vec![
            ("dice", loss.dice.to_scalar()?),
            ("cross_entropy", loss.cross_entropy.to_scalar()?),
        ];
        Ok(((loss.dice + loss.cross_entropy)?, parts))
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let steps = self.plan.epochs * self.plan.batches_per_epoch.div_ceil(self.plan.accumulate);
        let finetune = &self.config.finetune;
        warmup_poly(step, finetune.learning_rate, finetune.warmup_steps, steps)
    }

    fn loaded(&self) -> &Loaded {
        &self.model.loaded
    }

    fn validate(&self) -> Result<f64> {
        validation_dice(self.model, self.validation)
    }
}

/// All samples of a split with the recipe's target.
pub fn samples(dataset: &Dataset, split: Split, config: &Config) -> Result<Vec<Sample>> {
    let entries = dataset.of(split);
    ensure!(
        !entries.is_empty(),
        "the lists in data.lists have no {split:?} images: name such patients when indexing"
    );
    entries
        .into_iter()
        .map(|entry| dataset.load(entry, &config.data.target))
        .collect()
}

/// Mean foreground Dice at native size.
pub fn validation_dice(model: &Model, samples: &[Sample]) -> Result<f64> {
    let n_classes = model.config.num_cls;
    let report =
        crate::evaluate::evaluate(samples, n_classes, |sample| model.predict(&sample.image))?;
    Ok(report.mean_foreground_dice)
}

/// Hex SHA-256 of a checkpoint file; empty for none.
pub fn checkpoint_digest(path: &Path) -> Result<String> {
    if path.as_os_str().is_empty() {
        return Ok(String::new());
    }
    Ok(checkpoint::digest(path)?)
}
