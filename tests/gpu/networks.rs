//! Whole networks: logits, loss, every gradient, and the weights after three steps.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use nets::adapter::AdapterConfig;
use nets::image_encoder_vit::{ImageEncoderVitConfig, WindowPadding};
use nets::lora::{LoraConfig, LoraRows};
use nets::loss::dice_ce;
use nets::mask_decoder::Tokens;
use nets::optimizer::{AdamW, AdamWConfig};
use nets::params::{Compute, Params};
use nets::prompt_encoder::Prompts;
use nets::sam::{EncoderConfig, Freezing, Method, Sam, SamConfig, Scope, trainable};
use nets::tiny_vit::TinyVitConfig;
use nets::{Mode, ops};

use crate::{gpu, relative_error, spread};

const SIDE: usize = 256;

/// Two blocks as ViT-B's: one in windows that do not divide the grid, one over all of it.
fn vit() -> EncoderConfig {
    EncoderConfig::Vit(ImageEncoderVitConfig {
        img_size: SIDE,
        embed_dim: 192,
        depth: 2,
        num_heads: 3,
        window_size: 7,
        global_attn_indexes: vec![1],
        ..ImageEncoderVitConfig::vit_b(WindowPadding::AfterNorm)
    })
}

fn tiny_vit() -> EncoderConfig {
    EncoderConfig::TinyVit(TinyVitConfig::mobile_sam(SIDE))
}

fn sam_config(encoder: EncoderConfig, method: Method) -> SamConfig {
    let encoder_layers: Vec<usize> = (0..encoder.tunable_layers()).collect();
    SamConfig {
        encoder,
        num_cls: 3,
        lora: (method == Method::Lora).then(|| LoraConfig {
            rank: 4,
            encoder_layers: encoder_layers.clone(),
            decoder: true,
            rows: LoraRows::PerHead,
        }),
        adapter: (method == Method::Adapter).then_some(AdapterConfig {
            encoder_layers,
            decoder_depth: 2,
        }),
    }
}

struct Trained {
    logits: Tensor,
    losses: Vec<Tensor>,
    gradients: BTreeMap<String, Tensor>,
    weights: BTreeMap<String, Tensor>,
}

/// Three steps on the same two images.
fn train(
    config: &SamConfig,
    method: Method,
    checkpointed: bool,
    compute: &Compute,
) -> Result<Trained> {
    let trains = move |name: &str| trainable(name, Scope::EncoderDecoder, method, Freezing::Own);
    let params = Params::new(BTreeMap::new(), trains, 7).with_compute(compute);
    let sam = Sam::new(config, &params)?;
    let loaded = params.finish();
    let mut optimizer = AdamW::new(&loaded.vars, AdamWConfig::reference())?;
    let images = spread(&[2, 3, SIDE, SIDE], 1).to_device(&compute.device)?;
    let labels: Vec<u32> = (0..2 * SIDE * SIDE).map(|i| (i / 40 % 3) as u32).collect();
    let labels = Tensor::from_vec(labels, (2, SIDE, SIDE), &compute.device)?;
    let (mut first, mut losses) = (None, Vec::new());
    for _ in 0..3 {
        let tape = if checkpointed {
            sam.embed_checkpointed(&images)?
        } else {
            None
        };
        let embedding = match &tape {
            Some(tape) => tape.embedding().clone(),
            None => sam.embed(&images, Mode::Train)?,
        };
        let logits = sam
            .decode(&embedding, Prompts::default(), Tokens::Classes)?
            .masks;
        let parts = dice_ce(&ops::resize_bilinear(&logits, SIDE, SIDE)?, &labels)?;
        let loss = (parts.dice + parts.cross_entropy)?;
        let store = loss.backward()?;
        let mut gradients = BTreeMap::new();
        let mut collect = |store: &candle_core::backprop::GradStore| {
            for (name, var) in &loaded.vars {
                if let Some(gradient) = store.get(var.as_tensor()) {
                    gradients.insert(name.clone(), gradient.clone());
                }
            }
            Ok(())
        };
        collect(&store)?;
        if let Some(tape) = tape {
            let names: Vec<&str> = loaded
                .vars
                .keys()
                .filter_map(|name| name.strip_prefix("image_encoder."))
                .collect();
            tape.backward(&store, &names, collect)?;
        }
        optimizer.step(&gradients, 1e-4, 1.0)?;
        losses.push(loss.detach());
        first.get_or_insert((logits.detach(), gradients));
    }
    let (logits, gradients) = first.unwrap();
    let weights = loaded.vars.iter();
    Ok(Trained {
        logits,
        losses,
        gradients,
        weights: weights
            .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
            .collect(),
    })
}

/// Largest error of a tensor by name. Gradients of what has next to no influence, such as a bias before a norm, are
/// rounding and nothing else: they are measured against the largest gradient.
fn largest(found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) -> (f64, String) {
    let length = |t: &Tensor| {
        let sum = t.sqr().unwrap().sum_all().unwrap();
        f64::from(sum.to_scalar::<f32>().unwrap()).sqrt() / (t.elem_count() as f64).sqrt()
    };
    let scale = expected.values().map(length).fold(0.0, f64::max);
    assert!(found.keys().eq(expected.keys()));
    let errors = expected.iter().map(|(name, expected)| {
        let own = length(expected);
        let error = relative_error(&found[name], expected) * own / own.max(1e-3 * scale);
        (
            if error.is_nan() { f64::INFINITY } else { error },
            name.clone(),
        )
    });
    errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

fn same(name: &str, encoder: &EncoderConfig, method: Method, checkpointed: bool) {
    let Some(device) = gpu() else { return };
    let config = sam_config(encoder.clone(), method);
    let run = |device: Device, precision| {
        train(
            &config,
            method,
            checkpointed,
            &Compute { device, precision },
        )
        .unwrap()
    };
    let expected = run(Device::Cpu, DType::F32);
    for (precision, bound) in [(DType::F32, 1e-3), (DType::BF16, 5e-2)] {
        let found = run(device.clone(), precision);
        let logits = relative_error(&found.logits, &expected.logits);
        let (gradient, of) = largest(&found.gradients, &expected.gradients);
        let (weight, after) = largest(&found.weights, &expected.weights);
        let losses = [&found, &expected].map(|it| -> Vec<f32> {
            let values = it.losses.iter().map(|loss| loss.to_scalar().unwrap());
            values.collect()
        });
        println!(
            "{name}, {precision:?}: logits {logits:.1e}, gradients {gradient:.1e} ({of}), weights {weight:.1e} \
             ({after}), losses {losses:?}"
        );
        assert!(
            logits < bound && gradient < 5.0 * bound,
            "{name}, {precision:?}"
        );
        for (found, expected) in losses[0].iter().zip(&losses[1]) {
            let error = f64::from((found - expected).abs() / expected);
            assert!(error < bound, "{name}, {precision:?}: {losses:?}");
        }
    }
}

#[test]
fn vit_with_lora() {
    same("vit, LoRA", &vit(), Method::Lora, false);
    same("vit, LoRA, checkpointed", &vit(), Method::Lora, true);
}

#[test]
fn vit_with_adapters() {
    same("vit, adapter", &vit(), Method::Adapter, false);
}

#[test]
fn vit_vanilla() {
    same("vit, vanilla", &vit(), Method::Vanilla, false);
}

#[test]
fn tiny_vit_every_way() {
    for method in [Method::Vanilla, Method::Adapter, Method::Lora] {
        same(&format!("vit_t, {method:?}"), &tiny_vit(), method, false);
    }
}
