//! The automatic graph: image in, class logits out, no prompt.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use nets::ops::Activation;
use tract_onnx::pb::ModelProto;

use super::graph::{GraphBuilder, Value};
use super::weights::Weights;
use super::{mask_decoder, tiny_vit};

pub const INPUT: &str = "image";
pub const OUTPUT: &str = "logits";

/// A lowered network and the shape of its output.
#[derive(Debug)]
pub struct Lowered {
    pub model: ModelProto,
    /// Background included.
    pub classes: usize,
    /// Side of the square logits, px.
    pub side: usize,
}

/// Lowers a SAM with a TinyViT encoder: `image` (1, 3, size, size) to `logits`
/// (1, num_cls, 4 g, 4 g), g being the side of the embedding. `state` has upstream's names with LoRA
/// merged; adapters become nodes. `activation` is the encoder's, which no tensor tells.
pub fn lower_automatic(
    state: &BTreeMap<String, Tensor>,
    activation: Activation,
    size: usize,
) -> Result<Lowered> {
    let mut weights = Weights::new(state, activation)?;
    let mut graph = GraphBuilder::default();
    let image = graph.input(INPUT, &[1, 3, size, size]);
    let mut no_mask = weights.ranked("prompt_encoder.no_mask_embed.weight", 2)?;
    no_mask.shape = vec![no_mask.data.len()];
    let embedding = tiny_vit::lower(&mut graph, &mut weights, &image, &no_mask)
        .context("cannot export the image encoder")?;
    let grid = embedding.shape[0].isqrt();
    ensure!(
        grid * grid == embedding.shape[0],
        "an input of {size} px gives an embedding of {} tokens, which is no square",
        embedding.shape[0]
    );
    let logits: Value = mask_decoder::lower(&mut graph, &mut weights, &embedding)
        .context("cannot export the mask decoder")?;
    weights.finish()?;
    let (classes, side) = (logits.shape[1], logits.shape[2]);
    Ok(Lowered {
        model: graph.finish("sam_automatic", &logits)?,
        classes,
        side,
    })
}

#[cfg(test)]
mod tests {
    use nets::lora::{self, LoraRows};
    use nets::sam::{EncoderConfig, SamConfig};
    use nets::tiny_vit::Stem;
    use segmenter::infer::Probe;

    use super::*;
    use crate::onnx::graph::{OPSET, serialize};
    use crate::onnx::testing::{
        SIZE, config, image, network, random_state, with_adapters, with_lora,
    };

    fn assert_graph_equals_network(config: &SamConfig) {
        let state = random_state(config);
        let plain = match &config.lora {
            Some(lora) => lora::merge(state.clone(), lora.rows, 32).unwrap(),
            None => state.clone(),
        };
        let EncoderConfig::TinyVit(encoder) = &config.encoder else {
            unreachable!("a TinyViT");
        };
        let activation = encoder.activation;
        let lowered = lower_automatic(&plain, activation, SIZE).unwrap();
        let probe = Probe::open(&serialize(&lowered.model), SIZE, &[OUTPUT.to_owned()]).unwrap();
        let chw = image(0.3);
        let found = probe.run(&chw).unwrap().remove(0);
        let expected = network(config, state, &chw);
        assert_eq!(
            found.shape,
            [1, lowered.classes, lowered.side, lowered.side]
        );
        assert_eq!(found.data.len(), expected.len());
        let size = expected.iter().fold(0f32, |top, x| top.max(x.abs()));
        assert!(size > 0.05, "the logits are too small to compare: {size}");
        for (a, b) in found.data.iter().zip(&expected) {
            assert!(
                (a - b).abs() < 1e-4,
                "{a} against {b}, largest logit {size}"
            );
        }
    }

    #[test]
    fn mobile_sam_stem() {
        assert_graph_equals_network(&config(Stem::Stride4));
    }

    #[test]
    fn lite_medsam_stem() {
        assert_graph_equals_network(&config(Stem::Pointwise));
    }

    #[test]
    fn other_activations() {
        for activation in [Activation::GeluTanh, Activation::HardSwish] {
            let mut config = config(Stem::Stride4);
            let EncoderConfig::TinyVit(encoder) = &mut config.encoder else {
                unreachable!("a TinyViT");
            };
            encoder.activation = activation;
            assert_graph_equals_network(&config);
        }
    }

    #[test]
    fn adapters_become_nodes() {
        assert_graph_equals_network(&with_adapters(config(Stem::Stride4)));
    }

    #[test]
    fn merged_lora_in_both_row_orders() {
        for rows in [LoraRows::PerHead, LoraRows::Reference] {
            assert_graph_equals_network(&with_lora(config(Stem::Stride4), rows));
        }
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let mut state = random_state(&config(Stem::Stride4));
        state
            .remove("image_encoder.layers.2.blocks.1.mlp.fc1.bias")
            .unwrap();
        let error = lower_automatic(&state, Activation::Gelu, SIZE).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("layers.2.blocks.1.mlp.fc1.bias is missing"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_tensor_is_named() {
        let mut state = random_state(&config(Stem::Stride4));
        let extra = state["mask_decoder.iou_token.weight"].clone();
        state.insert(
            "image_encoder.layers.1.blocks.0.attn.gate.weight".to_owned(),
            extra,
        );
        let text = format!(
            "{:#}",
            lower_automatic(&state, Activation::Gelu, SIZE).unwrap_err()
        );
        assert!(
            text.contains("layers.1.blocks.0.attn.gate.weight"),
            "{text}"
        );
    }

    #[test]
    fn weights_that_diverged_are_refused() {
        let mut state = random_state(&config(Stem::Stride4));
        let name = "mask_decoder.iou_token.weight";
        let nan = (state[name].clone() * f64::NAN).unwrap();
        state.insert(name.to_owned(), nan);
        let text = format!(
            "{:#}",
            lower_automatic(&state, Activation::Gelu, SIZE).unwrap_err()
        );
        assert!(text.contains(name) && text.contains("diverged"), "{text}");
    }

    #[test]
    fn only_the_standard_domain_is_used() {
        let state = random_state(&config(Stem::Stride4));
        let model = lower_automatic(&state, Activation::Gelu, SIZE)
            .unwrap()
            .model;
        assert_eq!(model.opset_import.len(), 1);
        assert_eq!(model.opset_import[0].version, OPSET);
        assert!(
            model
                .graph
                .unwrap()
                .node
                .iter()
                .all(|node| node.domain.is_empty())
        );
    }
}
