//! An f32 graph to an int8 one, as ONNX's QuantizeLinear and DequantizeLinear say it: the inputs of linear layers and
//! convolutions become 256 steps, all large weights are stored as int8.
//!
//! Whoever runs the graph may multiply integers wherever both operands come out of a DequantizeLinear: the daemon does
//! (`segmenter`'s lowering), ONNX Runtime and OpenVINO do. Norms, softmax, GELU, products of attention and depthwise
//! convolutions compute in f32. Weights are symmetric with a scale for each output channel; activations have a zero
//! point, as most of them come out of a GELU and are hardly ever negative.

pub mod equalize;
mod range;
pub mod sensitivity;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, ensure};
use segmenter::infer::Probe;
use serde::Serialize;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

use crate::onnx::{self, f32_tensor, i8_tensor, int, node, u8_tensor};
pub use range::{Calibration, Histogram, Range};
use weights::{Axis, Quantized, dims, f32_data, f32_len, last_dim};

/// Smaller weights than this stay f32: nothing to win.
const SMALL: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightScales {
    PerTensor,
    PerChannel,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub scales: WeightScales,
    pub calibration: Calibration,
    /// A layer whose name contains one of these stays f32 altogether.
    pub keep_f32: Vec<String>,
    /// All but this one stay f32.
    pub only: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scales: WeightScales::PerChannel,
            calibration: Calibration::MeanSquare,
            keep_f32: Vec::new(),
            only: None,
        }
    }
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    pub name: String,
    /// All inputs over the calibration images.
    pub seen: Range,
    /// Those that are not clipped.
    pub kept: Range,
    /// Root mean square of the input's rounding and clipping error, relative to that of the input.
    pub input_error: f32,
    /// The same of the weights.
    pub weight_error: f32,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<40} input {:8.3} to {:7.3} kept {:7.3} to {:7.3} step {:.2e} error {:.2}% weight error {:.2}%",
            self.name,
            self.seen.low,
            self.seen.high,
            self.kept.low,
            self.kept.high,
            self.kept.scale(),
            100.0 * self.input_error,
            100.0 * self.weight_error
        )
    }
}

/// Input values of every layer that will multiply in integers, by tensor name.
pub type Ranges = BTreeMap<String, Histogram>;

/// Runs the f32 graph over prepared images (3 x size x size each) and collects [`Ranges`].
pub fn calibrate(
    model: &ModelProto,
    size: usize,
    images: &[Vec<f32>],
    options: &Options,
) -> Result<Ranges> {
    ensure!(
        !images.is_empty(),
        "no calibration images: set export.calibration_images above 0"
    );
    let inputs: BTreeSet<String> = integer_layers(model, options)?
        .into_iter()
        .map(|index| graph(model).node[index].input[0].clone())
        .collect();
    let names: Vec<String> = inputs.into_iter().collect();
    let probe = Probe::open(&onnx::serialize(model), size, &names)
        .context("cannot load the f32 graph for calibration")?;
    let mut ranges = Ranges::new();
    for image in images {
        let arrays = probe
            .run(image)
            .context("cannot run the f32 graph for calibration")?;
        for (name, array) in names.iter().zip(arrays) {
            ranges.entry(name.clone()).or_default().add(&array.data);
        }
    }
    Ok(ranges)
}

/// The int8 graph and a report of its integer layers.
pub fn quantize(
    model: &ModelProto,
    ranges: &Ranges,
    options: &Options,
) -> Result<(ModelProto, Vec<Layer>)> {
    let integer: BTreeSet<usize> = integer_layers(model, options)?.into_iter().collect();
    let mut out = Rewrite::new(model);
    let mut layers = Vec::new();
    for (index, node) in graph(model).node.iter().enumerate() {
        let mut node = node.clone();
        let weight_error = out.store_weight(&node, options)?;
        if integer.contains(&index) {
            let weight_error = weight_error.unwrap_or_default();
            layers.push(out.quantize_input(&mut node, weight_error, ranges, options)?);
        }
        out.nodes.push(node);
    }
    Ok((out.finish(model), layers))
}

