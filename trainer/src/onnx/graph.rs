//! A graph, node by node.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

use super::array::Array;

/// LayerNormalization is standard from here on; tract and ONNX Runtime both have all of it.
pub const OPSET: i64 = 17;
/// The format version that goes with opset 17.
const IR_VERSION: i64 = 8;

/// A tensor of the graph: its name and its static shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub name: String,
    pub shape: Vec<usize>,
}

/// Collects nodes and initializers; every node has one output, named as the node.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    nodes: Vec<NodeProto>,
    initializers: BTreeMap<String, TensorProto>,
    inputs: Vec<Value>,
}

impl GraphBuilder {
    pub fn input(&mut self, name: &str, shape: &[usize]) -> Value {
        let value = Value {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        self.inputs.push(value.clone());
        value
    }

    /// A constant f32 tensor. The same name twice means the same tensor.
    pub fn constant(&mut self, name: &str, array: &Array) -> Value {
        let tensor = f32_tensor(name, &array.shape, &array.data);
        self.initializers.insert(name.to_owned(), tensor);
        Value {
            name: name.to_owned(),
            shape: array.shape.clone(),
        }
    }

    pub fn scalar(&mut self, value: f32) -> Value {
        self.constant(
            &format!("constant/{value}"),
            &Array {
                shape: vec![],
                data: vec![value],
            },
        )
    }

    /// A constant i32 tensor (indices).
    pub fn indices(&mut self, name: &str, shape: &[usize], data: &[i32]) -> Value {
        let raw = data.iter().flat_map(|index| index.to_le_bytes()).collect();
        self.initializers
            .insert(name.to_owned(), tensor(name, DataType::Int32, shape, raw));
        Value {
            name: name.to_owned(),
            shape: shape.to_vec(),
        }
    }

    /// A constant i64 vector: the shapes, axes and positions that operators take as inputs.
    pub fn integers(&mut self, values: &[i64]) -> Value {
        let text: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("constant/[{}]", text.join(","));
        let raw = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let tensor = tensor(&name, DataType::Int64, &[values.len()], raw);
        self.initializers.insert(name.clone(), tensor);
        Value {
            name,
            shape: vec![values.len()],
        }
    }

    pub fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
        shape: &[usize],
    ) -> Value {
        let inputs: Vec<&str> = inputs.iter().map(|value| value.name.as_str()).collect();
        self.nodes.push(node(operator, name, &inputs, attributes));
        Value {
            name: name.to_owned(),
            shape: shape.to_vec(),
        }
    }

    /// The finished model. Fails when two nodes share a name, which is an error of the lowering.
    pub fn finish(self, name: &str, output: &Value) -> Result<ModelProto> {
        let mut seen = BTreeSet::new();
        for node in &self.nodes {
            if !seen.insert(&node.name) || self.initializers.contains_key(&node.name) {
                bail!("two tensors of the graph are called {}", node.name);
            }
        }
        let graph = GraphProto {
            name: name.to_owned(),
            node: self.nodes,
            initializer: self.initializers.into_values().collect(),
            input: self.inputs.iter().map(value_info).collect(),
            output: vec![value_info(output)],
            ..GraphProto::default()
        };
        Ok(ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: OPSET,
            }],
            producer_name: "scanside".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            ..ModelProto::default()
        })
    }
}

/// The bytes of `model.onnx`.
pub fn serialize(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

pub fn node(
    operator: &str,
    name: &str,
    inputs: &[&str],
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![name.to_owned()],
        name: name.to_owned(),
        op_type: operator.to_owned(),
        attribute,
        ..NodeProto::default()
    }
}

pub fn f32_tensor(name: &str, shape: &[usize], data: &[f32]) -> TensorProto {
    let raw = data.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, DataType::Float, shape, raw)
}

pub fn i8_tensor(name: &str, shape: &[usize], data: &[i8]) -> TensorProto {
    tensor(
        name,
        DataType::Int8,
        shape,
        data.iter().map(|&value| value.cast_unsigned()).collect(),
    )
}

pub fn u8_tensor(name: &str, shape: &[usize], data: &[u8]) -> TensorProto {
    tensor(name, DataType::Uint8, shape, data.to_vec())
}

fn tensor(name: &str, data_type: DataType, shape: &[usize], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: to_i64(shape),
        data_type: data_type as i32,
        raw_data,
        ..TensorProto::default()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Float as i32,
        f: value,
        ..AttributeProto::default()
    }
}

pub(super) fn to_i64(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&side| side as i64).collect()
}

fn value_info(value: &Value) -> ValueInfoProto {
    let dim = to_i64(&value.shape)
        .into_iter()
        .map(|side| Dimension {
            value: Some(dimension::Value::DimValue(side)),
            ..Dimension::default()
        })
        .collect();
    ValueInfoProto {
        name: value.name.clone(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: DataType::Float as i32,
                shape: Some(TensorShapeProto { dim }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
