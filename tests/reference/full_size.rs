//! The real architectures: names, shapes and what trains against the reference's inventory, and one
//! forward pass each of deterministically filled networks against its numbers.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use nets::Mode;
use nets::adapter::AdapterConfig;
use nets::image_encoder_vit::{ImageEncoderVitConfig, WindowPadding};
use nets::lora::{LoraConfig, LoraRows};
use nets::loss::dice_ce;
use nets::mask_decoder::Tokens;
use nets::params::{Loaded, Params};
use nets::prompt_encoder::Prompts;
use nets::sam::{EncoderConfig, Freezing, Method, Sam, SamConfig, Scope, trainable};
use nets::tiny_vit::TinyVitConfig;
use serde_json::Value;

use crate::fixture::values;

/// The defaults that the reference's command line cannot change; the inventory was made with them.
const DEFAULT_LAYERS: [usize; 4] = [0, 1, 10, 11];

fn encoder_config(name: &str, padding: WindowPadding) -> EncoderConfig {
    match name {
        "vit_t" => EncoderConfig::TinyVit(TinyVitConfig::mobile_sam(1024)),
        "vit_b" => EncoderConfig::Vit(ImageEncoderVitConfig::vit_b(padding)),
        "vit_h" => EncoderConfig::Vit(ImageEncoderVitConfig::vit_h(padding)),
        other => panic!("unknown encoder {other}"),
    }
}

fn sam_config(encoder: &str, method: Method, scope: Scope, layers: Option<&[usize]>) -> SamConfig {
    let encoder = encoder_config(encoder, WindowPadding::BeforeNorm);
    let n_layers = encoder.tunable_layers();
    let encoder_layers: Vec<usize> = match (scope, layers) {
        (Scope::Decoder, _) => Vec::new(),
        (Scope::EncoderDecoder, None) => (0..n_layers).collect(),
        (Scope::EncoderDecoder, Some(layers)) => {
            layers.iter().copied().filter(|&it| it < n_layers).collect()
        }
    };
    SamConfig {
        encoder,
        num_cls: 2,
        lora: (method == Method::Lora).then(|| LoraConfig {
            rank: 4,
            encoder_layers: encoder_layers.clone(),
            decoder: true,
            rows: LoraRows::Reference,
        }),
        adapter: (method == Method::Adapter).then_some(AdapterConfig {
            encoder_layers,
            decoder_depth: 2,
        }),
    }
}

fn parse(method: &str) -> Method {
    match method {
        "vanilla" => Method::Vanilla,
        "adapter" => Method::Adapter,
        "lora" => Method::Lora,
        other => panic!("unknown method {other}"),
    }
}

/// In the reference's state dict without an effect on anything.
fn inert(name: &str) -> bool {
    name.contains(".Depth_Adapter.")
        || name.starts_with("image_encoder.norm_head.")
        || name.starts_with("image_encoder.head.")
        || name.ends_with(".num_batches_tracked")
}

/// Checks `param_inventory.json`; says how many of its modes there are.
pub(crate) fn inventory(inventory: &Value) -> usize {
    let mut n_modes = 0;
    for (encoder, modes) in inventory["archs"].as_object().unwrap() {
        let base = shapes(&modes["vanilla_encoder_decoder"]["state_dict"]);
        for (mode, entry) in modes.as_object().unwrap() {
            let method = parse(entry["args"]["finetune_type"].as_str().unwrap());
            let scope = if entry["args"]["if_update_encoder"] == true {
                Scope::EncoderDecoder
            } else {
                Scope::Decoder
            };
            let mut expected = base.clone();
            for removed in strings(&entry["state_dict_removed"]) {
                expected.remove(&removed);
            }
            expected.extend(shapes(&entry["state_dict_added"]));
            expected.retain(|name, _| !inert(name));

            let config = sam_config(encoder, method, scope, Some(&DEFAULT_LAYERS));
            let loaded = built(&config, BTreeMap::new(), scope, method);
            let found: BTreeMap<String, Vec<usize>> = loaded
                .state_dict()
                .unwrap()
                .into_iter()
                .map(|(name, tensor)| (name, tensor.dims().to_vec()))
                .collect();
            assert!(found.keys().eq(expected.keys()), "{encoder} {mode}: names");
            assert_eq!(found, expected, "{encoder} {mode}");
            let frozen = strings(&entry["frozen"]);
            let listed = strings(&entry["requires_grad"]);
            let ours: BTreeSet<&String> = loaded.vars.keys().collect();
            for name in found.keys().filter(|name| !is_buffer(name)) {
                // Under `no_grad` the encoder's flags mean nothing.
                if scope == Scope::Decoder && name.starts_with("image_encoder.") {
                    assert!(!ours.contains(name), "{encoder} {mode}: {name}");
                    continue;
                }
                let trains = if entry["requires_grad"].is_array() {
                    listed.contains(name)
                } else {
                    !frozen.contains(name)
                };
                assert_eq!(ours.contains(name), trains, "{encoder} {mode}: {name}");
            }
            n_modes += 1;
        }
    }
    n_modes
}

fn is_buffer(name: &str) -> bool {
    name.contains(".running_") || name.ends_with("positional_encoding_gaussian_matrix")
}

fn shapes(state: &Value) -> BTreeMap<String, Vec<usize>> {
    state
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, shape)| (name.clone(), serde_json::from_value(shape.clone()).unwrap()))
        .collect()
}

fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|it| it.as_str().unwrap().to_owned())
        .collect()
}

