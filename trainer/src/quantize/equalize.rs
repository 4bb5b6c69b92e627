//! Cross-layer equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
//! 2019): a channel that is small beside the others of its tensor gets few of the 256 steps. What makes it is multiplied,
//! and the weights that read it are divided, so that the network stays what it is.
//!
//! That is exact where nothing but sums lies between the two: from a LayerNorm's weight and bias to the layer behind it, and
//! from v to the projection of an attention. A Gelu scales nothing through.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use segmenter::infer::Probe;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

use super::weights::{dims, f32_data};
use super::{Options, base, graph, integer_layers};
use crate::onnx;

/// One layer whose input's channels were made alike.
struct Pair {
    /// Of the layer.
    name: String,
    /// Input of the layer as (rows, channels), or (1, channels, height, width).
    input: String,
    /// (channels, out) or (out, channels, 3, 3).
    weight: String,
    /// Tensors whose last `channels` values of each row make the input.
    makers: [String; 2],
}

/// The same network with equalized channels, and the layers that read them.
pub fn equalize(
    model: &ModelProto,
    size: usize,
    images: &[Vec<f32>],
    options: &Options,
) -> Result<(ModelProto, Vec<String>)> {
    let pairs = pairs(model, options)?;
    let inputs: Vec<String> = pairs.iter().map(|pair| pair.input.clone()).collect();
    let probe = Probe::open(&onnx::serialize(model), size, &inputs)
        .context("cannot load the f32 graph to equalize it")?;
    let mut out = model.clone();
    let tensors = &mut out
        .graph
        .as_mut()
        .expect("a lowered model has a graph")
        .initializer;
    let mut tensors: BTreeMap<String, &mut TensorProto> = tensors
        .iter_mut()
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect();
    let mut seen: Vec<Vec<f32>> = vec![Vec::new(); pairs.len()];
    for image in images {
        let arrays = probe
            .run(image)
            .context("cannot run the f32 graph to equalize it")?;
        for (seen, array) in seen.iter_mut().zip(arrays) {
            let largest = largest(&array.data, &array.shape, 1);
            seen.resize(largest.len(), 0.0);
            for (seen, value) in seen.iter_mut().zip(largest) {
                *seen = seen.max(value);
            }
        }
    }
    for (pair, seen) in pairs.iter().zip(&seen) {
        let weight = tensors
            .get_mut(&pair.weight)
            .with_context(|| format!("{} has no constant weight", pair.name))?;
        let (shape, mut values) = (dims(weight), f32_data(weight));
        let axis = usize::from(shape.len() == 4);
        let factors: Vec<f32> = seen
            .iter()
            .zip(largest(&values, &shape, axis))
            .map(|(&input, weight)| {
                let factor = (weight / input).sqrt();
                if factor.is_normal() { factor } else { 1.0 }
            })
            .collect();
        let inner: usize = shape[axis + 1..].iter().product();
        for (i, value) in values.iter_mut().enumerate() {
            *value /= factors[i / inner % factors.len()];
        }
        store(weight, &values);
        for maker in &pair.makers {
            let maker = tensors
                .get_mut(maker)
                .with_context(|| format!("{}: {maker} is no constant", pair.name))?;
            let mut values = f32_data(maker);
            let row = dims(maker).last().copied().unwrap_or(1);
            for row in values.chunks_mut(row) {
                let start = row.len() - factors.len();
                for (value, factor) in row[start..].iter_mut().zip(&factors) {
                    *value *= factor;
                }
            }
            store(maker, &values);
        }
    }
    Ok((out, pairs.into_iter().map(|pair| pair.name).collect()))
}

fn pairs(model: &ModelProto, options: &Options) -> Result<Vec<Pair>> {
    let makers: BTreeMap<&str, &NodeProto> = graph(model)
        .node
        .iter()
        .map(|node| (node.output[0].as_str(), node))
        .collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for input in graph(model).node.iter().flat_map(|node| &node.input) {
        *uses.entry(input).or_default() += 1;
    }
    let alone = |value: &str| uses.get(value) == Some(&1);
    let layers = integer_layers(model, options)?;
    let found = layers.into_iter().filter_map(|index| {
        let layer = &graph(model).node[index];
        let mut from = *makers.get(layer.input[0].as_str())?;
        // Tokens to planes, before a 3x3 convolution.
        while ["Reshape", "Transpose"].contains(&&from.op_type[..]) && layer.op_type == "Conv" {
            if !alone(&from.output[0]) {
                return None;
            }
            from = makers.get(from.input[0].as_str())?;
        }
        let name = base(&layer.name);
        let makers = if from.op_type == "LayerNormalization" {
            // Whoever else reads it, as the decoder's residuals do, would read something else.
            if !alone(&from.output[0]) {
                return None;
            }
            [from.input[1].clone(), from.input[2].clone()]
        } else {
            // All q, all k, all v: the last third makes what the projection reads.
            let attention = name.strip_suffix("/proj")?;
            ["weight", "bias"].map(|field| format!("{attention}/qkv.{field}"))
        };
        Some(Pair {
            name: name.to_owned(),
            input: layer.input[0].clone(),
            weight: layer.input[1].clone(),
            makers,
        })
    });
    Ok(found.collect())
}

/// The largest magnitude at each index of an axis.
fn largest(values: &[f32], shape: &[usize], axis: usize) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let mut out = vec![0f32; shape[axis]];
    for (i, value) in values.iter().enumerate() {
        let top = &mut out[i / inner % shape[axis]];
        *top = top.max(value.abs());
    }
    out
}

fn store(tensor: &mut TensorProto, values: &[f32]) {
    tensor.raw_data = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
}

#[cfg(test)]
mod tests {
    use nets::ops::Activation;
    use nets::tiny_vit::Stem;

    use super::*;
    use crate::onnx::automatic::OUTPUT;
    use crate::onnx::lower_automatic;
    use crate::onnx::testing::{SIZE, config, image, random_state};

    #[test]
    fn the_network_stays_and_its_channels_become_alike() {
        let state = random_state(&config(Stem::Stride4));
        let model = lower_automatic(&state, Activation::Gelu, SIZE)
            .unwrap()
            .model;
        let images = [image(0.0), image(2.0)];
        let (even, layers) = equalize(&model, SIZE, &images, &Options::default()).unwrap();
        // Three in each of four blocks, and the neck's 3x3.
        assert_eq!(layers.len(), 13, "{layers:?}");
        let qkv = "image_encoder/layers.2/blocks.0/attn/qkv";
        let normed = "image_encoder/layers.2/blocks.0/attn/norm";
        assert!(layers.iter().any(|name| name == qkv), "{layers:?}");
        let [before, after] = [&model, &even].map(|model| {
            let outputs = [OUTPUT.to_owned(), normed.to_owned()];
            let probe = Probe::open(&onnx::serialize(model), SIZE, &outputs).unwrap();
            probe.run(&images[0]).unwrap()
        });
        for (a, b) in before[0].data.iter().zip(&after[0].data) {
            assert!((a - b).abs() < 1e-4, "{a} became {b}");
        }
        let spread = |array: &segmenter::infer::Array| {
            let tops = largest(&array.data, &array.shape, 1);
            let top = tops.iter().fold(0f32, |a, &b| a.max(b));
            top / tops.iter().fold(f32::MAX, |a, &b| a.min(b))
        };
        assert!(before[1].data != after[1].data);
        assert!(spread(&after[1]) < spread(&before[1]));
    }
}
