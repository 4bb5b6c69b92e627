//! Distillation of a fine-tuned teacher into a ViT-T at the input size: first its embedding, then masks with the
//! decoder in the loop, last, where it is asked for, the same as int8 will round it. Teacher outputs are computed once
//! and read from disk.

mod teacher;
mod views;

use anyhow::{Context, Result, ensure};
use nets::Mode;
use nets::loss::{dice_ce, embedding_mse, mask_distillation};
use nets::mask_decoder::Tokens;
use nets::optimizer::{AdamW, AdamWConfig};
use nets::params::{Compute, Loaded};
use nets::prompt_encoder::Prompts;
use nets::schedule::warmup_poly;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use self::views::Views;
use crate::batch::{Loader, LoaderOptions};
use crate::cli::DistillArgs;
use crate::compute;
use crate::config::{self, Config};
use crate::dataset::{Dataset, Sample, Split};
use crate::estimate::Load;
use crate::finetune::{checkpoint_digest, samples, validation_dice};
use crate::launch::Launch;
use crate::model::{self, Model, Start, resized};
use crate::output_cache::OutputCache;
use crate::parallel::Group;
use crate::report;
use crate::run_folder::{Identity, RunKind};
use crate::train::{self, Loss, Outcome, Plan, Run, Share, Task};

pub fn run(args: &DistillArgs, group: &Group) -> Result<Outcome> {
    let config = Config::resolve(args.recipe.config.as_deref(), &args.recipe.overrides)?;
    let distill = &config.distill;
    ensure!(
        !distill.teacher.as_os_str().is_empty(),
        "distill.teacher is empty: name the run folder of `trainer finetune`"
    );
    let own = Dataset::read_many(&config.data.lists)?;
    let validation = samples(&own, Split::Validation, &config)?;
    let lists = [&config.data.lists[..], &config.data.distill_lists].concat();
    let dataset = Dataset::read_many(&lists)?;
    let frames = training_frames(&config, &dataset)?;
    let compute = compute::open(&config.compute, group.local_rank())?;
    let (teacher, weights) = teacher::open(&config, [&own, &dataset], &compute)
        .with_context(|| format!("teacher {}", distill.teacher.display()))?;
    let student = student(&config, &teacher, &compute)?;
    let views = Views {
        config: &config,
        frames: frames.frames(),
    };
    let plan = plan(&views, group);
    let launch = Launch {
        recipe: &args.recipe,
        config: &config,
        model: &student,
        plan: &plan,
        load: Load {
            batch: distill.batch,
            n_images: views.frames.len(),
            checkpointing: false,
            teacher: Some(&teacher),
        },
        start: if distill.start.as_os_str().is_empty() {
            &distill.teacher
        } else {
            &distill.start
        },
    };
    if !launch.describe(&format!(
        "{} training images x {} views, {} validation images, {} batches an epoch, {} epochs",
        views.frames.len(),
        distill.views,
        validation.len(),
        views.len().div_ceil(distill.batch),
        epochs(distill)
    ))? {
        return Ok(Outcome::Finished);
    }
    let teacher_digest = checkpoint_digest(&weights)?;
    let identity = identity(&config, &dataset, &teacher_digest, group)?;
    let folder = launch.open_folder(identity, group)?;
    let fill = || views.teacher_cache(&folder.path, &teacher, teacher_digest, &dataset);
    let Some(cache) = group.first_then_others(fill)? else {
        return Ok(Outcome::Interrupted);
    };
    drop(teacher);
    let student = Student {
        views,
        cache,
        model: &student,
        validation: &validation,
        plan: &plan,
    };
    let folder = &folder;
    train_student(&student, Run { folder, group })
}

/// Every training image once, as it is.
fn training_frames(config: &Config, dataset: &Dataset) -> Result<Loader> {
    Loader::new(
        dataset,
        &dataset.of(Split::Train),
        LoaderOptions {
            input: config.input,
            labels: config.data.target,
            augmentation: None,
            batch: 1,
            seed: config.seed,
            shuffle: false,
        },
    )
}

fn student(config: &Config, teacher: &Model, compute: &Compute) -> Result<Model> {
    let sam = model::student_config(config);
    let start = Start {
        state: teacher::start_of_student(&config.distill.start, teacher, &sam)?,
        seed: config.seed,
        compute,
    };
    let mut student = Model::build(sam, config.input, start, |name| {
        !name.starts_with("prompt_encoder.p") && !name.starts_with("prompt_encoder.mask")
    })?;
    if config.distill.int8_epochs > 0 {
        student.mode = Mode::Int8;
    }
    Ok(student)
}

fn identity(
    config: &Config,
    dataset: &Dataset,
    teacher_digest: &str,
    group: &Group,
) -> Result<Identity> {
    let start = &config.distill.start;
    Ok(Identity {
        kind: RunKind::Student,
        seed: config.seed,
        recipe_digest: config.digest(),
        data_fingerprint: dataset.fingerprint.clone(),
        start_digest: teacher_digest.to_owned(),
        student_digest: if start.as_os_str().is_empty() {
            String::new()
        } else {
            checkpoint_digest(&start.join("best.safetensors"))?
        },
        code_version: report::CODE_VERSION.to_owned(),
        command: report::command_line(),
        processes: group.world(),
    })
}