fn graph(model: &ModelProto) -> &tract_onnx::pb::GraphProto {
    model.graph.as_ref().expect("a lowered model has a graph")
}

/// Indices of the products with a constant matrix and of the convolutions, but for the first one, which sees
/// the image, and those that are depthwise.
fn integer_layers(model: &ModelProto, options: &Options) -> Result<Vec<usize>> {
    let sizes: BTreeMap<&str, usize> = graph(model)
        .initializer
        .iter()
        .map(|tensor| (tensor.name.as_str(), f32_len(tensor)))
        .collect();
    let first = graph(model).input.first().map_or("", |input| &input.name);
    let multiplies = |node: &&NodeProto| {
        let depthwise = node
            .attribute
            .iter()
            .any(|it| it.name == "group" && it.i > 1);
        matches!(node.op_type.as_str(), "MatMul" | "Conv")
            && !depthwise
            && node.input[0] != first
            && sizes
                .get(node.input[1].as_str())
                .is_some_and(|&len| len >= SMALL)
    };
    let chosen: Vec<usize> = graph(model)
        .node
        .iter()
        .enumerate()
        .filter(|(_, node)| multiplies(node))
        .filter(|(_, node)| !kept(&node.name, options))
        .map(|(index, _)| index)
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no linear layer left to quantize: shorten keep_f32"
    );
    Ok(chosen)
}

fn kept(name: &str, options: &Options) -> bool {
    let other = options.only.as_ref().is_some_and(|only| only != base(name));
    let named = |pattern: &String| name.contains(pattern.as_str());
    other || options.keep_f32.iter().any(named)
}

/// The layer that a node belongs to.
fn base(name: &str) -> &str {
    name.trim_end_matches("/matmul")
}

/// The graph being rewritten, node by node in order.
struct Rewrite<'a> {
    weights: BTreeMap<&'a str, &'a TensorProto>,
    nodes: Vec<NodeProto>,
    /// Weights by name that replace f32 ones, and their scales.
    replaced: BTreeMap<String, Vec<TensorProto>>,
}

impl<'a> Rewrite<'a> {
    fn new(model: &'a ModelProto) -> Self {
        let weights = graph(model)
            .initializer
            .iter()
            .filter(|tensor| tensor.data_type == DataType::Float as i32)
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        Self {
            weights,
            nodes: Vec::new(),
            replaced: BTreeMap::new(),
        }
    }

    /// Puts QuantizeLinear and DequantizeLinear before a layer.
    fn quantize_input(
        &mut self,
        layer: &mut NodeProto,
        weight_error: f32,
        ranges: &Ranges,
        options: &Options,
    ) -> Result<Layer> {
        let base = base(&layer.name).to_owned();
        let input = layer.input[0].clone();
        let histogram = ranges
            .get(&input)
            .with_context(|| format!("no calibration for {input}, input of {base}"))?;
        let kept = histogram.range(options.calibration);
        ensure!(
            kept.scale().is_finite() && kept.scale() > 0.0,
            "the input of {base} is {} everywhere: the network is dead there",
            kept.high
        );
        let names = ["input_scale", "input_zero_point", "quantize", "dequantize"];
        let [scale, zero, quantized, dequantized] = names.map(|part| format!("{base}/{part}"));
        let stored = vec![
            f32_tensor(&scale, &[], &[kept.scale()]),
            u8_tensor(&zero, &[], &[kept.zero_point()]),
        ];
        self.replaced.insert(scale.clone(), stored);
        self.nodes.extend([
            node(
                "QuantizeLinear",
                &quantized,
                &[&input, &scale, &zero],
                vec![],
            ),
            node(
                "DequantizeLinear",
                &dequantized,
                &[&quantized, &scale, &zero],
                vec![],
            ),
        ]);
        layer.input[0] = dequantized;
        Ok(Layer {
            name: base,
            seen: histogram.seen(),
            kept,
            input_error: histogram.relative_error(kept),
            weight_error,
        })
    }

