use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{ImageEncoderVit, ImageEncoderVitConfig, WindowPadding};
use crate::lora::{self, LoraConfig, LoraRows};
use crate::params::{Compute, Loaded, Params};

fn small() -> ImageEncoderVitConfig {
    ImageEncoderVitConfig {
        img_size: 32,
        patch_size: 4,
        in_chans: 3,
        embed_dim: 24,
        depth: 3,
        num_heads: 2,
        mlp_ratio: 2.0,
        out_chans: 16,
        window_size: 3,
        global_attn_indexes: vec![1],
        padding: WindowPadding::AfterNorm,
    }
}

fn wave(shape: &[usize], speed: f64) -> Tensor {
    let n: usize = shape.iter().product();
    let ramp = Tensor::arange(0f32, n as f32, &Device::Cpu).unwrap();
    (ramp * speed)
        .unwrap()
        .sin()
        .unwrap()
        .reshape(shape)
        .unwrap()
}

fn built(
    state: BTreeMap<String, Tensor>,
    lora: Option<&LoraConfig>,
    trains: fn(&str) -> bool,
) -> (ImageEncoderVit, Loaded) {
    let params = Params::new(state, trains, 5);
    let encoder = ImageEncoderVit::new(&small(), lora, None, &params).unwrap();
    (encoder, params.finish())
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn checkpointing_changes_no_gradient() {
    let image = wave(&[2, 3, 32, 32], 0.37);
    let cotangent = wave(&[2, 16, 8, 8], 0.71);
    let cases: [fn(&str) -> bool; 3] = [
        |_| true,
        // Nothing below block 1 trains.
        |name| name.starts_with("blocks.1.") || name.starts_with("neck."),
        |name| name.starts_with("neck."),
    ];
    for trains in cases {
        let (encoder, loaded) = built(BTreeMap::new(), None, trains);
        let embedding = encoder.forward(&image).unwrap();
        let loss = (&embedding * &cotangent).unwrap().sum_all().unwrap();
        let plain = loss.backward().unwrap();

        let tape = encoder.forward_checkpointed(&image).unwrap();
        assert!(largest_difference(tape.embedding(), &embedding) < f32::EPSILON);
        let loss = (tape.embedding() * &cotangent).unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let mut found = BTreeMap::new();
        let names: Vec<&str> = loaded.vars.keys().map(String::as_str).collect();
        tape.backward(&store, &names, |store| {
            for (name, var) in &loaded.vars {
                if let Some(gradient) = store.get(var.as_tensor()) {
                    assert!(
                        found.insert(name.clone(), gradient.clone()).is_none(),
                        "{name}"
                    );
                }
            }
            Ok(())
        })
        .unwrap();
        assert!(!found.is_empty());
        for (name, var) in &loaded.vars {
            let (plain, found) = (plain.get(var.as_tensor()), found.get(name));
            let (Some(plain), Some(found)) = (plain, found) else {
                panic!("{name}: {} and {}", plain.is_some(), found.is_some())
            };
            let scale = largest_difference(plain, &plain.zeros_like().unwrap());
            assert!(largest_difference(plain, found) <= 1e-6 * scale, "{name}");
        }
    }
}

#[test]
fn blocks_in_bf16_give_nearly_the_same_gradients() {
    let (image, cotangent) = (wave(&[1, 3, 32, 32], 0.37), wave(&[1, 16, 8, 8], 0.71));
    let run = |precision| {
        let compute = Compute {
            precision,
            ..Compute::default()
        };
        let params = Params::new(BTreeMap::new(), |_| true, 5).with_compute(&compute);
        let encoder = ImageEncoderVit::new(&small(), None, None, &params).unwrap();
        let embedding = encoder.forward(&image).unwrap();
        let loss = (&embedding * &cotangent).unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let vars = params.finish().vars;
        let gradients = vars.into_iter().map(|(name, var)| {
            let gradient = store.get(var.as_tensor()).unwrap().clone();
            (name, gradient)
        });
        let gradients: BTreeMap<String, Tensor> = gradients.collect();
        (embedding, gradients)
    };
    let [(exact, exact_gradients), (rounded, gradients)] = [DType::F32, DType::BF16].map(run);
    let difference = largest_difference(&exact, &rounded);
    let largest = largest_difference(&exact, &exact.zeros_like().unwrap());
    assert!(
        0.0 < difference && difference < 0.03 * largest,
        "{difference} of {largest}"
    );
    for (name, exact) in exact_gradients {
        assert_eq!(gradients[&name].dtype(), DType::F32, "{name}");
        let length = |t: &Tensor| {
            t.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        let off = length(&(&exact - &gradients[&name]).unwrap());
        assert!(off < 0.05f32.powi(2) * length(&exact), "{name}: {off}");
    }
}

#[test]
fn updates_merge_into_plain_weights() {
    let image = wave(&[1, 3, 32, 32], 0.37);
    let updates = LoraConfig {
        rank: 2,
        encoder_layers: vec![0, 1, 2],
        decoder: false,
        rows: LoraRows::PerHead,
    };
    let (_, loaded) = built(BTreeMap::new(), Some(&updates), |_| false);
    let mut state = loaded.state_dict().unwrap();
    for (name, tensor) in &mut state {
        if name.contains("linear_b_") {
            *tensor = (wave(tensor.dims(), 0.9) * 0.2).unwrap();
        }
    }
    let (encoder, _) = built(state.clone(), Some(&updates), |_| false);
    let expected = encoder.forward(&image).unwrap();
    let named = state
        .into_iter()
        .map(|(name, tensor)| (format!("image_encoder.{name}"), tensor));
    let merged = lora::merge(named.collect(), LoraRows::PerHead, 32).unwrap();
    let plain = merged
        .into_iter()
        .map(|(name, tensor)| (name["image_encoder.".len()..].to_owned(), tensor));
    let (encoder, loaded) = built(plain.collect(), None, |_| false);
    assert_eq!(loaded.report.random, Vec::<String>::new());
    let found = encoder.forward(&image).unwrap();
    assert!(largest_difference(&found, &expected) < 1e-5);
}
