//! Puts operations of ours into the graph when it is loaded: the file holds standard ONNX, and what tract runs is
//! fewer and fatter.
//!
//! Whole groups of nodes become one (`passes`): a linear layer with its quantization, bias, residual and activation,
//! a convolution on tokens, attention in windows. LayerNorm and softmax are replaced one by one, because tract picks
//! kernels by CPU that add up in orders of their own: in an int8 graph the last bit decides how an activation rounds,
//! and a mask moves by pixels. What stays with tract is exact or adds one product after the other whatever the CPU.

mod graph;
mod passes;

use std::collections::BTreeMap;
use std::sync::Arc;

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tract_hir::internal::{
    Datum, InferenceModel, InferenceOp, TractResult, TypedModel, TypedModelPatch, TypedNode,
    TypedOp, expand,
};
use tract_onnx::tract_hir::tract_core::model::Rewriter;
use tract_onnx::tract_hir::tract_core::ops::nn::{self, SoftmaxKind};

use self::graph::{Graph, OURS};
use super::ops::{self, Compute, LayerNorm, Operand, Ours, Softmax};

/// tract's reader of ONNX, with LayerNormalization kept in one piece and a place for operations of ours.
pub(super) fn reader() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert("LayerNormalization", layer_norm);
    onnx.op_register
        .insert(OURS, |_, _| Ok((expand(Ours(Arc::new(Vacant))), vec![])));
    onnx
}

/// Operations by the name of the node that they replace.
pub(super) type Operations = BTreeMap<String, Arc<dyn Compute>>;

/// Names of the passes, in their order.
pub fn passes() -> impl Iterator<Item = &'static str> {
    passes::PASSES.iter().map(|(name, _)| *name)
}

/// How a graph is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Leaves some of the [`passes`] out, to measure what they are worth.
    pub without: Vec<String>,
    /// Linear layers, 3x3 convolutions and attention multiply in 16 bits what the bundle multiplies in f32, where this CPU
    /// has instructions for it (see [`half_precision`]): faster, but masks differ by pixels between processors.
    pub half_precision: bool,
}

/// In which format [`LoadOptions::half_precision`] multiplies on this CPU; `None` where it changes nothing.
pub fn half_precision() -> Option<&'static str> {
    ops::half().map(|half| half.name)
}

/// Replaces groups of nodes of `proto`, whose input has the shape `image`; inner values among `outputs` stay.
pub(super) fn fuse(
    proto: &mut GraphProto,
    image: &[usize],
    outputs: &[String],
    options: &LoadOptions,
) -> Operations {
    let mut graph = Graph::new(proto, image, outputs);
    for (name, pass) in passes::PASSES {
        if options.without.iter().any(|it| it == name) {
            continue;
        }
        for root in 0..graph.len() {
            pass(&mut graph, root);
        }
    }
    let (nodes, drafts) = graph.finish();
    proto.node = nodes;
    let half = options.half_precision.then(ops::half).flatten();
    let finished = drafts
        .into_iter()
        .map(|(name, draft)| (name, draft.finish(half)));
    finished.collect()
}

/// Puts the operations of [`fuse`] into the nodes that wait for them.
pub(super) fn fill(model: &mut InferenceModel, operations: &Operations) {
    for node in &mut model.nodes {
        if let Some(operation) = operations.get(&node.name) {
            node.op = expand(Ours(operation.clone()));
        }
    }
}

/// Stands in a node until [`fill`].
#[derive(Debug)]
struct Vacant;

impl Compute for Vacant {
    fn name(&self) -> &'static str {
        "Vacant"
    }

    fn output_shape(&self, _: &[&[usize]]) -> Result<Vec<usize>, String> {
        Err("an operation that no exporter writes".into())
    }

    fn multiplications(&self, _: &[&[usize]]) -> u64 {
        0
    }

    fn run(&self, _: &[Operand], _: &mut [f32]) {}
}

/// The decluttered model with operations replaced.
pub(super) fn lower(mut model: TypedModel) -> TractResult<TypedModel> {
    Rewriter::default()
        .with_rule_for::<nn::Softmax>("softmax", |(), model, node, _, op| softmax(model, node, op))
        .rewrite(&(), &mut model)?;
    model.declutter()?;
    Ok(model)
}

fn layer_norm(
    context: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let axis: i64 = node.get_attr_opt("axis")?.unwrap_or(-1);
    let one_output = node.output.iter().skip(1).all(String::is_empty);
    if axis != -1 || !one_output || node.input.len() != 3 {
        let builtin = tract_onnx::onnx().op_register.0["LayerNormalization"];
        return builtin(context, node);
    }
    let epsilon = node.get_attr_opt("epsilon")?.unwrap_or(1e-5);
    Ok((expand(Ours(Arc::new(LayerNorm { epsilon }))), vec![]))
}

fn softmax(
    model: &TypedModel,
    node: &TypedNode,
    op: &nn::Softmax,
) -> TractResult<Option<TypedModelPatch>> {
    let x = model.outlet_fact(node.inputs[0])?;
    let plain = op.kind == SoftmaxKind::default() && op.quant_output_dt.is_none();
    if !plain || op.axes[..] != [x.rank() - 1] || x.datum_type != f32::datum_type() {
        return Ok(None);
    }
    let ours: Box<dyn TypedOp> = Box::new(Ours(Arc::new(Softmax)));
    TypedModelPatch::replace_single_op(model, node, &node.inputs, ours).map(Some)
}

#[cfg(test)]
mod shipped;
#[cfg(test)]
mod tests;
