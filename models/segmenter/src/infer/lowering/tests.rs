//! Each pass on a graph that it is for: the operations of ours give what tract gives.

mod attention;
mod chains;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use tract_onnx::prelude::{
    DatumExt, Framework, InferenceModelExt, IntoRunnable, IntoTensor, Tensor, TypedModel, tvec,
};

use super::*;

/// A graph of one input `x` and one output `y`.
#[derive(Default)]
struct Builder {
    graph: GraphProto,
    /// Multiplies f32 in 16 bits where passes are.
    half: bool,
}

impl Builder {
    fn constant(&mut self, name: &str, data_type: DataType, dims: &[usize], raw_data: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.iter().map(|&side| side as i64).collect(),
            data_type: data_type as i32,
            raw_data,
            ..TensorProto::default()
        });
    }

    fn f32(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let raw = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.constant(name, DataType::Float, dims, raw);
    }

    fn i64(&mut self, name: &str, values: &[i64]) {
        let raw = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.constant(name, DataType::Int64, &[values.len()], raw);
    }

    /// Small numbers that depend on their place.
    fn random(&mut self, name: &str, dims: &[usize]) {
        self.f32(
            name,
            dims,
            &numbers(dims.iter().product(), name.len() as u32),
        );
    }

    fn node(
        &mut self,
        operator: &str,
        output: &str,
        inputs: &[&str],
        attributes: &[(&str, &[i64])],
    ) {
        let attribute = attributes.iter().map(|&(name, values)| match values {
            [one] => AttributeProto {
                name: name.to_owned(),
                r#type: AttributeType::Int as i32,
                i: *one,
                ..AttributeProto::default()
            },
            many => AttributeProto {
                name: name.to_owned(),
                r#type: AttributeType::Ints as i32,
                ints: many.to_vec(),
                ..AttributeProto::default()
            },
        });
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: operator.to_owned(),
            attribute: attribute.collect(),
            ..NodeProto::default()
        });
    }

    fn gelu(&mut self, output: &str, x: &str) {
        for (name, value) in [("root", 2f32.sqrt().recip()), ("one", 1.0), ("half", 0.5)] {
            self.f32(name, &[], &[value]);
        }
        self.node("Mul", "scaled", &[x, "root"], &[]);
        self.node("Erf", "erf", &["scaled"], &[]);
        self.node("Add", "sum", &["erf", "one"], &[]);
        self.node("Mul", "halved", &[x, "half"], &[]);
        self.node("Mul", output, &["halved", "sum"], &[]);
    }

    fn gelu_tanh(&mut self, output: &str, x: &str) {
        let root = (2.0 / std::f32::consts::PI).sqrt();
        for (name, value) in [("three", 3.0), ("cubic", 0.044_715), ("root", root)] {
            self.f32(name, &[], &[value]);
        }
        self.f32("one", &[], &[1.0]);
        self.f32("half", &[], &[0.5]);
        self.node("Pow", "cube", &[x, "three"], &[]);
        self.node("Mul", "bent", &["cube", "cubic"], &[]);
        self.node("Add", "inner", &[x, "bent"], &[]);
        self.node("Mul", "scaled", &["inner", "root"], &[]);
        self.node("Tanh", "tanh", &["scaled"], &[]);
        self.node("Add", "sum", &["tanh", "one"], &[]);
        self.node("Mul", "halved", &[x, "half"], &[]);
        self.node("Mul", output, &["halved", "sum"], &[]);
    }

    /// QuantizeLinear and DequantizeLinear of `x`, as `name`.
    fn quantized(&mut self, name: &str, x: &str) {
        self.f32("step", &[], &[0.01]);
        self.constant("zero", DataType::Uint8, &[], vec![90]);
        self.node("QuantizeLinear", "bytes", &[x, "step", "zero"], &[]);
        self.node("DequantizeLinear", name, &["bytes", "step", "zero"], &[]);
    }

    /// int8 weights with a scale for each index of `axis`.
    fn weights(&mut self, name: &str, dims: &[usize], axis: usize) {
        let n: usize = dims.iter().product();
        let bytes = (0..n as u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 24) as u8).max(1));
        let bytes = bytes.map(|byte| byte.wrapping_sub(128)).collect();
        self.constant("int8", DataType::Int8, dims, bytes);
        let scales: Vec<f32> = (0..dims[axis]).map(|i| 0.001 + i as f32 * 1e-5).collect();
        self.f32("scales", &[dims[axis]], &scales);
        self.node(
            "DequantizeLinear",
            name,
            &["int8", "scales"],
            &[("axis", &[axis as i64])],
        );
    }

    fn convolution(&mut self, x: &str, [c, h, w]: [i64; 3], out: [i64; 3], kernel: &str) {
        let [out_c, out_h, out_w] = out;
        self.i64("map", &[1, c, h, w]);
        self.i64("flat", &[out_c, out_h * out_w]);
        self.node("Transpose", "planes", &[x], &[("perm", &[1, 0])]);
        self.node("Reshape", "image", &["planes", "map"], &[]);
        let mut input = "image";
        if kernel == "quantized" {
            self.quantized("steps", "image");
            self.weights("kernel", &[out_c as usize, c as usize, 3, 3], 0);
            input = "steps";
        } else {
            let per_group = if kernel == "depthwise" { 1 } else { c as usize };
            self.random("kernel", &[out_c as usize, per_group, 3, 3]);
        }
        self.random("bias_of_conv", &[out_c as usize]);
        let stride = h / out_h;
        let group = if kernel == "depthwise" { c } else { 1 };
        self.node(
            "Conv",
            "conv",
            &[input, "kernel", "bias_of_conv"],
            &[
                ("kernel_shape", &[3, 3]),
                ("strides", &[stride, stride]),
                ("pads", &[1; 4]),
                ("group", &[group]),
            ],
        );
        self.node("Reshape", "rows", &["conv", "flat"], &[]);
        self.node("Transpose", "y", &["rows"], &[("perm", &[1, 0])]);
    }

    /// Runs the graph on `x` of shape `dims` with and without passes; the operators that ran with them.
    fn check(mut self, dims: &[usize], tolerance: f32) -> Vec<String> {
        self.graph.input = vec![value("x", dims)];
        self.graph.output = vec![value("y", &[])];
        let x = numbers(dims.iter().product(), 9);
        let (wanted, _) = self.run(&x, dims, false);
        let (found, operators) = self.run(&x, dims, true);
        assert_eq!(found.shape(), wanted.shape());
        let [found, wanted] = [&found, &wanted].map(|tensor| {
            let plain = tensor.try_as_plain_ram().unwrap();
            plain.as_slice::<f32>().unwrap().to_vec()
        });
        let top = wanted.iter().fold(0f32, |top, value| top.max(value.abs()));
        assert!(top > 0.01, "nothing to compare: {top}");
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!(
                (found - wanted).abs() <= tolerance * top,
                "{found}, not {wanted}"
            );
        }
        operators
    }

    fn run(&self, x: &[f32], dims: &[usize], fused: bool) -> (Tensor, Vec<String>) {
        let mut graph = self.graph.clone();
        let without = passes().map(String::from).filter(|_| !fused).collect();
        let options = LoadOptions {
            without,
            half_precision: self.half,
        };
        let operations = fuse(&mut graph, dims, &["y".to_owned()], &options);
        let reader = reader();
        let proto = ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto {
                version: 17,
                ..OperatorSetIdProto::default()
            }],
            graph: Some(graph),
            ..ModelProto::default()
        };
        let mut model = reader.model_for_proto_model(&proto).unwrap();
        fill(&mut model, &operations);
        model.set_input_fact(0, f32::fact(dims).into()).unwrap();
        let model = model
            .into_typed()
            .and_then(TypedModel::into_optimized)
            .unwrap();
        let nodes = model.nodes().iter().map(|node| node.op.name().into_owned());
        let operators = nodes.collect();
        let plan = model.into_runnable().unwrap();
        let input = Tensor::from_shape(dims, x).unwrap();
        let outputs = plan.run(tvec!(input.into())).unwrap();
        (outputs[0].clone().into_tensor(), operators)
    }
}

fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dim = dims.iter().map(|&side| Dimension {
        value: Some(dimension::Value::DimValue(side as i64)),
        ..Dimension::default()
    });
    let shape = (!dims.is_empty()).then(|| TensorShapeProto { dim: dim.collect() });
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape,
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mixed = |i: u32| (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    let mixed = (0..n as u32).map(|i| mixed(mixed(i) >> 7));
    mixed
        .map(|bits| (bits >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

fn assert_only(operators: &[String], ours: &[&str]) {
    let found: Vec<&str> = operators
        .iter()
        .map(|name| &name[..])
        .filter(|name| !["Source", "Const"].contains(name))
        .collect();
    assert_eq!(found, ours);
}

#[test]
fn gelu() {
    let mut graph = Builder::default();
    graph.gelu("y", "x");
    assert_only(&graph.check(&[3, 5], 1e-6), &["Gelu"]);
    let mut graph = Builder::default();
    graph.gelu_tanh("y", "x");
    assert_only(&graph.check(&[3, 5], 2e-6), &["GeluTanh"]);
    let mut graph = Builder::default();
    graph.node("HardSwish", "y", &["x"], &[]);
    assert_only(&graph.check(&[3, 5], 1e-6), &["HardSwish"]);
}

#[test]
fn linear_with_bias_residual_and_activation() {
    for (quantized, half) in [(false, false), (false, true), (true, false)] {
        let mut graph = Builder {
            half,
            ..Builder::default()
        };
        let mut input = "x";
        if quantized {
            graph.quantized("steps", "x");
            graph.weights("w", &[37, 37], 1);
            input = "steps";
        } else {
            graph.random("w", &[37, 37]);
        }
        graph.random("b", &[37]);
        graph.node("MatMul", "product", &[input, "w"], &[]);
        graph.node("Add", "biased", &["product", "b"], &[]);
        graph.node("Add", "with_x", &["biased", "x"], &[]);
        graph.gelu("y", "with_x");
        let name = if quantized { "LinearI8" } else { "Linear" };
        let tolerance = if half { 1e-2 } else { 2e-6 };
        assert_only(&graph.check(&[70, 37], tolerance), &[name]);
    }
}

#[test]
fn linear_and_relu() {
    let mut graph = Builder::default();
    graph.random("w", &[8, 50]);
    graph.node("MatMul", "product", &["x", "w"], &[]);
    graph.node("Relu", "y", &["product"], &[]);
    assert_only(&graph.check(&[5, 8], 1e-6), &["Linear"]);
}

#[test]
fn convolutions_of_tokens() {
    for (kernel, shape, out, name) in [
        ("depthwise", [40, 6, 10], [40, 6, 10], "Depthwise"),
        ("depthwise", [40, 6, 10], [40, 3, 5], "Depthwise"),
        ("plain", [5, 6, 4], [7, 6, 4], "ConvTokens"),
        ("plain", [5, 6, 4], [7, 3, 2], "ConvTokens"),
        ("quantized", [8, 6, 4], [33, 6, 4], "ConvTokensI8"),
        ("quantized", [8, 12, 8], [33, 6, 4], "ConvTokensI8"),
    ] {
        for (half, tolerance) in [(false, 2e-6), (true, 1e-2)] {
            let mut graph = Builder {
                half,
                ..Builder::default()
            };
            graph.convolution("x", shape, out, kernel);
            let [channels, height, width] = shape.map(|side| side as usize);
            let operators = graph.check(&[height * width, channels], tolerance);
            assert_only(&operators, &[name]);
        }
    }
}

#[test]
fn quantized_convolution_pads_with_zero() {
    // Bytes of channels that are no multiple of four have gaps in the kernel's rows.
    let mut graph = Builder::default();
    graph.convolution("x", [6, 4, 4], [5, 4, 4], "quantized");
    assert_only(&graph.check(&[16, 6], 2e-6), &["ConvTokensI8"]);
}

#[test]
fn a_value_that_somebody_else_reads_stays() {
    let mut graph = Builder::default();
    graph.random("w", &[8, 8]);
    graph.node("MatMul", "product", &["x", "w"], &[]);
    graph.node("Relu", "positive", &["product"], &[]);
    graph.node("Add", "y", &["positive", "product"], &[]);
    let operators = graph.check(&[5, 8], 1e-6);
    assert!(
        operators.iter().any(|name| name == "Linear"),
        "{operators:?}"
    );
    assert!(operators.len() > 3, "{operators:?}");
}
