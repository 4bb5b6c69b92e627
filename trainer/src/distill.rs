//! Distillation of a fine-tuned teacher into a ViT-T at the input size: first its embedding, then masks with the
//! decoder in the loop, last, where it is asked for, the same as int8 will round it. Teacher outputs are computed once
//! and read from disk.

mod teacher;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
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
use sha2::{Digest, Sha256};

use crate::augment::{Frame, augment};
use crate::batch::{Loader, LoaderOptions};
use crate::cli::DistillArgs;
use crate::compute;
use crate::config::{self, Config};
use crate::dataset::{Dataset, Sample, Split};
use crate::estimate::Load;
use crate::finetune::{checkpoint_digest, samples, validation_dice};
use crate::launch::Launch;
use crate::model::{self, Model, Start, resized};
use crate::output_cache::{Key, OutputCache};
use crate::parallel::Group;
use crate::report::{self, Progress};
use crate::run_folder::{Identity, RunKind};
use crate::train::{self, INTERRUPTED, Loss, Outcome, Plan, Run, Share, Task};

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

/// Every training image as it is (view 0) and augmented (the others), by index.
struct Views<'a> {
    config: &'a Config,
    frames: &'a [Frame],
}

impl Views<'_> {
    fn len(&self) -> usize {
        self.frames.len() * self.config.distill.views
    }

    /// A function of (seed, index) alone, so the cached teacher outputs belong to it.
    fn frame(&self, index: usize) -> Frame {
        let frame = &self.frames[index / self.config.distill.views];
        let as_it_is = index.is_multiple_of(self.config.distill.views);
        if as_it_is || !self.config.augmentation.enabled {
            return frame.clone();
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        rng.set_stream(1 + index as u64);
        augment(frame, &self.config.augmentation, &mut rng)
    }

    fn images(&self, indices: &[usize]) -> Result<(Tensor, Tensor)> {
        let size = self.config.input.size;
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for &index in indices {
            let frame = self.frame(index);
            pixels.extend(frame.pixels);
            labels.extend(frame.labels.data.iter().map(|&label| u32::from(label)));
        }
        let n = indices.len();
        Ok((
            Tensor::from_vec(pixels, (n, 3, size, size), &Device::Cpu)?,
            Tensor::from_vec(labels, (n, size, size), &Device::Cpu)?,
        ))
    }

    /// Teacher embedding, averaged to the student's grid, and logits at the input size, of every view.
    /// `None` after Ctrl-C: what is done stays.
    fn teacher_cache(
        &self,
        run: &Path,
        teacher: &Model,
        teacher_digest: String,
        dataset: &Dataset,
    ) -> Result<Option<OutputCache>> {
        let size = self.config.input.size;
        let grid = size / 16;
        let preparation = serde_json::to_string(&(self.config.input, &self.config.augmentation))?;
        let key = Key {
            weights_digest: teacher_digest,
            data_fingerprint: dataset.fingerprint.clone(),
            preparation_digest: hex::encode(Sha256::digest(preparation)),
            seed: self.config.seed,
            n_records: self.len(),
            embedding: [256, grid, grid],
            logits: [self.config.num_cls(), size, size],
        };
        let progress = Progress::images("teacher outputs", self.len() as u64);
        let output = |index: usize| {
            let (image, _) = self.images(&[index])?;
            let image = resized(&image, teacher.input.size)?;
            let embedding = teacher
                .sam
                .embed_without_gradient(&teacher.here(&image)?, Mode::Eval)?;
            let decoded = teacher
                .sam
                .decode(&embedding, Prompts::default(), Tokens::Classes)?;
            Ok((averaged(&embedding, grid)?, resized(&decoded.masks, size)?))
        };
        let mut stopped = false;
        let cache = OutputCache::fill(&run.join("teacher"), key, output, |done| {
            progress.images_done(done as u64);
            stopped = INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed);
            ensure!(!stopped, "interrupted");
            Ok(())
        });
        if stopped { Ok(None) } else { cache.map(Some) }
    }
}

/// (1, C, g, g) to (1, C, side, side): each cell the mean of what it covers, in parts too (64 to 24 at 384 px).
fn averaged(embedding: &Tensor, side: usize) -> Result<Tensor> {
    let (_, _, _, own) = embedding.dims4()?;
    if own <= side {
        return resized(embedding, side);
    }
    let step = own as f64 / side as f64;
    let covers: Vec<f32> = (0..side * own)
        .map(|i| {
            let (cell, column) = ((i / own) as f64, (i % own) as f64);
            let overlap = ((cell + 1.0) * step).min(column + 1.0) - (cell * step).max(column);
            (overlap.max(0.0) / step) as f32
        })
        .collect();
    let rows = Tensor::from_vec(covers, (side, own), embedding.device())?;
    let columns = rows.t()?.contiguous()?;
    Ok(rows
        .broadcast_matmul(&embedding.broadcast_matmul(&columns)?)?
        .contiguous()?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_the_mean_of_what_it_covers() {
        // Rows of 0, 1, 2 to two: (0 + 0.5) / 1.5 and (0.5 + 2) / 1.5.
        let ramp = Tensor::arange(0f32, 3.0, &Device::Cpu).unwrap();
        let map = ramp
            .reshape((1, 1, 1, 3))
            .unwrap()
            .broadcast_as((1, 1, 3, 3));
        let found = averaged(&map.unwrap(), 2).unwrap().squeeze(0).unwrap();
        let rows = found.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        for row in rows {
            assert!((row[0] - 1.0 / 3.0).abs() < 1e-6 && (row[1] - 5.0 / 3.0).abs() < 1e-6);
        }
        let whole = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap();
        let whole = whole.reshape((1, 1, 4, 4)).unwrap();
        let difference = (averaged(&whole, 2).unwrap() - whole.avg_pool2d(2).unwrap()).unwrap();
        assert!(
            difference
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                < 1e-6
        );
    }
}