fn built(
    config: &SamConfig,
    state: BTreeMap<String, Tensor>,
    scope: Scope,
    method: Method,
) -> Loaded {
    let trains = move |name: &str| trainable(name, scope, method, Freezing::Reference);
    let params = Params::new(state, trains, 0);
    Sam::new(config, &params).unwrap();
    params.finish()
}

/// One row of `golden/full_size_forward.json`: the reference.
pub(crate) fn forward(row: &Value) {
    let method = parse(row["method"].as_str().unwrap());
    let encoder = row["encoder"].as_str().unwrap();
    let config = sam_config(encoder, method, Scope::EncoderDecoder, None);
    compare(row, &config);
}

/// One row of `golden/stock_forward.json`: upstream's SAM, three masks and plain weights.
pub(crate) fn stock_forward(row: &Value) {
    let encoder = row["encoder"].as_str().unwrap();
    let config = SamConfig {
        encoder: encoder_config(encoder, WindowPadding::AfterNorm),
        num_cls: 3,
        lora: None,
        adapter: None,
    };
    compare(row, &config);
}

/// Within the f32 agreement that the facts state.
fn compare(row: &Value, config: &SamConfig) {
    let name = format!("{} {}", row["encoder"], row["method"]);
    let mut state = built(config, BTreeMap::new(), Scope::Decoder, Method::Adapter)
        .state_dict()
        .unwrap();
    for (name, tensor) in &mut state {
        *tensor = filled(name, tensor.dims());
    }
    let params = Params::new(state, |_| false, 0);
    let sam = Sam::new(config, &params).unwrap();
    let embedding = sam.embed(&image(), Mode::Eval).unwrap();
    let decoded = sam
        .decode(&embedding, Prompts::default(), Tokens::Classes)
        .unwrap();
    let near = |what: &str, found: &[f64], tolerance: f64| {
        let expected = numbers(&row[what]);
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(
            worst < tolerance && found.len() == expected.len(),
            "{name}: {what} is {found:?}, not {expected:?}"
        );
    };
    let at = |tensor: &Tensor, places: [[usize; 3]; 4]| -> Vec<f64> {
        let [_, _, rows, cols] = tensor.dims()[..] else {
            panic!("four axes")
        };
        let all = values(tensor);
        places
            .map(|[c, y, x]| all[(c * rows + y) * cols + x])
            .to_vec()
    };
    near("embedding_mean_std", &mean_std(&values(&embedding)), 1e-5);
    let places = [[0, 0, 0], [7, 31, 63], [128, 40, 5], [255, 63, 63]];
    near("embedding_at", &at(&embedding, places), 2e-4);
    near("logits_mean_std", &mean_std(&values(&decoded.masks)), 1e-5);
    let places = [[0, 0, 0], [1, 0, 0], [0, 100, 200], [1, 255, 255]];
    near("logits_at", &at(&decoded.masks, places), 1e-4);
    near("iou", &values(&decoded.iou), 1e-4);
    if row["foreground_px"].is_null() {
        return;
    }
    let foreground: u32 = decoded
        .masks
        .argmax(1)
        .and_then(|it| it.sum_all())
        .and_then(|it| it.to_scalar())
        .unwrap();
    // A pixel whose two logits nearly agree may go either way in f32.
    near("foreground_px", &[f64::from(foreground)], 30.0);
    let loss = dice_ce(&decoded.masks, &target()).unwrap();
    near("dice_loss", &values(&loss.dice), 1e-5);
    near("cross_entropy", &values(&loss.cross_entropy), 1e-5);
}

/// A number, or a list of them.
fn numbers(value: &Value) -> Vec<f64> {
    match value.as_array() {
        Some(list) => list.iter().map(|it| it.as_f64().unwrap()).collect(),
        None => vec![value.as_f64().unwrap()],
    }
}

fn mean_std(values: &[f64]) -> [f64; 2] {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    [mean, variance.sqrt()]
}

/// -0.5..0.5 from the CRC of a name and a place: the rule by which the reference was filled.
fn noise(hash: u32, index: usize) -> f64 {
    let mut x = (index as u32).wrapping_add(hash.wrapping_mul(0x9E37_79B9));
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^= x >> 16;
    f64::from(x) / 4_294_967_296.0 - 0.5
}

/// IEEE, as zlib's.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn filled(name: &str, shape: &[usize]) -> Tensor {
    let fan_in: usize = shape.iter().skip(1).product();
    let value = |u: f64| match shape.len() {
        _ if name.ends_with("running_var") => 1.0 + 0.5 * u.abs(),
        1 if name.ends_with(".weight") => 1.0 + 0.2 * u,
        0 | 1 => 0.2 * u,
        _ => 2.0 * u / (fan_in as f64).sqrt(),
    };
    let hash = crc32(name.as_bytes());
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|index| value(noise(hash, index)) as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn image() -> Tensor {
    let hash = crc32(b"input");
    let pixels: Vec<f32> = (0..3 * 1024 * 1024)
        .map(|index| {
            let (c, y, x) = (index >> 20, (index >> 10) & 1023, index & 1023);
            let wave = (0.005 * (x + 1) as f64 * (c + 1) as f64).sin();
            (wave + (0.013 * (y + 1) as f64).cos() + noise(hash, index)) as f32
        })
        .collect();
    Tensor::from_vec(pixels, (1, 3, 1024, 1024), &Device::Cpu).unwrap()
}

fn target() -> Tensor {
    let hash = crc32(b"target");
    let labels: Vec<u32> = (0..65_536)
        .map(|index| u32::from(noise(hash, index) > 0.2))
        .collect();
    Tensor::from_vec(labels, (1, 256, 256), &Device::Cpu).unwrap()
}
