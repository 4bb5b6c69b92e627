//! AdamW with moments that can be saved, so that a resumed run is the same run.

use std::collections::BTreeMap;

use candle_core::{Error, Result, Tensor, Var};
use rayon::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled, on every parameter.
    pub weight_decay: f64,
}

impl AdamWConfig {
    /// The reference's values, which are PyTorch's with weight decay 0.1.
    pub fn reference() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
        }
    }
}

struct Slot {
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: u32,
}

pub struct AdamW {
    config: AdamWConfig,
    slots: BTreeMap<String, Slot>,
}

impl AdamW {
    pub fn new(vars: &BTreeMap<String, Var>, config: AdamWConfig) -> Self {
        let slots = vars
            .iter()
            .map(|(name, var)| {
                let zeros = vec![0.0; var.elem_count()];
                let slot = Slot {
                    var: var.clone(),
                    first: zeros.clone(),
                    second: zeros,
                    steps: 0,
                };
                (name.clone(), slot)
            })
            .collect();
        Self { config, slots }
    }

    /// One update with gradients scaled down to `clip_norm` (0: never); returns their norm before.
    /// Variables without a gradient are left alone: no decay, no step, as in PyTorch. A norm that is
    /// not finite is an error and changes nothing.
    pub fn step(
        &mut self,
        gradients: &BTreeMap<String, Tensor>,
        learning_rate: f64,
        clip_norm: f64,
    ) -> Result<f64> {
        let mut values = BTreeMap::new();
        let mut square_sum = 0.0;
        for (name, gradient) in gradients {
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            square_sum += gradient
                .iter()
                .map(|&g| f64::from(g) * f64::from(g))
                .sum::<f64>();
            values.insert(name.as_str(), gradient);
        }
        let norm = square_sum.sqrt();
        if !norm.is_finite() {
            return Err(Error::Msg(format!("the gradient norm is {norm}")));
        }
        let scale = if clip_norm > 0.0 && norm > clip_norm {
            clip_norm / norm
        } else {
            1.0
        };
        for (name, gradient) in values {
            let slot = self
                .slots
                .get_mut(name)
                .ok_or_else(|| Error::Msg(format!("gradient of {name}, which does not train")))?;
            slot.update(&gradient, scale as f32, learning_rate, self.config)?;
        }
        Ok(norm)
    }

    /// Moments and step counts by name.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, slot) in &self.slots {
            let (shape, device) = (slot.var.shape(), slot.var.device());
            for (kind, moment) in [("first", &slot.first), ("second", &slot.second)] {
                let tensor = Tensor::from_slice(moment, shape, device)?;
                state.insert(format!("{name}.{kind}"), tensor);
            }
            state.insert(format!("{name}.steps"), Tensor::new(slot.steps, device)?);
        }
        Ok(state)
    }

    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, slot) in &mut self.slots {
            let part = |kind: &str| {
                state.get(&format!("{name}.{kind}")).ok_or_else(|| {
                    Error::Msg(format!(
                        "the checkpoint lacks the optimizer's {name}.{kind}"
                    ))
                })
            };
            slot.first = part("first")?.flatten_all()?.to_vec1()?;
            slot.second = part("second")?.flatten_all()?.to_vec1()?;
            slot.steps = part("steps")?.to_scalar()?;
        }
        Ok(())
    }
}

impl Slot {
    fn update(
        &mut self,
        gradient: &[f32],
        scale: f32,
        learning_rate: f64,
        config: AdamWConfig,
    ) -> Result<()> {
        self.steps += 1;
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = config;
        let correction1 = 1.0 - beta1.powi(self.steps as i32);
        let correction2 = (1.0 - beta2.powi(self.steps as i32)).sqrt();
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        let (rate, eps) = ((learning_rate / correction1) as f32, eps as f32);
        let (b1, b2, root) = (beta1 as f32, beta2 as f32, correction2 as f32);
        let shape = self.var.shape().clone();
        let mut value = self
            .var
            .as_detached_tensor()
            .flatten_all()?
            .to_vec1::<f32>()?;
        value
            .par_iter_mut()
            .zip(&mut self.first)
            .zip(&mut self.second)
            .zip(gradient)
            .for_each(|(((p, m), v), g)| {
                let g = g * scale;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *p = *p * keep - rate * *m / (v.sqrt() / root + eps);
            });
        self.var
            .set(&Tensor::from_vec(value, shape, self.var.device())?)
    }
}
