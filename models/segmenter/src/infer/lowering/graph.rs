//! The nodes of an ONNX graph while passes replace groups of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::super::ops::{
    Activation, Compute, Depthwise, Half, Linear, PackedF32, PackedI8, Patches, Rows, Weights,
    WindowAttention,
};

/// Operator of the nodes that stand for operations of ours.
pub(super) const OURS: &str = "ScansideOperation";

/// An operation of ours that passes still add to.
pub(super) enum Draft {
    Linear(LinearDraft),
    Depthwise(Depthwise),
    Activation(Activation),
    WindowAttention(WindowAttention),
}

impl Draft {
    /// The operation; f32 is multiplied by `half` if there is one.
    pub(super) fn finish(self, half: Option<&'static Half>) -> Arc<dyn Compute> {
        match self {
            Self::Linear(draft) => Arc::new(draft.finish(half)),
            Self::Depthwise(depthwise) => Arc::new(depthwise),
            Self::Activation(kind) => Arc::new(kind),
            Self::WindowAttention(attention) => Arc::new(WindowAttention { half, ..attention }),
        }
    }
}

pub(super) struct LinearDraft {
    pub(super) weights: Matrix,
    pub(super) bias: Vec<f32>,
    pub(super) activation: Activation,
    pub(super) rows: RowsDraft,
}

/// What a layer multiplies: see [`Rows`].
pub(super) enum RowsDraft {
    Given,
    Patches(Patches),
    Depthwise(Depthwise),
    Linear(Box<LinearDraft>),
}

impl LinearDraft {
    fn finish(self, half: Option<&'static Half>) -> Linear {
        let [k, n] = self.weights.shape;
        Linear {
            weights: match self.weights.values {
                Values::F32(values) => Weights::F32(PackedF32::new(&values, k, n, half)),
                Values::I8 {
                    values,
                    scales,
                    input: Steps { scale, zero },
                } => Weights::I8 {
                    packed: PackedI8::new(&values, k, n, zero),
                    reciprocal: 1.0 / scale,
                    scales: scales.iter().map(|it| it * scale).collect(),
                },
            },
            bias: self.bias,
            activation: self.activation,
            rows: match self.rows {
                RowsDraft::Given => Rows::Given,
                RowsDraft::Patches(patches) => Rows::Patches(patches),
                RowsDraft::Depthwise(depthwise) => Rows::Depthwise(depthwise),
                RowsDraft::Linear(first) => Rows::Linear(Box::new(first.finish(half))),
            },
        }
    }
}

/// (K, N), row by row.
pub(super) struct Matrix {
    pub(super) shape: [usize; 2],
    pub(super) values: Values,
}

/// More of the largest products than these would not fit into 32 bits.
pub(super) const MOST_PRODUCTS: usize = 65_536;

pub(super) enum Values {
    F32(Vec<f32>),
    I8 {
        values: Vec<i8>,
        /// N values, or one.
        scales: Vec<f32>,
        input: Steps,
    },
}

/// How values became bytes: `(byte - zero) * scale`.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub(super) scale: f32,
    pub(super) zero: u8,
}

pub(super) struct Graph {
    nodes: Vec<Option<NodeProto>>,
    constants: HashMap<String, TensorProto>,
    /// Node that makes a value.
    producers: HashMap<String, usize>,
    /// How many nodes take a value; outputs that somebody asked for count too.
    uses: HashMap<String, usize>,
    /// The graph's input and its shape.
    image: (String, Vec<usize>),
    pub(super) drafts: BTreeMap<String, Draft>,
}

impl Graph {
    /// Takes the nodes of `proto`, of which somebody wants `outputs`. Its input has the shape `image`.
    pub(super) fn new(proto: &GraphProto, image: &[usize], outputs: &[String]) -> Self {
        let input = proto
            .input
            .first()
            .map(|it| it.name.clone())
            .unwrap_or_default();
        let mut graph = Self {
            nodes: Vec::new(),
            constants: HashMap::new(),
            producers: HashMap::new(),
            uses: outputs.iter().map(|name| (name.clone(), 1)).collect(),
            image: (input, image.to_vec()),
            drafts: BTreeMap::new(),
        };
        for tensor in &proto.initializer {
            graph.constants.insert(tensor.name.clone(), tensor.clone());
        }
        for (index, node) in proto.node.iter().enumerate() {
            graph.nodes.push(None);
            graph.put(index, node.clone());
        }
        graph
    }

