//! An f32 graph to an int8 one: linear layers of the image encoder multiply in integers, all other
//! large weights are stored as int8 and become f32 when the graph is loaded.
//!
//! Norms, softmax, GELU, window attention and the decoder compute in f32. Everything is symmetric
//! (no zero points), so tract and ONNX Runtime multiply s8 by s8 the same way.

mod range;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, ensure};
use segmenter::infer::Probe;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

use crate::onnx::{self, f32_tensor, i8_tensor, int, node};
pub use range::{Clip, Histogram};
use weights::{Axis, Quantized, dims, f32_data, f32_len, last_dim};

/// Largest magnitude of a quantized value; -128 stays unused so that both signs are alike.
const LEVELS: f32 = 127.0;
/// Smaller weights than this stay f32: nothing to win.
const SMALL: usize = 1024;
const ZERO: &str = "constant/zero_int8";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightScales {
    /// One scale a layer: one scalar multiplication after the integer product.
    PerTensor,
    /// One scale an output channel.
    PerChannel,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub scales: WeightScales,
    pub clip: Clip,
    /// A layer whose name contains one of these stays f32 altogether.
    pub keep_f32: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scales: WeightScales::PerChannel,
            clip: Clip::MeanSquare,
            keep_f32: Vec::new(),
        }
    }
}

/// What became of one linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub name: String,
    /// Largest magnitude of the input over the calibration images.
    pub maximum: f32,
    /// Where the input is clipped.
    pub clip: f32,
    /// Input units a step.
    pub scale: f32,
    /// Root mean square of the input's rounding and clipping error, relative to that of the input.
    pub input_error: f32,
    /// The same of the weights.
    pub weight_error: f32,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<48} max {:>9.4} clip {:>9.4} scale {:.3e} input error {:.2}% weight error {:.2}%",
            self.name,
            self.maximum,
            self.clip,
            self.scale,
            100.0 * self.input_error,
            100.0 * self.weight_error
        )
    }
}

/// Input magnitudes of every layer that will multiply in integers, by tensor name.
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
        if integer.contains(&index) {
            layers.push(out.integer_layer(node, ranges, options)?);
        } else {
            out.stored_layer(node, options)?;
        }
    }
    Ok((out.finish(model), layers))
}

fn graph(model: &ModelProto) -> &tract_onnx::pb::GraphProto {
    model.graph.as_ref().expect("a lowered model has a graph")
}

