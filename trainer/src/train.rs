//! The loop: batches in, weights out. Fine-tuning and both stages of distillation run through it.

mod gradients;

use anyhow::{Context, Result, bail};
use nets::optimizer::AdamW;
use nets::params::Loaded;
use sha2::{Digest, Sha256};

use self::gradients::Gradients;
pub use self::gradients::{INTERRUPTED, Loss};
use crate::parallel::Group;
use crate::report::{Metrics, Progress, Step};
use crate::run_folder::{Checkpoint, Position, RunFolder, State};

/// The numbers of one run of the loop.
pub struct Plan {
    pub epochs: u64,
    pub batches_per_epoch: u64,
    /// Batches per optimizer step, those of all processes together.
    pub accumulate: u64,
    pub clip_norm: f64,
    pub ema: f64,
    pub validate_every_epochs: u64,
    pub patience_epochs: u64,
}

impl Plan {
    /// Optimizer steps; the last of an epoch may have fewer batches.
    pub fn steps_per_epoch(&self) -> u64 {
        self.batches_per_epoch.div_ceil(self.accumulate)
    }

    pub fn validates_after(&self, epochs: u64) -> bool {
        epochs.is_multiple_of(self.validate_every_epochs.max(1)) || epochs == self.epochs
    }
}

/// What differs between fine-tuning and distillation.
pub trait Task {
    type Batch;

    /// Some batches of an epoch: a function of the task and these numbers.
    fn batches(
        &self,
        epoch: u64,
        share: Share,
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

/// The batches that a process trains on: `first`, counted from the start of the epoch, and from there
/// every `every`th.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub first: usize,
    pub every: usize,
}

impl Share {
    pub const ALL: Self = Self { first: 0, every: 1 };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Saved; `--resume` goes on.
    Interrupted,
}

/// Where a run is kept, and which processes take part in it.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub folder: &'a RunFolder,
    pub group: &'a Group,
}

/// Trains until the plan is done, patience is lost or Ctrl-C. Resuming gives the same weights
/// as an uninterrupted run: batches are a function of (seed, epoch), and moments are saved.
/// All processes of the run's group take the same steps, on batches that are dealt out in turn.
pub fn train<T: Task>(
    task: &T,
    plan: &Plan,
    optimizer: &mut AdamW,
    run: Run<'_>,
) -> Result<Outcome> {
    let mut state = Loop::open(task, plan, optimizer, run)?;
    while state.position.epoch < plan.epochs && !state.position.finished {
        let progress = Progress::epoch(state.position.epoch, plan.epochs, plan.batches_per_epoch);
        let interrupted = state.epoch(optimizer, &progress)?;
        if interrupted {
            state.save(optimizer)?;
            return Ok(Outcome::Interrupted);
        }
        state.position.epoch += 1;
        state.position.batch = 0;
        ensure_same_weights(run.group, task.loaded(), &state.position)?;
        if task.validates_after(state.position.epoch, plan) {
            state.judge()?;
        }
        state.save(optimizer)?;
    }
    Ok(Outcome::Finished)
}

/// Where the loop stands, and what it works with.
struct Loop<'a, T> {
    task: &'a T,
    plan: &'a Plan,
    run: Run<'a>,
    position: Position,
    averaged: Averaged,
    /// Of rank 0.
    metrics: Option<Metrics>,
}

impl<'a, T: Task> Loop<'a, T> {
    /// At the last checkpoint, where there is one.
    fn open(task: &'a T, plan: &'a Plan, optimizer: &mut AdamW, run: Run<'a>) -> Result<Self> {
        let loaded = task.loaded();
        let mut position = Position::default();
        let mut averaged = Averaged::new(plan.ema, loaded)?;
        if let Some(last) = run.folder.last()? {
            loaded.restore(&last.model)?;
            optimizer.load_state(&last.optimizer)?;
            averaged.load(last.averaged, loaded)?;
            position = last.position;
        }
        ensure_same_weights(run.group, loaded, &position)?;
        let mut metrics = None;
        if run.group.is_first() {
            metrics = Some(Metrics::open(&run.folder.path, position.step)?);
        }
        Ok(Self {
            task,
            plan,
            run,
            position,
            averaged,
            metrics,
        })
    }

