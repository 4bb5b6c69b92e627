//! Three AdamW steps of the reference's training scripts on one batch: loss, gradients, weights after.

use std::collections::BTreeMap;

use candle_core::Tensor;
use nets::Mode;
use nets::loss::dice_ce;
use nets::mask_decoder::Tokens;
use nets::optimizer::{AdamW, AdamWConfig};
use nets::params::Params;
use nets::prompt_encoder::Prompts;
use nets::sam::{Freezing, Method, Sam, Scope, decayed_without_gradient, trainable};

use crate::fixture::{Fixture, values};
use crate::vit::{build_sam, labels};

pub(crate) fn training(fixture: &mut Fixture) {
    let method = match fixture.entry["args"]["finetune_type"].as_str().unwrap() {
        "vanilla" => Method::Vanilla,
        "adapter" => Method::Adapter,
        "lora" => Method::Lora,
        other => panic!("unknown finetune_type {other}"),
    };
    let scope = if fixture.flag("if_update_encoder") {
        Scope::EncoderDecoder
    } else {
        Scope::Decoder
    };
    let trains = move |name: &str| trainable(name, scope, method, Freezing::Reference);
    let params = Params::new(fixture.params.clone(), trains, 0);
    let sam = build_sam(fixture, &params);
    let loaded = params.finish();
    assert_eq!(loaded.report.random, Vec::<String>::new());

    let mut optimizer = AdamW::new(&loaded.vars, AdamWConfig::reference()).unwrap();
    let target = labels(&fixture.input("mask"));
    let rates: Vec<f64> =
        serde_json::from_value(fixture.entry["training"]["lr_used"].clone()).unwrap();
    let mut losses = Vec::new();
    for step in 0..=rates.len() {
        let logits = logits(fixture, &sam);
        let loss = dice_ce(&logits, &target).unwrap();
        let total = (&loss.dice + &loss.cross_entropy).unwrap();
        losses.extend([&loss.dice, &loss.cross_entropy, &total].map(|it| values(it)[0]));
        let Some(&rate) = rates.get(step) else { break };
        let store = total.backward().unwrap();
        let gradients: BTreeMap<String, Tensor> = loaded
            .vars
            .iter()
            .filter_map(|(name, var)| {
                let gradient = store.get(var.as_tensor()).cloned().or_else(|| {
                    decayed_without_gradient(name).then(|| var.zeros_like().unwrap())
                })?;
                Some((name.clone(), gradient))
            })
            .collect();
        if step == 0 {
            fixture.check("logits_step0", &logits);
            for (name, gradient) in &gradients {
                let key = format!("grad.{name}");
                if fixture.has_output(&key) {
                    fixture.check(&key, gradient);
                }
            }
            check_status(fixture, &gradients);
        }
        optimizer.step(&gradients, rate, 0.0).unwrap();
    }
    let losses = Tensor::new(losses, &candle_core::Device::Cpu)
        .and_then(|it| it.reshape((rates.len() + 1, 3)))
        .unwrap();
    fixture.check("losses", &losses);
    // What is not built (Depth_Adapter) stays as it was.
    let mut state = fixture.params.clone();
    state.extend(loaded.state_dict().unwrap());
    for (name, value) in state {
        let key = format!("after.{name}");
        if fixture.has_output(&key) {
            fixture.check(&key, &value);
        }
    }
}

fn logits(fixture: &Fixture, sam: &Sam) -> Tensor {
    let embedding = sam.embed(&fixture.input("image"), Mode::Train).unwrap();
    let boxes = (fixture.entry["training"]["prompt"] == "box").then(|| fixture.input("boxes"));
    let prompts = Prompts {
        boxes: boxes.as_ref(),
        ..Prompts::default()
    };
    sam.decode(&embedding, prompts, Tokens::Classes)
        .unwrap()
        .masks
}

/// What trains in the reference has a gradient here, and nothing else has.
fn check_status(fixture: &Fixture, gradients: &BTreeMap<String, Tensor>) {
    let status = fixture.entry["param_status_after_first_backward"]
        .as_object()
        .unwrap();
    for (name, status) in status {
        let expected = matches!(
            status.as_str().unwrap(),
            "trainable" | "trainable_zero_grad"
        );
        assert_eq!(gradients.contains_key(name), expected, "{name}: {status}");
    }
}
