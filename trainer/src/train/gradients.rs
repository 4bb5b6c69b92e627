//! The gradient of an optimizer step: sums over its batches, then over the processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use nets::image_encoder_vit::checkpointing::Tape;
use nets::params::Loaded;
use serde::{Deserialize, Serialize};

use crate::parallel::Group;

/// Set by Ctrl-C; the loop saves and stops at the next optimizer step.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What one batch costs.
pub struct Loss<'a> {
    pub total: Tensor,
    /// For the log.
    pub parts: Vec<(&'static str, f32)>,
    /// Where the backward pass goes on behind the embedding, with gradient checkpointing.
    pub tape: Option<Tape<'a>>,
}

/// Sums over the batches of one optimizer step, of this process.
#[derive(Default)]
pub(super) struct Gradients {
    sum: BTreeMap<String, Tensor>,
    loss: f32,
    parts: Vec<(&'static str, f32)>,
    count: u64,
}

/// Means over the batches of one optimizer step, of all processes.
pub(super) struct Mean {
    pub(super) gradients: BTreeMap<String, Tensor>,
    pub(super) loss: f32,
    /// Known to rank 0.
    pub(super) parts: Vec<(&'static str, f32)>,
    /// Whether any process got Ctrl-C.
    pub(super) interrupted: bool,
}

/// What a process tells the others before the gradients are added up.
#[derive(Serialize, Deserialize)]
struct Contribution {
    count: u64,
    loss: f32,
    parts: Vec<f32>,
    /// For each variable in turn: whether there is a gradient.
    reached: Vec<bool>,
    interrupted: bool,
}

impl Gradients {
    pub(super) fn add(
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

    /// Every batch counts the same, whichever process it fell to; some may have none in the last step of
    /// an epoch. All go on with the running statistics of rank 0, which always has one: its batches are
    /// drawn like all others, and a mean would move those that are frozen by its rounding.
    pub(super) fn mean(mut self, group: &Group, loaded: &Loaded) -> Result<Mean> {
        let vars = &loaded.vars;
        let all = group.exchange(self.contribution(vars))?;
        let is_reached = |place| all.iter().any(|one| one.reached.get(place) == Some(&true));
        let (mut names, mut tensors) = (Vec::new(), Vec::new());
        for (place, (name, var)) in vars.iter().enumerate() {
            if is_reached(place) {
                let own = self.sum.remove(name);
                tensors.push(own.map_or_else(|| var.zeros_like(), Ok)?);
                names.push(name.clone());
            }
        }
        let mut running = Vec::new();
        if group.world() > 1 {
            running.extend(loaded.running());
        }
        for var in &running {
            tensors.push(if group.is_first() {
                var.as_detached_tensor()
            } else {
                var.zeros_like()?
            });
        }
        let mut sums = group.sum(tensors)?;
        for (var, value) in running.into_iter().zip(sums.split_off(names.len())) {
            var.set(&value)?;
        }
        let count: u64 = all.iter().map(|one| one.count).sum();
        let scale = 1.0 / count as f64;
        let mean = |values: &mut dyn Iterator<Item = f32>| values.sum::<f32>() / count as f32;
        let part = |place| {
            let mut of_all = all.iter().filter_map(|one| one.parts.get(place).copied());
            mean(&mut of_all)
        };
        let parts = self.parts.iter().enumerate();
        Ok(Mean {
            loss: mean(&mut all.iter().map(|one| one.loss)),
            parts: parts
                .map(|(place, &(name, _))| (name, part(place)))
                .collect(),
            interrupted: all.iter().any(|one| one.interrupted),
            gradients: names
                .into_iter()
                .zip(sums)
                .map(|(name, sum)| Ok((name, (sum * scale)?)))
                .collect::<Result<_>>()?,
        })
    }

    fn contribution(&self, vars: &BTreeMap<String, Var>) -> Contribution {
        let reached = vars.keys().map(|name| self.sum.contains_key(name));
        Contribution {
            count: self.count,
            loss: self.loss,
            parts: self.parts.iter().map(|&(_, part)| part).collect(),
            reached: reached.collect(),
            interrupted: INTERRUPTED.load(Ordering::Relaxed),
        }
    }
}