    pub(super) fn finish(self) -> (Vec<NodeProto>, BTreeMap<String, Draft>) {
        (self.nodes.into_iter().flatten().collect(), self.drafts)
    }

    fn put(&mut self, index: usize, node: NodeProto) {
        for input in &node.input {
            *self.uses.entry(input.clone()).or_default() += 1;
        }
        for output in &node.output {
            self.producers.insert(output.clone(), index);
        }
        self.nodes[index] = Some(node);
    }

    fn take(&mut self, index: usize) {
        if let Some(node) = self.nodes[index].take() {
            for input in &node.input {
                if let Some(uses) = self.uses.get_mut(input) {
                    *uses -= 1;
                }
            }
            for output in &node.output {
                self.producers.remove(output);
                self.drafts.remove(output);
            }
        }
    }

    /// Puts an operation with these inputs in the place of node `root` and takes `others` away.
    pub(super) fn replace(
        &mut self,
        root: usize,
        others: &[usize],
        inputs: Vec<String>,
        draft: Draft,
    ) {
        let output = self
            .node(root)
            .map(|node| node.output[0].clone())
            .unwrap_or_default();
        for &index in others {
            self.take(index);
        }
        self.take(root);
        let node = NodeProto {
            input: inputs,
            output: vec![output.clone()],
            name: output.clone(),
            op_type: OURS.to_owned(),
            ..NodeProto::default()
        };
        self.put(root, node);
        self.drafts.insert(output, draft);
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, index: usize) -> Option<&NodeProto> {
        self.nodes[index].as_ref()
    }

    /// The node at `index` if it is `operator`.
    pub(super) fn is(&self, index: usize, operator: &str) -> Option<&NodeProto> {
        self.node(index).filter(|node| node.op_type == operator)
    }

    /// The node that makes `value`, if it is `operator` and nobody else needs the value.
    pub(super) fn only(&self, value: &str, operator: &str) -> Option<(usize, &NodeProto)> {
        let &index = self.producers.get(value)?;
        let node = self.is(index, operator)?;
        (self.uses.get(value) == Some(&1)).then_some((index, node))
    }

    /// The same of an operation of ours, with its draft.
    pub(super) fn only_ours(&self, value: &str) -> Option<(usize, &NodeProto, &Draft)> {
        let (index, node) = self.only(value, OURS)?;
        Some((index, node, self.drafts.get(value)?))
    }

    /// The activation that makes `value`.
    pub(super) fn activation(&self, value: &str) -> Option<Activation> {
        match self.drafts.get(value)? {
            Draft::Activation(kind) => Some(*kind),
            _ => None,
        }
    }

    /// Shape of the graph's input, if `value` is that.
    pub(super) fn image_shape(&self, value: &str) -> Option<Vec<usize>> {
        (self.image.0 == value).then(|| self.image.1.clone())
    }

