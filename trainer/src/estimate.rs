//! What a run will need, said before it starts: parameters, memory and steps.
//!
//! Memory is counted, not measured. candle keeps the result of every operation from the first weight
//! that trains up to the loss until the backward pass is over, so `activations` walks the layers of
//! `nets` in the order of their forward pass and adds up the results. Memory beyond the tensors
//! (`PROGRAM_MIB`, `HEAP_SHARE`) was fitted to peaks (VmHWM) on two cores, 56 training images, LoRA in
//! encoder and decoder: vit_t at 256 px takes 482 to 510 MiB (batch 1) and 1225 MiB (batch 4),
//! lite_medsam 3033 MiB, vit_b at 1024 px 14957 MiB. The estimates are within a tenth of these; of
//! the runs in `benches/RESULTS.md` the worst is a fifth too low (vit_t, vanilla), or two fifths too
//! high (vit_b, decoder only).

mod activations;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use candle_core::Tensor;
use nets::sam::EncoderConfig;

use self::activations::Activations;
use crate::batch;
use crate::model::Model;
use crate::train::Plan;

/// Program, threads' buffers and decoded validation images.
const PROGRAM_MIB: f64 = 150.0;
/// What the allocator holds for a byte of tensors that come and go: freed blocks of other sizes stay.
const HEAP_SHARE: f64 = 1.1;
/// The same with gradient checkpointing, where whole blocks come and go: vit_h took 12691 MiB in eight steps.
const CHECKPOINTING_HEAP_SHARE: f64 = 1.75;
/// candle adds the gradient of an operation to zeros: gradient, zeros and sum are there at once.
const GRADIENT_COPIES: usize = 3;
/// What a frozen part computes goes into one operation and out of it.
const PASSING_COPIES: usize = 2;
/// CUDA's context, cuBLAS and kernels.
const CUDA_MIB: f64 = 600.0;
/// Sizes that GPUs come in, GB.
const CARDS: [u32; 7] = [8, 12, 16, 24, 40, 48, 80];
const MIB: f64 = 1024.0 * 1024.0;

pub struct Estimate {
    /// Trainable and all parameters by part of the network.
    parts: BTreeMap<String, (usize, usize)>,
    memory: Memory,
    plain_vit: bool,
    steps_per_epoch: u64,
    steps: u64,
}

/// In MiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    weights: f64,
    /// Two moments, and the average where there is one.
    optimizer: f64,
    /// The sum over the batches of a step, and the batch's own.
    gradients: f64,
    /// Training images stay prepared in memory, and some batches wait.
    images: f64,
    /// Kept from the forward for the backward pass.
    activations: f64,
    /// Distillation's, which is gone when training begins: weights and largest result.
    teacher: f64,
    /// The largest step: of the backward pass, or of the forward pass through what is frozen.
    step: f64,
    program: f64,
}

impl Memory {
    /// The part that is on the GPU with compute.device = "cuda", in f32; bf16 takes less. Counted as for a CPU, which
    /// is right for a plain ViT; a TinyViT's convolutions keep more there. Never measured.
    fn on_gpu(self) -> f64 {
        CUDA_MIB + self.peak() - self.images - self.program
    }

    fn peak(self) -> f64 {
        let before = self.weights + self.teacher + self.images + self.program;
        before.max(self.training())
    }

    fn training(self) -> f64 {
        self.weights
            + self.optimizer
            + self.gradients
            + self.images
            + self.activations
            + self.step
            + self.program
    }
}

/// What a run feeds its network with.
pub struct Load<'a> {
    /// Images in a forward pass.
    pub batch: usize,
    /// Training images.
    pub n_images: usize,
    /// Of the encoder's blocks.
    pub checkpointing: bool,
    /// Whose outputs are computed before training.
    pub teacher: Option<&'a Model>,
}

pub fn estimate(model: &Model, plan: &Plan, load: &Load) -> Result<Estimate> {
    let vars = &model.loaded.vars;
    let mut parts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (name, tensor) in model.loaded.state_dict()? {
        if name.contains(".running_") {
            continue;
        }
        let part = name.split('.').next().unwrap_or_default().to_owned();
        let (n_trainable, n_all) = parts.entry(part).or_default();
        *n_all += tensor.elem_count();
        if vars.contains_key(&name) {
            *n_trainable += tensor.elem_count();
        }
    }
    let steps_per_epoch = plan.steps_per_epoch();
    let activations = Activations::count(&model.config, vars, load.batch, load.checkpointing);
    let heap_share = if load.checkpointing {
        CHECKPOINTING_HEAP_SHARE
    } else {
        HEAP_SHARE
    };
    let (trainable, all) = sum(&parts);
    let average = usize::from(plan.ema > 0.0);
    let image = 3 * model.input.size.pow(2);
    // One is being prepared, one is trained on.
    let n_waiting = (batch::AHEAD + 2) * load.batch;
    let memory = Memory {
        weights: mib(all),
        optimizer: mib((2 + average) * trainable),
        gradients: mib(2 * trainable),
        images: mib(image * (load.n_images + n_waiting)),
        teacher: load.teacher.map_or(Ok(0.0), frozen)?,
        activations: heap_share * mib(activations.kept),
        step: heap_share
            * mib(usize::max(
                GRADIENT_COPIES * activations.largest,
                PASSING_COPIES * activations.passing,
            )),
        program: PROGRAM_MIB,
    };
    Ok(Estimate {
        parts,
        memory,
        plain_vit: matches!(model.config.encoder, EncoderConfig::Vit(_)),
        steps_per_epoch,
        steps: steps_per_epoch * plan.epochs,
    })
}

