//! AdamW with moments that can be saved, so that a resumed run is the same run.

use std::collections::BTreeMap;

use candle_core::{Device, Error, Result, Tensor, Var};
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
    moments: Moments,
    steps: u32,
}

/// First and second, where the variable is.
enum Moments {
    Cpu(Vec<f32>, Vec<f32>),
    Gpu(Tensor, Tensor),
}

pub struct AdamW {
    config: AdamWConfig,
    slots: BTreeMap<String, Slot>,
}

impl AdamW {
    pub fn new(vars: &BTreeMap<String, Var>, config: AdamWConfig) -> Result<Self> {
        let slots = vars
            .iter()
            .map(|(name, var)| {
                let slot = Slot {
                    var: var.clone(),
                    moments: Moments::zeros(var)?,
                    steps: 0,
                };
                Ok((name.clone(), slot))
            })
            .collect::<Result<_>>()?;
        Ok(Self { config, slots })
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
        let norm = norm(gradients)?;
        if !norm.is_finite() {
            return Err(Error::Msg(format!("the gradient norm is {norm}")));
        }
        let scale = if clip_norm > 0.0 && norm > clip_norm {
            clip_norm / norm
        } else {
            1.0
        };
        for (name, gradient) in gradients {
            let slot = self
                .slots
                .get_mut(name)
                .ok_or_else(|| Error::Msg(format!("gradient of {name}, which does not train")))?;
            slot.update(gradient, scale as f32, learning_rate, self.config)?;
        }
        Ok(norm)
    }

    /// Moments and step counts by name, on the CPU.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, slot) in &self.slots {
            let [first, second] = slot.moments.on_cpu(&slot.var)?;
            state.insert(format!("{name}.first"), first);
            state.insert(format!("{name}.second"), second);
            let steps = Tensor::new(slot.steps, &Device::Cpu)?;
            state.insert(format!("{name}.steps"), steps);
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
            slot.moments.load(part("first")?, part("second")?)?;
            slot.steps = part("steps")?.to_scalar()?;
        }
        Ok(())
    }
}

/// Of all gradients together.
fn norm(gradients: &BTreeMap<String, Tensor>) -> Result<f64> {
    let mut square_sum = 0.0;
    let mut on_gpu: Option<Tensor> = None;
    for gradient in gradients.values() {
        if gradient.device().is_cpu() {
            let values = gradient.flatten_all()?.to_vec1::<f32>()?;
            let squares = values.iter().map(|&g| f64::from(g) * f64::from(g));
            square_sum += squares.sum::<f64>();
        } else {
            let own = square_norm(gradient)?;
            on_gpu = Some(match on_gpu {
                Some(sum) => (sum + own)?,
                None => own,
            });
        }
    }
    if let Some(sum) = on_gpu {
        square_sum += f64::from(sum.to_scalar::<f32>()?);
    }
    Ok(square_sum.sqrt())
}

/// As a product, which a GPU shares out among its processors, unlike candle's sum of everything.
fn square_norm(x: &Tensor) -> Result<Tensor> {
    let n = x.elem_count();
    x.reshape((1, n))?
        .matmul(&x.reshape((n, 1))?)?
        .squeeze(1)?
        .squeeze(0)
}

impl Moments {
    fn zeros(var: &Var) -> Result<Self> {
        if var.device().is_cpu() {
            let zeros = vec![0.0; var.elem_count()];
            return Ok(Self::Cpu(zeros.clone(), zeros));
        }
        Ok(Self::Gpu(var.zeros_like()?, var.zeros_like()?))
    }

    fn on_cpu(&self, var: &Var) -> Result<[Tensor; 2]> {
        match self {
            Self::Cpu(first, second) => {
                let tensor = |moment: &[f32]| Tensor::from_slice(moment, var.shape(), &Device::Cpu);
                Ok([tensor(first)?, tensor(second)?])
            }
            Self::Gpu(first, second) => Ok([
                first.to_device(&Device::Cpu)?,
                second.to_device(&Device::Cpu)?,
            ]),
        }
    }

