//! The loop: batches in, weights out. Fine-tuning and both stages of distillation run through it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use candle_core::{Tensor, Var};
use nets::optimizer::AdamW;

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

/// What differs between fine-tuning and distillation.
pub trait Task {
    type Batch;

    /// The batches of an epoch without the first `skip`: a function of the task and these numbers.
    fn batches(
        &self,
        epoch: u64,
        skip: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<Self::Batch>> + '_>>;
    /// Total loss and its named parts for the log.
    fn loss(&self, batch: &Self::Batch, epoch: u64) -> Result<(Tensor, Vec<(&'static str, f32)>)>;
    fn learning_rate(&self, step: u64) -> f64;
    /// Current weights with buffers.
    fn state(&self) -> Result<State>;
    fn restore(&self, state: &State) -> Result<()>;
    /// Mean foreground Dice over the validation images with the current weights.
    fn validate(&self) -> Result<f64>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Saved; `--resume` goes on.
    Interrupted,
}

/// Trains `vars` until the plan is done, patience is lost or Ctrl-C. Resuming gives the same weights
/// as an uninterrupted run: batches are a function of (seed, epoch), and moments are saved.
pub fn train<T: Task>(
    task: &T,
    plan: &Plan,
    optimizer: &mut AdamW,
    vars: &BTreeMap<String, Var>,
    run: &RunFolder,
) -> Result<Outcome> {
    let mut position = Position::default();
    let mut averaged = Averaged::new(plan.ema, vars)?;
    if let Some(last) = run.last()? {
        task.restore(&last.model)?;
        optimizer.load_state(&last.optimizer)?;
        averaged.load(last.averaged);
        position = last.position;
    }
    let mut metrics = Metrics::open(&run.path.join("metrics.jsonl"), position.step)?;
    while position.epoch < plan.epochs && !position.finished {
        let progress = Progress::epoch(position.epoch, plan.epochs, plan.batches_per_epoch);
        let mut gradients = Gradients::default();
        let start = position.batch;
        for (index, batch) in (start..).zip(task.batches(position.epoch, start as usize)?) {
            let (loss, parts) = task.loss(&batch?, position.epoch)?;
            let value = loss.to_scalar::<f32>()?;
            if !value.is_finite() {
                bail!(
                    "the loss is {value} in epoch {}, batch {index}: lower the learning rate or \
                     look at the images of this batch; the last good weights are in {}",
                    position.epoch,
                    run.path.join("last.safetensors").display()
                );
            }
            gradients.add(&loss, vars)?;
            progress.advance(index + 1, value);
            let last_of_epoch = index + 1 == plan.batches_per_epoch;
            if !last_of_epoch && gradients.count < plan.accumulate {
                continue;
            }
            let learning_rate = task.learning_rate(position.step);
            let norm = optimizer.step(&gradients.take()?, learning_rate, plan.clip_norm)?;
            averaged.update(vars, position.step)?;
            position.step += 1;
            position.batch = index + 1;
            metrics.step(
                position.step,
                position.epoch,
                learning_rate,
                norm,
                value,
                &parts,
            )?;
            if INTERRUPTED.load(Ordering::Relaxed) {
                save(task, run, &position, optimizer, &averaged)?;
                return Ok(Outcome::Interrupted);
            }
        }
        position.epoch += 1;
        position.batch = 0;
        let due = position.epoch % plan.validate_every_epochs.max(1) == 0;
        if due || position.epoch == plan.epochs {
            judge(task, plan, run, &mut position, &averaged, vars)?;
            metrics.validation(position.step, position.epoch, position.best_dice)?;
        }
        save(task, run, &position, optimizer, &averaged)?;
    }
    Ok(Outcome::Finished)
}

/// Validates the averaged weights, keeps them when they are the best so far, and notices lost patience.
fn judge<T: Task>(
    task: &T,
    plan: &Plan,
    run: &RunFolder,
    position: &mut Position,
    averaged: &Averaged,
    vars: &BTreeMap<String, Var>,
) -> Result<()> {
    let current = averaged.swap_in(vars)?;
    let dice = task.validate()?;
    tracing::info!(epoch = position.epoch, dice, "validated");
    if dice > position.best_dice || position.best_epoch == 0 {
        position.best_dice = dice;
        position.best_epoch = position.epoch;
        run.save_best(&task.state()?, position)?;
    }
    for (name, value) in current {
        vars[&name].set(&value)?;
    }
    position.finished = position.epoch == plan.epochs
        || position.epoch - position.best_epoch > plan.patience_epochs;
    Ok(())
}

fn save<T: Task>(
    task: &T,
    run: &RunFolder,
    position: &Position,
    optimizer: &AdamW,
    averaged: &Averaged,
) -> Result<()> {
    run.save_last(&Checkpoint {
        position: position.clone(),
        model: task.state()?,
        averaged: averaged.values.clone(),
        optimizer: optimizer.state()?,
    })
}

/// Sum of gradients over the batches of one optimizer step.
#[derive(Default)]
struct Gradients {
    sum: BTreeMap<String, Tensor>,
    count: u64,
}

impl Gradients {
    fn add(&mut self, loss: &Tensor, vars: &BTreeMap<String, Var>) -> Result<()> {
        let store = loss.backward()?;
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
        self.count += 1;
        Ok(())
    }

    /// The mean over the batches added, leaving nothing.
    fn take(&mut self) -> Result<BTreeMap<String, Tensor>> {
        let scale = 1.0 / self.count as f64;
        self.count = 0;
        std::mem::take(&mut self.sum)
            .into_iter()
            .map(|(name, sum)| Ok((name, (sum * scale)?)))
            .collect()
    }
}

/// Exponential moving average of the trained weights; empty when switched off.
struct Averaged {
    decay: f64,
    values: State,
}

impl Averaged {
    fn new(decay: f64, vars: &BTreeMap<String, Var>) -> Result<Self> {
        let mut values = State::new();
        if decay > 0.0 {
            for (name, var) in vars {
                values.insert(name.clone(), var.as_tensor().detach().copy()?);
            }
        }
        Ok(Self { decay, values })
    }

    fn load(&mut self, values: State) {
        self.values = values;
    }

    /// The decay ramps up over the first steps, so the average forgets the start weights.
    fn update(&mut self, vars: &BTreeMap<String, Var>, step: u64) -> Result<()> {
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        for (name, value) in &mut self.values {
            let current = vars[name].as_tensor().detach();
            *value = ((&*value * decay)? + (current * (1.0 - decay))?)?;
        }
        Ok(())
    }

    /// Puts the average into the variables and returns what was there.
    fn swap_in(&self, vars: &BTreeMap<String, Var>) -> Result<State> {
        let mut current = State::new();
        for (name, value) in &self.values {
            current.insert(name.clone(), vars[name].as_tensor().detach().copy()?);
            vars[name].set(value)?;
        }
        Ok(current)
    }
}
