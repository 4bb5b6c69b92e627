//! The loop: batches in, weights out. Fine-tuning and both stages of distillation run through it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use nets::image_encoder_vit::Tape;
use nets::optimizer::AdamW;
use nets::params::Loaded;

use crate::report::{Metrics, Progress};
use crate::run_folder::{Checkpoint, Position, RunFolder, State};

/// Set by Ctrl-C; the loop saves and stops at the next optimizer step.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The numbers of one run of the loop.
pub struct Plan {
    pub epochs: u64,
    pub batches_per_epoch: u64,
    /// Batches per optimizer step.
    pub accumulate: u64,
    pub clip_norm: f64,
    pub ema: f64,
    pub validate_every_epochs: u64,
    pub patience_epochs: u64,
}

impl Plan {
    pub fn validates_after(&self, epochs: u64) -> bool {
        epochs.is_multiple_of(self.validate_every_epochs.max(1)) || epochs == self.epochs
    }
}

/// What differs between fine-tuning and distillation.
pub trait Task {
    type Batch;

    /// The batches of an epoch without the first `skip`: a function of the task and these numbers.
    fn batches(
        &self,
        epoch: u64,
        skip: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Self::Batch>> + '_>>;
    fn loss(&self, batch: &Self::Batch, epoch: u64) -> Result<Loss<'_>>;
    fn learning_rate(&self, step: u64) -> f64;
    /// The network's weights and running statistics.
    fn loaded(&self) -> &Loaded;
    /// Whether a weight that no gradient reaches counts as one with a gradient of zero, and so decays.
    fn decays_without_gradient(&self, _name: &str) -> bool {
        false
    }
    /// Whether the weights are validated when so many epochs are done.
    fn validates_after(&self, epochs: u64, plan: &Plan) -> bool {
        plan.validates_after(epochs)
    }
    /// Mean foreground Dice over the validation images with the current weights.
    fn validate(&self) -> Result<f64>;
}

/// What one batch costs.
pub struct Loss<'a> {
    pub total: Tensor,
    /// For the log.
    pub parts: Vec<(&'static str, f32)>,
    /// Where the backward pass goes on behind the embedding, with gradient checkpointing.
    pub tape: Option<Tape<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Saved; `--resume` goes on.
    Interrupted,
}

/// Trains until the plan is done, patience is lost or Ctrl-C. Resuming gives the same weights
/// as an uninterrupted run: batches are a function of (seed, epoch), and moments are saved.
pub fn train<T: Task>(
    task: &T,
    plan: &Plan,
    optimizer: &mut AdamW,
    run: &RunFolder,
) -> Result<Outcome> {
    let (loaded, vars) = (task.loaded(), &task.loaded().vars);
    let mut position = Position::default();
    let mut averaged = Averaged::new(plan.ema, loaded)?;
    if let Some(last) = run.last()? {
        loaded.restore(&last.model)?;
        optimizer.load_state(&last.optimizer)?;
        averaged.load(last.averaged);
        position = last.position;
    }
    let mut metrics = Metrics::open(&run.path, position.step)?;
    while position.epoch < plan.epochs && !position.finished {
        let progress = Progress::epoch(position.epoch, plan.epochs, plan.batches_per_epoch);
        let mut gradients = Gradients::default();
        let start = position.batch;
        for (index, batch) in (start..).zip(task.batches(position.epoch, start as usize)?) {
            let loss = task.loss(&batch?, position.epoch)?;
            let value = loss.total.to_scalar::<f32>()?;
            if !value.is_finite() {
                bail!(
                    "the loss is {value}: {}",
                    remedy(run, position.epoch, index)
                );
            }
            gradients.add(loss, value, vars)?;
            progress.advance(index + 1, value);
            let last_of_epoch = index + 1 == plan.batches_per_epoch;
            if !last_of_epoch && gradients.count < plan.accumulate {
                continue;
            }
            let learning_rate = task.learning_rate(position.step);
            let mut mean = gradients.take()?;
            for (name, var) in vars {
                if !mean.gradients.contains_key(name) && task.decays_without_gradient(name) {
                    mean.gradients.insert(name.clone(), var.zeros_like()?);
                }
            }
            let norm = optimizer
                .step(&mean.gradients, learning_rate, plan.clip_norm)
                .with_context(|| remedy(run, position.epoch, index))?;
            averaged.update(loaded, position.step)?;
            position.step += 1;
            position.batch = index + 1;
            metrics.step(
                position.step,
                position.epoch,
                learning_rate,
                norm,
                mean.loss,
                &mean.parts,
            )?;
            if INTERRUPTED.load(Ordering::Relaxed) {
                save(loaded, run, &position, optimizer, &averaged)?;
                return Ok(Outcome::Interrupted);
            }
        }
        position.epoch += 1;
        position.batch = 0;
        if task.validates_after(position.epoch, plan) {
            let dice = judge(task, plan, run, &mut position, &averaged)?;
            metrics.validation(position.step, position.epoch, dice, position.best_dice)?;
        }
        save(loaded, run, &position, optimizer, &averaged)?;
    }
    Ok(Outcome::Finished)
}

fn remedy(run: &RunFolder, epoch: u64, batch: u64) -> String {
    let last = run.path.join("last.safetensors");
    let saved = if last.exists() {
        format!("; the last good weights are in {}", last.display())
    } else {
        String::new()
    };
    format!(
        "epoch {epoch}, batch {batch}: lower the learning rate or look at the images of this batch{saved}"
    )
}

/// Validates the averaged weights, keeps them when they are the best so far, and notices lost patience.
fn judge<T: Task>(
    task: &T,
    plan: &Plan,
    run: &RunFolder,
    position: &mut Position,
    averaged: &Averaged,
) -> Result<f64> {
    let loaded = task.loaded();
    let current = averaged.swap_in(loaded)?;
    let dice = task.validate()?;
    if dice > position.best_dice || position.best_epoch == 0 {
        position.best_dice = dice;
        position.best_epoch = position.epoch;
        run.save_best(&loaded.state_dict()?, position)?;
    }
    put(loaded, &current)?;
    position.finished = position.epoch == plan.epochs
        || position.epoch - position.best_epoch >= plan.patience_epochs;
    Ok(dice)
}

fn save(
    loaded: &Loaded,
    run: &RunFolder,
    position: &Position,
    optimizer: &AdamW,
    averaged: &Averaged,
) -> Result<()> {
    run.save_last(&Checkpoint {
        position: position.clone(),
        model: loaded.state_dict()?,
        averaged: averaged.values.clone(),
        optimizer: optimizer.state()?,
    })
}

/// Sums over the batches of one optimizer step.
#[derive(Default)]
struct Gradients {
    sum: BTreeMap<String, Tensor>,
    loss: f32,
    parts: Vec<(&'static str, f32)>,
    count: u64,
}

/// Means over the batches of one optimizer step.
struct Mean {
    gradients: BTreeMap<String, Tensor>,
    loss: f32,
    parts: Vec<(&'static str, f32)>,
}

impl Gradients {
    fn add(
        &mut self,
        Loss { total, parts, tape }: Loss<'_>,
        value: f32,
        vars: &BTreeMap<String, Var>,
    ) -> Result<()> {
        let store = total.backward()?;
        drop(total);
        self.collect(&store, vars)?;
        if let Some(tape) = tape {
            let names = vars.keys();
            let encoder: Vec<&str> = names
                .filter_map(|name| name.strip_prefix("image_encoder."))
                .collect();
            tape.backward(&store, &encoder, |store| self.collect(store, vars))?;
        }
        self.loss += value;
        if self.parts.is_empty() {
            self.parts = parts.iter().map(|&(name, _)| (name, 0.0)).collect();
        }
        for ((_, sum), (_, part)) in self.parts.iter_mut().zip(parts) {
            *sum += part;
        }
        self.count += 1;
        Ok(())
    }