/// Indices of the encoder's products with a constant matrix. The neck feeds the decoder directly and
/// is one layer of forty: it stays f32.
fn integer_layers(model: &ModelProto, options: &Options) -> Result<Vec<usize>> {
    let weights: BTreeSet<&str> = graph(model)
        .initializer
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    let chosen: Vec<usize> = graph(model)
        .node
        .iter()
        .enumerate()
        .filter(|(_, node)| node.op_type == "MatMul" && weights.contains(node.input[1].as_str()))
        .filter(|(_, node)| node.name.starts_with("image_encoder/layers."))
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
    options
        .keep_f32
        .iter()
        .any(|pattern| name.contains(pattern.as_str()))
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
        let zero = TensorProto {
            dims: vec![],
            ..i8_tensor(ZERO, &[], &[0])
        };
        let replaced = BTreeMap::from([(ZERO.to_owned(), vec![zero])]);
        Self {
            weights,
            nodes: Vec::new(),
            replaced,
        }
    }

    /// x (f32) -> QuantizeLinear -> MatMulInteger -> Cast -> Mul, under the old output name.
    fn integer_layer(
        &mut self,
        old: &NodeProto,
        ranges: &Ranges,
        options: &Options,
    ) -> Result<Layer> {
        let base = old.name.trim_end_matches("/matmul");
        let histogram = ranges
            .get(&old.input[0])
            .with_context(|| format!("no calibration for {}, input of {base}", old.input[0]))?;
        let clip = histogram.clip(options.clip);
        ensure!(
            clip.is_finite() && clip > 0.0,
            "the input of {base} is {clip} everywhere: the network is dead there"
        );
        let scale = clip / LEVELS;
        let weight_name = &old.input[1];
        let weight = f32_data(self.weights[weight_name.as_str()]);
        let columns = last_dim(self.weights[weight_name.as_str()]);
        let axis = match options.scales {
            WeightScales::PerTensor => None,
            WeightScales::PerChannel => Some(Axis::Last(columns)),
        };
        let small = Quantized::of(&weight, axis);
        let output_scales: Vec<f32> = small.scales.iter().map(|step| step * scale).collect();

        let [input_scale, output_scale] = [format!("{base}/input_scale"), format!("{base}/scale")];
        let scale_shape = if axis.is_some() {
            vec![columns]
        } else {
            vec![]
        };
        let stored = vec![
            i8_tensor(
                weight_name,
                &dims(self.weights[weight_name.as_str()]),
                &small.values,
            ),
            f32_tensor(&input_scale, &[], &[scale]),
            f32_tensor(&output_scale, &scale_shape, &output_scales),
        ];
        self.replaced.insert(weight_name.clone(), stored);
        let names = ["quantize", "integer", "cast"].map(|part| format!("{base}/{part}"));
        let to_f32 = vec![int("to", i64::from(DataType::Float as i32))];
        self.nodes.extend([
            node(
                "QuantizeLinear",
                &names[0],
                &[&old.input[0], &input_scale, ZERO],
                vec![],
            ),
            node(
                "MatMulInteger",
                &names[1],
                &[&names[0], weight_name],
                vec![],
            ),
            node("Cast", &names[2], &[&names[1]], to_f32),
            node("Mul", &old.output[0], &[&names[2], &output_scale], vec![]),
        ]);
        Ok(Layer {
            name: base.to_owned(),
            maximum: histogram.maximum(),
            clip,
            scale,
            input_error: histogram.relative_error(clip),
            weight_error: small.error,
        })
    }

    /// Everything else stays as it is; a large constant weight is stored as int8.
    fn stored_layer(&mut self, old: &NodeProto, options: &Options) -> Result<()> {
        let weight = old
            .input
            .get(1)
            .and_then(|name| self.weights.get(name.as_str()).copied());
        if let Some(weight) = weight
            && matches!(old.op_type.as_str(), "Conv" | "MatMul")
            && !kept(&old.name, options)
            && f32_len(weight) >= SMALL
            && !self.replaced.contains_key(&weight.name)
        {
            let name = &weight.name;
            let data = f32_data(weight);
            let (axis, position, channels) = if old.op_type == "Conv" {
                let channels = usize::try_from(weight.dims[0])?;
                (Axis::First(channels), 0, channels)
            } else {
                (Axis::Last(last_dim(weight)), 1, last_dim(weight))
            };
            let small = Quantized::of(&data, Some(axis));
            let [values, scales] = [format!("{name}/int8"), format!("{name}/scale")];
            let stored = vec![
                i8_tensor(&values, &dims(weight), &small.values),
                f32_tensor(&scales, &[channels], &small.scales),
            ];
            self.replaced.insert(name.clone(), stored);
            let attributes = vec![int("axis", position)];
            self.nodes.push(node(
                "DequantizeLinear",
                name,
                &[&values, &scales],
                attributes,
            ));
        }
        self.nodes.push(old.clone());
        Ok(())
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
    use nets::tiny_vit::Stem;

    use super::*;
    use crate::onnx::automatic::OUTPUT;
    use crate::onnx::lower_automatic;
    use crate::onnx::testing::{SIZE, config, image, random_state};

    fn lowered() -> ModelProto {
        lower_automatic(&random_state(&config(Stem::Stride4)), SIZE)
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
        assert_eq!(
            layers.len(),
            16,
            "four linear layers in each of four blocks"
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
        let scale = "image_encoder/layers.1/blocks.0/attn/qkv/scale";
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
        let keep_f32 = vec!["layers.1/".to_owned(), "mlp/fc2".to_owned()];
        let options = Options {
            keep_f32,
            ..Options::default()
        };
        let ranges = calibrate(&model, SIZE, &[image(0.0)], &options).unwrap();
        let (small, layers) = quantize(&model, &ranges, &options).unwrap();
        assert_eq!(layers.len(), 9);
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
    fn keeping_everything_is_refused() {
        let options = Options {
            keep_f32: vec!["image_encoder".to_owned()],
            ..Options::default()
        };
        let error = calibrate(&lowered(), SIZE, &[image(0.0)], &options).unwrap_err();
        assert!(error.to_string().contains("keep_f32"), "{error}");
    }
}
