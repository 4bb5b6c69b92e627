//! Fine-tuning a SAM for prompt-free masks: the teacher.

mod embeddings;
mod strict;

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use nets::image_encoder_vit::checkpointing::Tape;
use nets::loss::dice_ce;
use nets::mask_decoder::Tokens;
use nets::optimizer::{AdamW, AdamWConfig};
use nets::params::Loaded;
use nets::prompt_encoder::Prompts;
use nets::sam::{Freezing, decayed_without_gradient, trainable};
use nets::schedule::{self, warmup_poly};
use nets::{Mode, checkpoint};

use self::embeddings::{Embeddings, Inputs};
use crate::augment::Changes;
use crate::batch::{Batch, Loader, LoaderOptions};
use crate::cli::FinetuneArgs;
use crate::compute;
use crate::config::{Config, Scope};
use crate::dataset::{Dataset, Sample, Split};
use crate::estimate::Load;
use crate::launch::Launch;
use crate::model::{self, Model, Start, resized};
use crate::parallel::Group;
use crate::report;
use crate::run_folder::{Identity, RunKind};
use crate::train::{self, Loss, Outcome, Plan, Run, Share, Task};
use crate::weights;

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

fn plan(config: &Config, loader: &Loader, group: &Group) -> Plan {
    let finetune = &config.finetune;
    Plan {
        epochs: finetune.epochs,
        batches_per_epoch: loader.n_batches() as u64,
        accumulate: (finetune.accumulate * group.world()) as u64,
        clip_norm: finetune.clip_norm,
        ema: finetune.ema,
        validate_every_epochs: finetune.validate_every_epochs,
        // The reference stops when more epochs than this went by.
        patience_epochs: finetune.patience_epochs + u64::from(config.strict_reference),
    }
}

fn load(config: &Config, loader: &Loader) -> Load<'static> {
    let finetune = &config.finetune;
    Load {
        batch: finetune.batch,
        n_images: loader.frames().len(),
        checkpointing: finetune.gradient_checkpointing && finetune.scope == Scope::EncoderDecoder,
        teacher: None,
    }
}

fn changes(config: &Config) -> Option<Changes> {
    config.augmentation.enabled.then(|| {
        if config.strict_reference {
            Changes::Reference
        } else {
            Changes::Own(config.augmentation.clone())
        }
    })
}

pub fn run(args: &FinetuneArgs, group: &Group) -> Result<Outcome> {
    let config = resolve(args)?;
    let dataset = Dataset::read_many(&config.data.lists)?;
    let validation = samples(&dataset, Split::Validation, &config)?;
    let model = build(&config, group)?;
    let loader = loader(&config, &dataset)?;
    let plan = plan(&config, &loader, group);
    let launch = Launch {
        recipe: &args.recipe,
        config: &config,
        model: &model,
        plan: &plan,
        load: load(&config, &loader),
        start: &config.model.checkpoint,
    };
    if !launch.describe(&format!(
        "{} training images, {} validation images, {} batches an epoch, {} epochs",
        loader.frames().len(),
        validation.len(),
        plan.batches_per_epoch,
        plan.epochs
    ))? {
        return Ok(Outcome::Finished);
    }
    let identity = identity(&config, &dataset, group)?;
    let folder = launch.open_folder(identity, group)?;
    let mut embeddings = None;
    if Embeddings::are_fixed(&config) {
        let of = Inputs {
            config: &config,
            identity: &folder.identity,
            model: &model,
            training: loader.frames(),
            validation: &validation,
        };
        embeddings = group.first_then_others(|| Embeddings::fill(&folder.path, &of))?;
        if embeddings.is_none() {
            return Ok(Outcome::Interrupted);
        }
    }
    let settings = AdamWConfig {
        weight_decay: config.finetune.weight_decay,
        ..AdamWConfig::reference()
    };
    let mut optimizer = AdamW::new(&model.loaded.vars, settings)?;
    let task = Finetune {
        model: &model,
        loader: &loader,
        validation: &validation,
        embeddings,
        config: &config,
        plan: &plan,
    };
    let folder = &folder;
    train::train(&task, &plan, &mut optimizer, Run { folder, group })
}

fn build(config: &Config, group: &Group) -> Result<Model> {
    let mut state = model::start_state(&config.model.checkpoint)?;
    if !config.strict_reference {
        state = model::fit_mask_tokens(state, config.num_cls())?;
    }
    let encoder = weights::encoder_of(&state);
    let sam_config = model::teacher_config(config)?;
    let freezing = if config.strict_reference {
        Freezing::Reference
    } else {
        Freezing::Own
    };
    let (scope, method) = (config.finetune.scope.into(), config.finetune.method.into());
    let start = Start {
        state,
        seed: config.seed,
        compute: &compute::open(&config.compute, group.local_rank())?,
    };
    let model = Model::build(sam_config, config.input, start, move |name| {
        trainable(name, scope, method, freezing)
    })?;
    model::ensure_encoder_fits(&model.loaded, encoder, &config.model)?;
    Ok(model)
}