/// MiB of a network that trains nothing, on one image.
fn frozen(model: &Model) -> Result<f64> {
    let none = BTreeMap::new();
    let passing = Activations::count(&model.config, &none, 1, false).passing;
    let state = model.loaded.state_dict()?;
    let all = state.values().map(Tensor::elem_count).sum();
    Ok(mib(all) + HEAP_SHARE * mib(PASSING_COPIES * passing))
}

impl Estimate {
    /// One line for the start of a run.
    pub fn line(&self) -> String {
        let (trainable, all) = sum(&self.parts);
        format!(
            "{trainable} of {all} parameters train, about {:.1} GiB of memory, {} optimizer steps an \
             epoch, at most {}",
            self.memory.peak() / 1024.0,
            self.steps_per_epoch,
            self.steps
        )
    }

    /// All of it, for a dry run.
    pub fn table(&self) -> String {
        let mut table = format!("{:14}  {:>11}  {:>11}", "part", "trainable", "parameters");
        let all = ("all".to_owned(), sum(&self.parts));
        let parts = self.parts.iter().map(|(part, n)| (part.clone(), *n));
        for (part, (trainable, all)) in parts.chain([all]) {
            write!(table, "\n{part:14}  {trainable:>11}  {all:>11}")
                .expect("a string takes everything");
        }
        write!(table, "\n\n{:14}  {:>11}", "memory", "about MiB")
            .expect("a string takes everything");
        let memory = self.memory;
        let fits = |card: &&u32| memory.on_gpu() < f64::from(**card) * 1e9 / MIB;
        let on_gpu = match CARDS.iter().find(fits) {
            Some(card) => format!("of it with compute.device = \"cuda\": fits a card of {card} GB"),
            None => "of it with compute.device = \"cuda\": too much for a card of 80 GB".to_owned(),
        };
        let mut rows = vec![
            ("weights", memory.weights, "4 bytes a parameter"),
            (
                "optimizer",
                memory.optimizer,
                "two moments a trainable one, and the average if finetune.ema is on",
            ),
            (
                "gradients",
                memory.gradients,
                "a batch's, and the sum over the batches of a step",
            ),
            (
                "images",
                memory.images,
                "training images, prepared, and waiting batches",
            ),
            (
                "activations",
                memory.activations,
                "results kept for the backward pass, counted layer by layer",
            ),
            (
                "step",
                memory.step,
                "gradients of the largest of them, or what the largest frozen one takes",
            ),
            ("program", memory.program, "code and buffers, measured once"),
        ];
        if memory.teacher > 0.0 {
            let how = "its weights and largest result, before training and then gone";
            rows.push(("teacher", memory.teacher, how));
        }
        rows.push((
            "peak",
            memory.peak(),
            "the sum, of what is there at one time",
        ));
        if self.plain_vit {
            rows.push(("on a GPU", memory.on_gpu(), &on_gpu));
        }
        for (name, mib, how) in rows {
            write!(table, "\n{name:14}  {mib:>11.0}  {how}").expect("a string takes everything");
        }
        write!(
            table,
            "\n\n{} optimizer steps an epoch, at most {} in all",
            self.steps_per_epoch, self.steps
        )
        .expect("a string takes everything");
        table
    }
}

fn sum(parts: &BTreeMap<String, (usize, usize)>) -> (usize, usize) {
    parts
        .values()
        .fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
}

/// Of f32 values.
fn mib(n_values: usize) -> f64 {
    n_values as f64 * 4.0 / MIB
}

#[cfg(test)]
mod tests {
    use nets::params::Compute;
    use nets::sam::{Freezing, trainable};

    use super::*;
    use crate::config::{Config, Method, Scope};
    use crate::model::Start;

    #[test]
    fn a_run_of_the_decoder_alone_trains_nothing_of_the_encoder() {
        let settings = [
            "model.encoder=\"vit_t\"",
            "input.size=64",
            "finetune.scope=\"decoder\"",
        ];
        let config = Config::resolve(None, &settings.map(str::to_owned)).unwrap();
        let (scope, method) = (Scope::Decoder.into(), Method::Lora.into());
        let model = Model::build(
            crate::model::teacher_config(&config).unwrap(),
            config.input,
            Start {
                state: BTreeMap::new(),
                seed: 1,
                compute: &Compute::default(),
            },
            move |name| trainable(name, scope, method, Freezing::Own),
        )
        .unwrap();
        let plan = Plan {
            epochs: 4,
            batches_per_epoch: 7,
            accumulate: 3,
            clip_norm: 1.0,
            ema: 0.0,
            validate_every_epochs: 1,
            patience_epochs: 4,
        };
        let load = Load {
            batch: 1,
            n_images: 7,
            checkpointing: false,
            teacher: None,
        };
        let needs = estimate(&model, &plan, &load).unwrap();
        let (n_trainable, n_all) = needs.parts["image_encoder"];
        assert_eq!(n_trainable, 0);
        assert!(n_all > 5_000_000, "TinyViT-5M has {n_all} parameters");
        // The last step of an epoch has one batch.
        assert_eq!((needs.steps_per_epoch, needs.steps), (3, 12));
        let table = needs.table();
        assert!(table.ends_with("3 optimizer steps an epoch, at most 12 in all"));
        let alone = needs.memory;
        assert!(alone.peak() > alone.program + alone.weights);
        let load = Load {
            teacher: Some(&model),
            ..load
        };
        let taught = estimate(&model, &plan, &load).unwrap().memory;
        assert!(taught.teacher > taught.weights);
        assert!(taught.peak() >= alone.peak());
    }
}