    /// Stores a large constant weight as int8 and puts its DequantizeLinear before `layer`. Its error.
    fn store_weight(&mut self, layer: &NodeProto, options: &Options) -> Result<Option<f32>> {
        let weight = layer
            .input
            .get(1)
            .and_then(|name| self.weights.get(name.as_str()).copied());
        let Some(weight) = weight else {
            return Ok(None);
        };
        let name = &weight.name;
        let stays = !matches!(layer.op_type.as_str(), "Conv" | "MatMul")
            || kept(&layer.name, options)
            || f32_len(weight) < SMALL
            || self.replaced.contains_key(name);
        if stays {
            return Ok(None);
        }
        let data = f32_data(weight);
        let (axis, position, channels) = if layer.op_type == "Conv" {
            let channels = usize::try_from(weight.dims[0])?;
            (Axis::First(channels), 0, channels)
        } else {
            (Axis::Last(last_dim(weight)), 1, last_dim(weight))
        };
        let one_scale = options.scales == WeightScales::PerTensor;
        let small = Quantized::of(&data, (!one_scale).then_some(axis));
        let [values, scales] = [format!("{name}/int8"), format!("{name}/scale")];
        let shape = if one_scale { vec![] } else { vec![channels] };
        let stored = vec![
            i8_tensor(&values, &dims(weight), &small.values),
            f32_tensor(&scales, &shape, &small.scales),
        ];
        self.replaced.insert(name.clone(), stored);
        let attributes = if one_scale {
            vec![]
        } else {
            vec![int("axis", position)]
        };
        self.nodes.push(node(
            "DequantizeLinear",
            name,
            &[&values, &scales],
            attributes,
        ));
        Ok(Some(small.error))
    }

    fn finish(self, model: &ModelProto) -> ModelProto {
        let mut out = model.clone();
        let graph = out.graph.as_mut().expect("a lowered model has a graph");
        graph.node = self.nodes;
        graph
            .initializer
            .retain(|tensor| !self.replaced.contains_key(&tensor.name));
        graph
            .initializer
            .extend(self.replaced.into_values().flatten());
        out
    }
}

#[cfg(test)]
mod tests {
    use nets::ops::Activation;
    use nets::tiny_vit::Stem;

    use super::sensitivity::fragile_first;
    use super::*;
    use crate::onnx::automatic::OUTPUT;
    use crate::onnx::lower_automatic;
    use crate::onnx::testing::{SIZE, config, image, random_state};

    fn lowered() -> ModelProto {
        lower_automatic(
            &random_state(&config(Stem::Stride4)),
            Activation::Gelu,
            SIZE,
        )
        .unwrap()
        .model
    }

    fn logits(model: &ModelProto, chw: &[f32]) -> Vec<f32> {
        let bytes = onnx::serialize(model);
        let probe = Probe::open(&bytes, SIZE, &[OUTPUT.to_owned()]).unwrap();
        probe.run(chw).unwrap().remove(0).data
    }