fn loader(config: &Config, dataset: &Dataset) -> Result<Loader> {
    Loader::new(
        dataset,
        &dataset.of(Split::Train),
        LoaderOptions {
            input: config.input,
            labels: config.data.target,
            augmentation: changes(config),
            batch: config.finetune.batch,
            seed: config.seed,
            shuffle: true,
        },
    )
}

fn identity(config: &Config, dataset: &Dataset, group: &Group) -> Result<Identity> {
    Ok(Identity {
        kind: RunKind::Teacher,
        seed: config.seed,
        recipe_digest: config.digest(),
        data_fingerprint: dataset.fingerprint.clone(),
        start_digest: checkpoint_digest(&config.model.checkpoint)?,
        student_digest: String::new(),
        code_version: report::CODE_VERSION.to_owned(),
        command: report::command_line(),
        processes: group.world(),
    })
}

struct Finetune<'a> {
    model: &'a Model,
    loader: &'a Loader,
    validation: &'a [Sample],
    /// Of a frozen encoder, where they never change.
    embeddings: Option<Embeddings>,
    config: &'a Config,
    plan: &'a Plan,
}

impl Finetune<'_> {
    fn low_res_logits(&self, batch: &Batch) -> Result<(Tensor, Option<Tape<'_>>)> {
        if let Some(embeddings) = &self.embeddings {
            return Ok((embeddings.low_res_logits(self.model, &batch.indices)?, None));
        }
        let finetune = &self.config.finetune;
        if finetune.gradient_checkpointing
            && finetune.scope == Scope::EncoderDecoder
            && let Some(tape) = self
                .model
                .sam
                .embed_checkpointed(&self.model.here(&batch.images)?)?
        {
            let (prompts, tokens) = (Prompts::default(), Tokens::Classes);
            let decoded = self.model.sam.decode(tape.embedding(), prompts, tokens)?;
            return Ok((decoded.masks, Some(tape)));
        }
        // In eval mode the frozen encoder keeps its running statistics.
        let mode = if self.config.strict_reference {
            Mode::Train
        } else {
            Mode::Eval
        };
        Ok((self.model.low_res_logits(&batch.images, mode)?, None))
    }
}

impl Task for Finetune<'_> {
    type Batch = Batch;

    fn batches(
        &self,
        epoch: u64,
        share: Share,
    ) -> Result<Box<dyn Iterator<Item = Result<Batch>> + '_>> {
        Ok(Box::new(self.loader.epoch(epoch, share)))
    }

    fn loss(&self, batch: &Batch, epoch: u64) -> Result<Loss<'_>> {
        let strict = self.config.strict_reference;
        let (low_res, tape) = self.low_res_logits(batch)?;
        let loss = if strict {
            strict::loss(&low_res, &batch.labels)?
        } else {
            let logits = resized(&low_res, self.model.input.size)?;
            dice_ce(&logits, &self.model.here(&batch.labels)?)?
        };
        let (dice, cross_entropy): (f32, f32) =
            (loss.dice.to_scalar()?, loss.cross_entropy.to_scalar()?);
        ensure!(
            (dice + cross_entropy).is_finite(),
            "epoch {epoch}: the loss is {} on {}: lower finetune.learning_rate ({:e}) and start in another folder; \
             if it is these images whatever the rate, look at them",
            dice + cross_entropy,
            batch.names.join(", "),
            self.config.finetune.learning_rate
        );
        let parts = vec![("dice", dice), ("cross_entropy", cross_entropy)];
        Ok(Loss {
            total: (loss.dice + loss.cross_entropy)?,
            parts,
            tape,
        })
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let steps = self.plan.epochs * self.plan.steps_per_epoch();
        let finetune = &self.config.finetune;
        if self.config.strict_reference {
            let warmup = Some(finetune.warmup_steps).filter(|&steps| steps > 0);
            return schedule::reference(step, finetune.learning_rate, warmup, steps);
        }
        warmup_poly(step, finetune.learning_rate, finetune.warmup_steps, steps)
    }

    fn loaded(&self) -> &Loaded {
        &self.model.loaded
    }

    fn decays_without_gradient(&self, name: &str) -> bool {
        self.config.strict_reference && decayed_without_gradient(name)
    }

    fn validates_after(&self, epochs: u64, plan: &Plan) -> bool {
        if self.config.strict_reference {
            return strict::validates_after(epochs, plan.validate_every_epochs.max(1));
        }
        plan.validates_after(epochs)
    }

    fn validate(&self) -> Result<f64> {
        if self.config.strict_reference {
            return strict::validation_dice(
                self.model,
                self.validation,
                self.config.finetune.batch,
            );
        }
        if let Some(embeddings) = &self.embeddings {
            return embeddings.validation_dice(self.model, self.validation);
        }
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