    fn raw(&self, value: &str, kind: DataType) -> Option<(Vec<usize>, &[u8])> {
        let tensor = self.constants.get(value)?;
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&n| n.try_into().ok()).collect();
        let shape = shape.filter(|_| tensor.data_type == kind as i32)?;
        Some((shape, &tensor.raw_data))
    }

    /// Shape and values of a constant: f32 as it is stored, dequantized, or gathered from a table by column.
    pub(super) fn f32(&self, value: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        if let Some((shape, bytes)) = self.raw(value, DataType::Float) {
            let (values, _) = bytes.as_chunks::<4>();
            let values: Vec<f32> = values.iter().map(|&it| f32::from_le_bytes(it)).collect();
            let fits = values.len() == shape.iter().product::<usize>();
            return fits.then_some((shape, values));
        }
        let node = self.node(*self.producers.get(value)?)?;
        match (&node.op_type[..], &node.input[..]) {
            ("DequantizeLinear", [values, scales]) => self.dequantized(node, values, scales),
            ("Gather", [table, columns]) => self.gathered(node, table, columns),
            _ => None,
        }
    }

    fn dequantized(
        &self,
        node: &NodeProto,
        values: &str,
        scales: &str,
    ) -> Option<(Vec<usize>, Vec<f32>)> {
        let (shape, values) = self.i8(values)?;
        let (_, scales) = self.f32(scales)?;
        let axis = usize::try_from(attribute(node, "axis", 1)).ok()?;
        let inner: usize = shape.get(axis + 1..)?.iter().product();
        if scales.len() != 1 && shape.get(axis) != Some(&scales.len()) {
            return None;
        }
        let channel = |i: usize| i / inner % scales.len();
        let values = values.iter().enumerate();
        let values = values.map(|(i, &value)| f32::from(value) * scales[channel(i)]);
        Some((shape, values.collect()))
    }

    fn gathered(
        &self,
        node: &NodeProto,
        table: &str,
        columns: &str,
    ) -> Option<(Vec<usize>, Vec<f32>)> {
        let (shape, table) = self.f32(table)?;
        let (mut picked, bytes) = self.raw(columns, DataType::Int32)?;
        let &[rows, width] = &shape[..] else {
            return None;
        };
        let (columns, _) = bytes.as_chunks::<4>();
        let columns = columns
            .iter()
            .map(|&it| i32::from_le_bytes(it).try_into().ok());
        let columns: Vec<usize> = columns.collect::<Option<_>>()?;
        if attribute(node, "axis", 0) != 1 || columns.iter().any(|&column| column >= width) {
            return None;
        }
        picked.insert(0, rows);
        let values = table
            .chunks_exact(width)
            .flat_map(|row| columns.iter().map(|&column| row[column]));
        Some((picked, values.collect()))
    }

    pub(super) fn i8(&self, value: &str) -> Option<(Vec<usize>, Vec<i8>)> {
        let (shape, bytes) = self.raw(value, DataType::Int8)?;
        Some((shape, bytes.iter().map(|byte| byte.cast_signed()).collect()))
    }

    /// Shape, values and scales of int8 weights with a scale for each index of `axis`, or one for all.
    pub(super) fn weights(
        &self,
        value: &str,
        axis: i64,
    ) -> Option<(Vec<usize>, Vec<i8>, Vec<f32>)> {
        let node = self.is(*self.producers.get(value)?, "DequantizeLinear")?;
        let [values, scales] = &node.input[..] else {
            return None;
        };
        let (shape, values) = self.i8(values)?;
        let (_, scales) = self.f32(scales)?;
        let fits = scales.len() == 1 || attribute(node, "axis", 1) == axis;
        fits.then_some((shape, values, scales))
    }

    /// The value of which `value` is made by QuantizeLinear and DequantizeLinear, how, and the places of both.
    pub(super) fn quantized(&self, value: &str) -> Option<(&str, Steps, [usize; 2])> {
        let (back, node) = self.only(value, "DequantizeLinear")?;
        let (there, quantize) = self.only(&node.input[0], "QuantizeLinear")?;
        let (_, zero) = self.raw(quantize.input.get(2)?, DataType::Uint8)?;
        let (scale, &[zero]) = (self.scalar(&quantize.input[1])?, zero) else {
            return None;
        };
        let same = node.input[1..] == quantize.input[1..];
        same.then_some((&quantize.input[0], Steps { scale, zero }, [back, there]))
    }

    /// A constant of 64-bit integers none of which is negative: a shape.
    pub(super) fn shape(&self, value: &str) -> Option<Vec<usize>> {
        let (_, bytes) = self.raw(value, DataType::Int64)?;
        let (values, _) = bytes.as_chunks::<8>();
        values
            .iter()
            .map(|&it| i64::from_le_bytes(it).try_into().ok())
            .collect()
    }

    pub(super) fn scalar(&self, value: &str) -> Option<f32> {
        match &self.f32(value)?.1[..] {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// A Reshape that nobody else reads: its place, input and target.
    pub(super) fn reshape(&self, value: &str) -> Option<(usize, &str, Vec<usize>)> {
        self.shared_reshape(value, 1)
    }

    /// A Reshape with `readers`.
    pub(super) fn shared_reshape(
        &self,
        value: &str,
        readers: usize,
    ) -> Option<(usize, &str, Vec<usize>)> {
        let &index = self.producers.get(value)?;
        let node = self.is(index, "Reshape")?;
        let shape = self.shape(node.input.get(1)?)?;
        (self.uses.get(value) == Some(&readers)).then_some((index, &node.input[0], shape))
    }

    /// A Transpose of this order that nobody else reads: its place and input.
    pub(super) fn transpose(&self, value: &str, order: &[i64]) -> Option<(usize, &str)> {
        let (index, node) = self.only(value, "Transpose")?;
        (integers(node, "perm") == order).then(|| (index, &node.input[0][..]))
    }
}

pub(super) fn attribute(node: &NodeProto, name: &str, default: i64) -> i64 {
    let found = node.attribute.iter().find(|it| it.name == name);
    found.map_or(default, |it| it.i)
}

pub(super) fn integers<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    let found = node.attribute.iter().find(|it| it.name == name);
    found.map_or(&[], |it| &it.ints)
}