    /// Root mean square of the difference, relative to the spread of `expected`.
    fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
        let mean = expected.iter().sum::<f32>() / expected.len() as f32;
        let noise: f32 = found
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let power: f32 = expected.iter().map(|x| (x - mean).powi(2)).sum();
        (noise / power).sqrt()
    }

    #[test]
    fn int8_is_near_f32_and_a_third_of_its_size() {
        let model = lowered();
        let images: Vec<Vec<f32>> = (0..4u8).map(|i| image(f32::from(i))).collect();
        let options = Options::default();
        let ranges = calibrate(&model, SIZE, &images, &options).unwrap();
        let (small, layers) = quantize(&model, &ranges, &options).unwrap();
        assert!(
            layers.len() > 16,
            "four linear layers in each of four blocks, and convolutions"
        );
        assert!(
            layers
                .iter()
                .all(|layer| layer.weight_error < 0.02 && layer.input_error < 0.1)
        );
        let chw = image(9.5);
        let error = relative_error(&logits(&small, &chw), &logits(&model, &chw));
        assert!(error > 0.0 && error < 0.1, "relative error {error}");
        let (whole, part) = (onnx::serialize(&model).len(), onnx::serialize(&small).len());
        assert!(3 * part < whole, "{part} of {whole} bytes");
    }

    #[test]
    fn per_tensor_scales_are_scalars() {
        let model = lowered();
        let options = Options {
            scales: WeightScales::PerTensor,
            ..Options::default()
        };
        let ranges = calibrate(&model, SIZE, &[image(0.0)], &options).unwrap();
        let (small, _) = quantize(&model, &ranges, &options).unwrap();
        let scale = "image_encoder/layers.1/blocks.0/attn/qkv.weight/scale";
        let found = graph(&small)
            .initializer
            .iter()
            .find(|it| it.name == scale)
            .unwrap();
        assert!(found.dims.is_empty());
        let chw = image(9.5);
        let error = relative_error(&logits(&small, &chw), &logits(&model, &chw));
        assert!(error < 0.2, "relative error {error}");
    }

    #[test]
    fn kept_layers_are_untouched() {
        let model = lowered();
        let whole = Options::default();
        let ranges = calibrate(&model, SIZE, &[image(0.0)], &whole).unwrap();
        let all = quantize(&model, &ranges, &whole).unwrap().1.len();
        let keep_f32 = vec!["layers.1/blocks".to_owned(), "mlp/fc2".to_owned()];
        let options = Options {
            keep_f32,
            ..Options::default()
        };
        let ranges = calibrate(&model, SIZE, &[image(0.0)], &options).unwrap();
        let (small, layers) = quantize(&model, &ranges, &options).unwrap();
        assert!(layers.len() < all, "{} of {all}", layers.len());
        let kept = |name: &str| name.contains("layers.1/blocks") || name.contains("mlp/fc2");
        assert!(layers.iter().all(|layer| !kept(&layer.name)));
        let weight = "image_encoder/layers.1/blocks.0/attn/qkv.weight";
        let of = |model: &ModelProto| {
            graph(model)
                .initializer
                .iter()
                .find(|it| it.name == weight)
                .cloned()
                .unwrap()
        };
        assert_eq!(of(&small), of(&model));
    }

    #[test]
    fn layers_are_ordered_by_what_int8_does_to_them_alone() {
        let model = lowered();
        let options = Options::default();
        let images = [image(0.0)];
        let ranges = calibrate(&model, SIZE, &images, &options).unwrap();
        let (_, layers) = quantize(&model, &ranges, &options).unwrap();
        let names: Vec<String> = layers[..6].iter().map(|layer| layer.name.clone()).collect();
        let given = (&model, &ranges, Calibration::MeanSquare);
        let found = fragile_first(given, &names, SIZE, &images, &mut |_| ()).unwrap();
        let mut sorted: Vec<&String> = found.iter().map(|(name, _)| name).collect();
        sorted.sort();
        let mut wanted: Vec<&String> = names.iter().collect();
        wanted.sort();
        assert_eq!(sorted, wanted);
        assert!(
            found.iter().all(|(_, error)| (1e-6..0.1).contains(error)),
            "{found:?}"
        );
        assert!(found.is_sorted_by(|a, b| a.1 >= b.1), "{found:?}");
    }

    #[test]
    fn keeping_everything_is_refused() {
        let options = Options {
            keep_f32: vec!["image_encoder".to_owned(), "mask_decoder".to_owned()],
            ..Options::default()
        };
        let error = calibrate(&lowered(), SIZE, &[image(0.0)], &options).unwrap_err();
        assert!(error.to_string().contains("keep_f32"), "{error}");
    }
}