    fn collect(
        &mut self,
        store: &GradStore,
        vars: &BTreeMap<String, Var>,
    ) -> candle_core::Result<()> {
        for (name, var) in vars {
            let Some(gradient) = store.get(var.as_tensor()) else {
                continue;
            };
            let gradient = match self.sum.remove(name) {
                Some(sum) => (sum + gradient)?,
                None => gradient.clone(),
            };
            self.sum.insert(name.clone(), gradient.detach());
        }
        Ok(())
    }

    /// The means over the batches added, leaving nothing.
    fn take(&mut self) -> Result<Mean> {
        let Self {
            sum,
            loss,
            mut parts,
            count,
        } = std::mem::take(self);
        let scale = 1.0 / count as f64;
        for (_, sum) in &mut parts {
            *sum /= count as f32;
        }
        Ok(Mean {
            gradients: sum
                .into_iter()
                .map(|(name, sum)| Ok((name, (sum * scale)?)))
                .collect::<Result<_>>()?,
            loss: loss / count as f32,
            parts,
        })
    }
}

/// Exponential moving average of weights and running statistics, which belong together; empty when
/// switched off.
struct Averaged {
    decay: f64,
    values: State,
}

impl Averaged {
    fn new(decay: f64, loaded: &Loaded) -> Result<Self> {
        let mut values = State::new();
        if decay > 0.0 {
            for (name, var) in loaded.live() {
                values.insert(name.clone(), var.as_tensor().detach().copy()?);
            }
        }
        Ok(Self { decay, values })
    }

    fn load(&mut self, values: State) {
        self.values = values;
    }

    /// The decay ramps up over the first steps, so the average forgets the start weights.
    fn update(&mut self, loaded: &Loaded, step: u64) -> Result<()> {
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        for (name, var) in loaded.live() {
            if let Some(value) = self.values.get_mut(name) {
                let current = var.as_tensor().detach();
                *value = ((&*value * decay)? + (current * (1.0 - decay))?)?;
            }
        }
        Ok(())
    }

    /// Puts the average in place and returns what was there.
    fn swap_in(&self, loaded: &Loaded) -> Result<State> {
        let mut current = State::new();
        for (name, var) in loaded.live() {
            if self.values.contains_key(name) {
                current.insert(name.clone(), var.as_tensor().detach().copy()?);
            }
        }
        put(loaded, &self.values)?;
        Ok(current)
    }
}

fn put(loaded: &Loaded, values: &State) -> Result<()> {
    for (name, var) in loaded.live() {
        if let Some(value) = values.get(name) {
            var.set(value)?;
        }
    }
    Ok(())
}
