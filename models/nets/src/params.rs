//! Named tensors while a network is built: from a checkpoint where name and shape fit, otherwise
//! drawn from (seed, name), so the order of building does not matter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// How a tensor starts when the checkpoint lacks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Const(f32),
    /// Uniform in +- bound.
    Uniform(f32),
    /// Normal with this standard deviation, cut at two of them.
    TruncatedNormal(f32),
    Normal(f32),
}

impl Init {
    /// PyTorch's default for a layer with `fan_in` inputs: uniform in +- 1 / sqrt(fan_in).
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in as f32).sqrt())
    }

    fn draw(self, n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let normal = |rng: &mut ChaCha8Rng| {
            let (u, v): (f64, f64) = (rng.random::<f64>().max(1e-300), rng.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        match self {
            Self::Const(value) => vec![value; n],
            Self::Uniform(bound) => (0..n)
                .map(|_| bound * (2.0 * rng.random::<f32>() - 1.0))
                .collect(),
            Self::Normal(std) => (0..n).map(|_| std * normal(rng) as f32).collect(),
            Self::TruncatedNormal(std) => (0..n)
                .map(|_| {
                    loop {
                        let z = normal(rng);
                        if z.abs() <= 2.0 {
                            return std * z as f32;
                        }
                    }
                })
                .collect(),
        }
    }
}

struct Store {
    checkpoint: BTreeMap<String, Tensor>,
    trainable: Box<dyn Fn(&str) -> bool>,
    compute: Compute,
    /// `None`: nothing is drawn.
    seed: Option<u64>,
    loaded: Loaded,
    used: BTreeSet<String>,
}

/// Where a network computes, and how.
#[derive(Debug, Clone)]
pub struct Compute {
    pub device: Device,
    /// F32 or BF16: the type of the activations within attention and MLP of the encoder's blocks, where nearly all
    /// time and memory go. Weights, sums, norms, softmax, what goes from block to block and the decoder are f32.
    pub precision: DType,
}

impl Default for Compute {
    /// The CPU, in f32.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            precision: DType::F32,
        }
    }
}

/// A place in the tree of names; cheap to clone.
#[derive(Clone)]
pub struct Params {
    store: Rc<RefCell<Store>>,
    prefix: String,
}

/// A built network's tensors by name.
#[derive(Default)]
pub struct Loaded {
    /// What trains.
    pub vars: BTreeMap<String, Var>,
    /// Running statistics; training moves them, no gradient does.
    buffers: BTreeMap<String, Var>,
    frozen: BTreeMap<String, Tensor>,
    pub report: Report,
}

/// What became of the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub loaded: Vec<String>,
    /// In the network, not in the checkpoint (or with another shape).
    pub random: Vec<String>,
    /// In both, with different shapes.
    pub mismatched: Vec<String>,
    /// In the checkpoint, not in the network.
    pub unused: Vec<String>,
}

impl Params {
    pub fn new(
        checkpoint: BTreeMap<String, Tensor>,
        trainable: impl Fn(&str) -> bool + 'static,
        seed: u64,
    ) -> Self {
        Self::with_store(checkpoint, Box::new(trainable), Some(seed))
    }

    /// For a report of what fits: tensors that the checkpoint lacks are zeros, which cost neither time
    /// nor memory.
    pub fn survey(checkpoint: BTreeMap<String, Tensor>) -> Self {
        Self::with_store(checkpoint, Box::new(|_| false), None)
    }

    fn with_store(
        checkpoint: BTreeMap<String, Tensor>,
        trainable: Box<dyn Fn(&str) -> bool>,
        seed: Option<u64>,
    ) -> Self {
        let store = Store {
            checkpoint,
            trainable,
            compute: Compute::default(),
            seed,
            loaded: Loaded::default(),
            used: BTreeSet::new(),
        };
        Self {
            store: Rc::new(RefCell::new(store)),
            prefix: String::new(),
        }
    }