    fn load(&mut self, first_state: &Tensor, second_state: &Tensor) -> Result<()> {
        match self {
            Self::Cpu(first, second) => {
                *first = first_state.flatten_all()?.to_vec1()?;
                *second = second_state.flatten_all()?.to_vec1()?;
            }
            Self::Gpu(first, second) => {
                *first = first_state.to_device(first.device())?;
                *second = second_state.to_device(second.device())?;
            }
        }
        Ok(())
    }
}

/// The numbers of a step.
struct Rule {
    b1: f32,
    b2: f32,
    /// Of the gradient.
    scale: f32,
    keep: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

impl Rule {
    /// As tensors, for a GPU.
    fn apply(&self, var: &Var, [first, second]: [&mut Tensor; 2], gradient: &Tensor) -> Result<()> {
        let times = |x: &Tensor, factor: f32| x.affine(f64::from(factor), 0.0);
        let g = times(&gradient.detach(), self.scale)?;
        *first = (times(first, self.b1)? + times(&g, 1.0 - self.b1)?)?;
        *second = (times(second, self.b2)? + times(&g.sqr()?, 1.0 - self.b2)?)?;
        let size = (second
            .sqrt()?
            .affine(f64::from(1.0 / self.root), f64::from(self.eps)))?;
        let step = times(&first.div(&size)?, self.rate)?;
        var.set(&(times(&var.as_detached_tensor(), self.keep)? - step)?)
    }
}

impl Slot {
    fn update(
        &mut self,
        gradient: &Tensor,
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
        let rule = Rule {
            b1: beta1 as f32,
            b2: beta2 as f32,
            scale,
            keep: (1.0 - learning_rate * weight_decay) as f32,
            rate: (learning_rate / correction1) as f32,
            root: correction2 as f32,
            eps: eps as f32,
        };
        let (first, second) = match &mut self.moments {
            Moments::Gpu(first, second) => {
                return rule.apply(&self.var, [first, second], gradient);
            }
            Moments::Cpu(first, second) => (first, second),
        };
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        let shape = self.var.shape().clone();
        let mut value = self
            .var
            .as_detached_tensor()
            .flatten_all()?
            .to_vec1::<f32>()?;
        let Rule {
            b1,
            b2,
            keep,
            rate,
            root,
            eps,
            ..
        } = rule;
        value
            .par_iter_mut()
            .zip(first)
            .zip(second)
            .zip(&gradient)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, speed: f64) -> Tensor {
        let ramp = Tensor::arange(0f32, n as f32, &Device::Cpu).unwrap();
        (ramp * speed).unwrap().sin().unwrap()
    }

    #[test]
    fn tensors_take_the_steps_that_numbers_take() {
        let start = wave(50, 0.3);
        let run = |as_tensors: bool| {
            let vars = BTreeMap::from([("w".to_owned(), Var::from_tensor(&start).unwrap())]);
            let mut optimizer = AdamW::new(&vars, AdamWConfig::reference()).unwrap();
            if as_tensors {
                let zeros = start.zeros_like().unwrap();
                let slot = optimizer.slots.get_mut("w").unwrap();
                slot.moments = Moments::Gpu(zeros.clone(), zeros);
            }
            for step in 1..5 {
                let gradients = BTreeMap::from([("w".to_owned(), wave(50, 0.7 * f64::from(step)))]);
                optimizer.step(&gradients, 0.01, 1.0).unwrap();
            }
            vars["w"].as_tensor().to_vec1::<f32>().unwrap()
        };
        for (a, b) in run(true).iter().zip(run(false)) {
            assert!((a - b).abs() < 1e-6, "{a} and {b}");
        }
        let square = square_norm(&start).unwrap().to_scalar::<f32>().unwrap();
        let gradients = BTreeMap::from([("w".to_owned(), start.clone())]);
        let length = norm(&gradients).unwrap();
        assert!((f64::from(square).sqrt() - length).abs() < 1e-5);
    }
}