/// Of all three stages.
fn epochs(distill: &config::Distill) -> u64 {
    distill.embedding_epochs + distill.mask_epochs + distill.int8_epochs
}

fn plan(views: &Views, group: &Group) -> Plan {
    let distill = &views.config.distill;
    Plan {
        epochs: epochs(distill),
        batches_per_epoch: views.len().div_ceil(distill.batch) as u64,
        accumulate: group.world() as u64,
        clip_norm: distill.clip_norm,
        ema: distill.ema,
        validate_every_epochs: 1,
        patience_epochs: u64::MAX,
    }
}

fn train_student(student: &Student, run: Run<'_>) -> Result<Outcome> {
    let distill = &student.views.config.distill;
    let vars = &student.model.loaded.vars;
    let config = AdamWConfig {
        weight_decay: distill.weight_decay,
        ..AdamWConfig::reference()
    };
    let mut optimizer = AdamW::new(vars, config)?;
    train::train(student, student.plan, &mut optimizer, run)
}

struct Student<'a> {
    views: Views<'a>,
    cache: OutputCache,
    model: &'a Model,
    validation: &'a [Sample],
    plan: &'a Plan,
}

impl Student<'_> {
    fn in_embedding_stage(&self, epoch: u64) -> bool {
        epoch < self.views.config.distill.embedding_epochs
    }
}

impl Task for Student<'_> {
    /// View indices.
    type Batch = Vec<usize>;

    fn batches(
        &self,
        epoch: u64,
        share: Share,
    ) -> Result<Box<dyn Iterator<Item = Result<Vec<usize>>> + '_>> {
        let mut order: Vec<usize> = (0..self.views.len()).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.views.config.seed ^ 0x5eed);
        rng.set_stream(epoch);
        order.shuffle(&mut rng);
        let batch = self.views.config.distill.batch;
        let batches: Vec<_> = order
            .chunks(batch)
            .skip(share.first)
            .step_by(share.every)
            .map(|indices| Ok(indices.to_vec()))
            .collect();
        Ok(Box::new(batches.into_iter()))
    }

    fn loss(&self, batch: &Vec<usize>, epoch: u64) -> Result<Loss<'_>> {
        let distill = &self.views.config.distill;
        let (images, labels) = self.views.images(batch)?;
        let (teacher_embedding, teacher_logits) = self.cache.batch(batch)?;
        let here = |tensor| self.model.here(tensor);
        let (images, labels) = (here(&images)?, here(&labels)?);
        let (teacher_embedding, teacher_logits) =
            (here(&teacher_embedding)?, here(&teacher_logits)?);
        let exact_epochs = distill.embedding_epochs + distill.mask_epochs;
        let mode = if epoch >= exact_epochs {
            Mode::Int8
        } else if epoch + distill.batch_norm_frozen_epochs >= exact_epochs {
            Mode::Eval
        } else {
            Mode::Train
        };
        let embedding = self.model.sam.embed(&images, mode)?;
        let mse = embedding_mse(&embedding, &teacher_embedding)?;
        if self.in_embedding_stage(epoch) {
            let parts = vec![("embedding", mse.to_scalar()?)];
            return Ok(Loss {
                total: mse,
                parts,
                tape: None,
            });
        }
        let decoded = self
            .model
            .sam
            .decode(&embedding, Prompts::default(), Tokens::Classes)?;
        let logits = resized(&decoded.masks, self.model.input.size)?;
        let truth = dice_ce(&logits, &labels)?;
        let soft = mask_distillation(&logits, &teacher_logits)?;
        let parts = vec![
            ("embedding", mse.to_scalar()?),
            ("dice", truth.dice.to_scalar()?),
            ("cross_entropy", truth.cross_entropy.to_scalar()?),
            ("teacher", soft.to_scalar()?),
        ];
        let hard = ((truth.dice + truth.cross_entropy)? * (1.0 - distill.teacher_weight))?;
        let masks = (hard + (soft * distill.teacher_weight)?)?;
        Ok(Loss {
            total: (masks + (mse * distill.embedding_weight)?)?,
            parts,
            tape: None,
        })
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let distill = &self.views.config.distill;
        let per_epoch = self.plan.steps_per_epoch();
        let mut step = step;
        for (peak, epochs) in [
            (distill.embedding_learning_rate, distill.embedding_epochs),
            (distill.mask_learning_rate, distill.mask_epochs),
        ] {
            if step < epochs * per_epoch {
                return warmup_poly(step, peak, distill.warmup_steps, epochs * per_epoch);
            }
            step -= epochs * per_epoch;
        }
        let (peak, steps) = (distill.int8_learning_rate, distill.int8_epochs * per_epoch);
        warmup_poly(step, peak, distill.warmup_steps, steps)
    }

    fn loaded(&self) -> &Loaded {
        &self.model.loaded
    }

    fn validate(&self) -> Result<f64> {
        validation_dice(self.model, self.validation)
    }
}