    /// The same, computed elsewhere.
    #[must_use]
    pub fn with_compute(self, compute: &Compute) -> Self {
        self.store.borrow_mut().compute = compute.clone();
        self
    }

    pub fn compute(&self) -> Compute {
        self.store.borrow().compute.clone()
    }

    /// The sub-tree `name`.
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self {
            store: Rc::clone(&self.store),
            prefix: self.path(&name.to_string()),
        }
    }

    /// A weight: a variable when it trains, otherwise untracked.
    pub fn get(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Tensor> {
        let path = self.path(name);
        let tensor = self.fetch(&path, &shape.into(), init)?;
        let mut store = self.store.borrow_mut();
        if (store.trainable)(&path) {
            let var = Var::from_tensor(&tensor)?;
            let tensor = var.as_tensor().clone();
            store.loaded.vars.insert(path, var);
            return Ok(tensor);
        }
        store.loaded.frozen.insert(path, tensor.clone());
        Ok(tensor)
    }

    /// A running statistic: never trains, but can be set.
    pub fn buffer(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Var> {
        let path = self.path(name);
        let var = Var::from_tensor(&self.fetch(&path, &shape.into(), init)?)?;
        self.store
            .borrow_mut()
            .loaded
            .buffers
            .insert(path, var.clone());
        Ok(var)
    }

    /// Call when the network is built.
    pub fn finish(&self) -> Loaded {
        let mut store = self.store.borrow_mut();
        let mut loaded = std::mem::take(&mut store.loaded);
        loaded.report.unused = store
            .checkpoint
            .keys()
            .filter(|name| !store.used.contains(*name))
            .cloned()
            .collect();
        loaded
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    fn fetch(&self, path: &str, shape: &Shape, init: Init) -> Result<Tensor> {
        let store = &mut *self.store.borrow_mut();
        let plain = plain_name(path);
        let key = if store.checkpoint.contains_key(path) {
            path
        } else {
            plain.as_str()
        };
        if let Some(tensor) = store.checkpoint.get(key) {
            store.used.insert(key.to_owned());
            if tensor.shape() == shape {
                store.loaded.report.loaded.push(path.to_owned());
                return tensor
                    .detach()
                    .to_device(&store.compute.device)?
                    .contiguous();
            }
            store.loaded.report.mismatched.push(path.to_owned());
        }
        store.loaded.report.random.push(path.to_owned());
        let Some(seed) = store.seed else {
            return Tensor::zeros(shape.clone(), DType::F32, &store.compute.device);
        };
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update(path);
        let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
        Tensor::from_vec(
            init.draw(shape.elem_count(), &mut rng),
            shape.clone(),
            &store.compute.device,
        )
    }
}

/// The name that a weight under an update has in a checkpoint without updates, so that training can
/// start from plain weights.
pub fn plain_name(name: &str) -> String {
    name.replace(".qkv.qkv.", ".qkv.")
        .replace("_proj.proj.", "_proj.")
}

impl Loaded {
    /// What training changes: variables and running statistics.
    pub fn live(&self) -> impl Iterator<Item = (&String, &Var)> {
        self.vars.iter().chain(&self.buffers)
    }

    /// Running statistics alone.
    pub fn running(&self) -> impl Iterator<Item = &Var> {
        self.buffers.values()
    }

    /// Current values of everything, copied.
    pub fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state: BTreeMap<String, Tensor> = self
            .live()
            .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)))
            .collect::<Result<_>>()?;
        state.extend(
            self.frozen
                .iter()
                .map(|(name, t)| (name.clone(), t.clone())),
        );
        Ok(state)
    }

    /// Sets variables and running statistics; frozen tensors stay what they were built with.
    pub fn restore(&self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, var) in self.live() {
            let value = state
                .get(name)
                .ok_or_else(|| candle_core::Error::Msg(format!("the checkpoint lacks {name}")))?;
            var.set(&value.to_device(var.device())?)?;
        }
        Ok(())
    }
}
