//! A small SAM with random weights, for tests of everything that lowers or quantizes.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use nets::Mode;
use nets::adapter::AdapterConfig;
use nets::lora::{LoraConfig, LoraRows};
use nets::params::Params;
use nets::sam::{EncoderConfig, Sam, SamConfig};
use nets::tiny_vit::{Stem, TinyVitConfig};

pub(crate) const SIZE: usize = 64;

pub(crate) fn config(stem: Stem) -> SamConfig {
    let encoder = TinyVitConfig {
        embed_dims: [8, 64, 96, 320],
        depths: [1, 1, 2, 1],
        num_heads: [1, 2, 3, 10],
        stem,
        ..TinyVitConfig::mobile_sam(SIZE)
    };
    SamConfig {
        encoder: EncoderConfig::TinyVit(encoder),
        num_cls: 3,
        lora: None,
        adapter: None,
    }
}

pub(crate) fn with_adapters(config: SamConfig) -> SamConfig {
    let adapter = AdapterConfig {
        encoder_layers: vec![0, 2],
        decoder_depth: 1,
    };
    SamConfig {
        adapter: Some(adapter),
        ..config
    }
}

pub(crate) fn with_lora(config: SamConfig, rows: LoraRows) -> SamConfig {
    let lora = LoraConfig {
        rank: 2,
        encoder_layers: vec![0, 1, 2],
        decoder: true,
        rows,
    };
    SamConfig {
        lora: Some(lora),
        ..config
    }
}

/// Every tensor of the network filled: no zero biases, no unit norms, variances above 0.
pub(crate) fn random_state(config: &SamConfig) -> BTreeMap<String, Tensor> {
    let params = Params::new(BTreeMap::new(), |_| false, 7);
    Sam::new(config, &params).unwrap();
    let state = params.finish().state_dict().unwrap();
    state
        .into_iter()
        .map(|(name, tensor)| (name.clone(), filled(&name, &tensor)))
        .collect()
}

fn filled(name: &str, like: &Tensor) -> Tensor {
    let seed = name.bytes().fold(5381u32, |hash, byte| {
        hash.wrapping_mul(33) ^ u32::from(byte)
    });
    let fan_in: usize = like.dims().iter().skip(1).product();
    let data: Vec<f32> = (0..like.elem_count() as u32)
        .map(|i| {
            let mixed = (i ^ seed).wrapping_mul(0x9E37_79B9);
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B);
            let u = (mixed ^ (mixed >> 13)) as f32 / u32::MAX as f32 - 0.5;
            match like.rank() {
                1 if name.ends_with("running_var") => 1.0 + 0.5 * u.abs(),
                1 if name.ends_with(".weight") => 1.0 + 0.4 * u,
                1 => 0.4 * u,
                _ => 3.0 * u / (fan_in as f32).sqrt(),
            }
        })
        .collect();
    Tensor::from_vec(data, like.shape(), &Device::Cpu).unwrap()
}

/// A prepared image, 3 x 64 x 64: a bright blob that moves with `phase`, over a texture.
pub(crate) fn image(phase: f32) -> Vec<f32> {
    (0..3 * SIZE * SIZE)
        .map(|i| {
            let (c, y, x) = (i / (SIZE * SIZE), i / SIZE % SIZE, i % SIZE);
            let (dy, dx) = (
                y as f32 - 32.0 - 9.0 * phase.sin(),
                x as f32 - 32.0 - 9.0 * phase.cos(),
            );
            let blob = (-(dy * dy + dx * dx) / 90.0).exp();
            blob + 0.2 * (0.37 * (x * y) as f32 + c as f32 + phase).sin()
        })
        .collect()
}

/// Logits of candle for an image of the network's size.
pub(crate) fn network(
    config: &SamConfig,
    state: BTreeMap<String, Tensor>,
    chw: &[f32],
) -> Vec<f32> {
    let params = Params::new(state, |_| false, 0);
    let sam = Sam::new(config, &params).unwrap();
    assert_eq!(params.finish().report.random, Vec::<String>::new());
    let size = config.encoder.img_size();
    let image = Tensor::from_slice(chw, (1, 3, size, size), &Device::Cpu).unwrap();
    let logits = sam.forward_noprompt(&image, Mode::Eval).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}