    /// Takes the steps that are left of this epoch; true after Ctrl-C.
    fn epoch(&mut self, optimizer: &mut AdamW, progress: &Progress) -> Result<bool> {
        let (task, plan) = (self.task, self.plan);
        let (rank, world) = (self.run.group.rank() as u64, self.run.group.world());
        let share = Share {
            first: (self.position.batch + rank) as usize,
            every: world,
        };
        let mut batches = task.batches(self.position.epoch, share)?;
        while self.position.batch < plan.batches_per_epoch {
            let end = (self.position.batch + plan.accumulate).min(plan.batches_per_epoch);
            let indices = (self.position.batch + rank..end).step_by(world);
            let gradients = self.gradients(indices.zip(batches.by_ref()), progress)?;
            let interrupted = self.step(gradients, end, optimizer)?;
            if interrupted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sums over those batches of one step that are this process's.
    fn gradients(
        &self,
        batches: impl Iterator<Item = (u64, Result<T::Batch>)>,
        progress: &Progress,
    ) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        for (index, batch) in batches {
            let loss = self.task.loss(&batch?, self.position.epoch)?;
            let value = loss.total.to_scalar::<f32>()?;
            if !value.is_finite() {
                bail!("the loss is {value}: {}", self.remedy(index));
            }
            gradients.add(loss, value, &self.task.loaded().vars)?;
            progress.advance(index + 1, value);
        }
        Ok(gradients)
    }

    /// One step of the optimizer, up to batch `end`; true after Ctrl-C.
    fn step(&mut self, gradients: Gradients, end: u64, optimizer: &mut AdamW) -> Result<bool> {
        let (task, loaded) = (self.task, self.task.loaded());
        let learning_rate = task.learning_rate(self.position.step);
        let mut mean = gradients.mean(self.run.group, loaded)?;
        for (name, var) in &loaded.vars {
            if !mean.gradients.contains_key(name) && task.decays_without_gradient(name) {
                mean.gradients.insert(name.clone(), var.zeros_like()?);
            }
        }
        let gradient_norm = optimizer
            .step(&mean.gradients, learning_rate, self.plan.clip_norm)
            .with_context(|| self.remedy(end - 1))?;
        self.averaged.update(loaded, self.position.step)?;
        self.position.step += 1;
        self.position.batch = end;
        if let Some(metrics) = &mut self.metrics {
            metrics.step(&Step {
                step: self.position.step,
                epoch: self.position.epoch,
                learning_rate,
                gradient_norm,
                loss: mean.loss,
                parts: &mean.parts,
            })?;
        }
        Ok(mean.interrupted)
    }

    /// Validates the averaged weights, keeps them when they are the best so far, and notices lost patience.
    fn judge(&mut self) -> Result<()> {
        let (task, loaded, position) = (self.task, self.task.loaded(), &mut self.position);
        let current = self.averaged.swap_in(loaded)?;
        // As bits: JSON has no NaN.
        let validate = || Ok(task.validate()?.to_bits());
        let dice = f64::from_bits(self.run.group.from_first(validate)?);
        if dice > position.best_dice || position.best_epoch == 0 {
            position.best_dice = dice;
            position.best_epoch = position.epoch;
            if self.run.group.is_first() {
                self.run.folder.save_best(&loaded.state_dict()?, position)?;
            }
        }
        put(loaded, &current)?;
        position.finished = position.epoch == self.plan.epochs
            || position.epoch - position.best_epoch >= self.plan.patience_epochs;
        if let Some(metrics) = &mut self.metrics {
            metrics.validation(position.step, position.epoch, dice, position.best_dice)?;
        }
        Ok(())
    }

    /// Rank 0 does.
    fn save(&self, optimizer: &AdamW) -> Result<()> {
        if !self.run.group.is_first() {
            return Ok(());
        }
        self.run.folder.save_last(&Checkpoint {
            position: self.position.clone(),
            model: self.task.loaded().state_dict()?,
            averaged: self.averaged.values.clone(),
            optimizer: optimizer.state()?,
        })
    }

    fn remedy(&self, batch: u64) -> String {
        let last = self.run.folder.path.join("last.safetensors");
        let saved = if last.exists() {
            format!("; the last good weights are in {}", last.display())
        } else {
            String::new()
        };
        format!(
            "epoch {}, batch {batch}: lower the learning rate or look at the images of this batch{saved}",
            self.position.epoch
        )
    }
}

/// Processes that drifted apart would go on for days with gradients of different networks.
fn ensure_same_weights(group: &Group, loaded: &Loaded, position: &Position) -> Result<()> {
    if group.world() == 1 {
        return Ok(());
    }
    let mut hash = Sha256::new();
    for (_, var) in loaded.live() {
        for value in var.as_tensor().flatten_all()?.to_vec1::<f32>()? {
            hash.update(value.to_le_bytes());
        }
    }
    let digest = hex::encode(hash.finalize());
    tracing::info!(
        rank = group.rank(),
        epoch = position.epoch,
        step = position.step,
        digest,
        "weights"
    );
    group.ensure_same(
        &format!("weights at step {}", position.step),
        &digest,
        "start all processes with the same files and the same program, on machines of one kind, and \
         with --resume if the run had begun",
    )
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

    fn load(&mut self, values: State, loaded: &Loaded) -> Result<()> {
        self.values = values;
        for (name, var) in loaded.live() {
            if let Some(value) = self.values.get_mut(name) {
                *value = value.to_device(var.device())?;
            }
        }
        Ok(())
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
            var.set(&value.to_device(var.device())?)?;
        }
    }
    Ok(())
}
