//! Puts operations of ours where tract's give other bits on another processor: LayerNorm, softmax, GELU and the
//! 3x3 convolutions that are no matrix products.
//!
//! tract picks kernels by CPU, and they add up in orders of their own. In an f32 graph that is noise in the last
//! bit; in an int8 graph that bit decides how an activation rounds, and a mask moves by pixels. What stays with
//! tract is exact (products of int8) or adds one product after the other whatever the CPU (f32 matrices).

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::{
    Datum, Expansion, InferenceOp, InferenceResult, OutletId, Solver, SpecialOps, StaticName, TVec,
    TensorProxy, TractResult, TypedModel, TypedModelPatch, TypedNode, TypedOp, check_input_arity,
    check_output_arity, expand,
};
use tract_onnx::tract_hir::tract_core::model::Rewriter;
use tract_onnx::tract_hir::tract_core::ops::cnn::Conv;
use tract_onnx::tract_hir::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_hir::tract_core::ops::nn::{self, GeluExact, SoftmaxKind};

use super::ops::{Conv3x3, Gelu, LayerNorm, Softmax};

/// tract's reader of ONNX, with LayerNormalization kept in one piece.
pub(super) fn reader() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert("LayerNormalization", layer_norm);
    onnx
}

/// The decluttered model with operations replaced.
pub(super) fn lower(mut model: TypedModel) -> TractResult<TypedModel> {
    // First of all: decluttering moves an image's axes about, and not on every CPU alike.
    Rewriter::default()
        .with_rule_for::<Conv>("conv 3x3", |(), model, node, _, op| conv(model, node, op))
        .with_rule_for::<nn::Softmax>("softmax", |(), model, node, _, op| softmax(model, node, op))
        .rewrite(&(), &mut model)?;
    // Recognizes the GELU in its parts.
    model.declutter()?;
    Rewriter::default()
        .with_rule_for::<ElementWiseOp>("gelu", |(), model, node, _, op| gelu(model, node, op))
        .rewrite(&(), &mut model)?;
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
    Ok((expand(LayerNorm { epsilon }), vec![]))
}

impl Expansion for LayerNorm {
    fn name(&self) -> StaticName {
        "LayerNorm".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        for input in inputs {
            solver.equals(&input.datum_type, f32::datum_type())?;
        }
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

type Rewritten = TractResult<Option<TypedModelPatch>>;

fn replaced<O: TypedOp>(model: &TypedModel, node: &TypedNode, op: O) -> Rewritten {
    let op: Box<dyn TypedOp> = Box::new(op);
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

/// Whether the first input is f32, as all our operations want it.
fn takes_f32(model: &TypedModel, node: &TypedNode) -> TractResult<bool> {
    Ok(model.outlet_fact(node.inputs[0])?.datum_type == f32::datum_type())
}

fn gelu(model: &TypedModel, node: &TypedNode, op: &ElementWiseOp) -> Rewritten {
    if !op.0.is::<GeluExact>() || !takes_f32(model, node)? {
        return Ok(None);
    }
    replaced(model, node, ElementWiseOp(Box::new(Gelu), None))
}

fn softmax(model: &TypedModel, node: &TypedNode, op: &nn::Softmax) -> Rewritten {
    let last = model.outlet_fact(node.inputs[0])?.rank() - 1;
    let plain = op.kind == SoftmaxKind::default() && op.quant_output_dt.is_none();
    if !plain || op.axes[..] != [last] || !takes_f32(model, node)? {
        return Ok(None);
    }
    replaced(model, node, Softmax)
}

fn conv(model: &TypedModel, node: &TypedNode, op: &Conv) -> Rewritten {
    if !takes_f32(model, node)? {
        return Ok(None);
    }
    match Conv3x3::of(op) {
        Some(conv) => replaced(model, node, conv),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use tract_onnx::prelude::{DatumExt, Framework, InferenceModelExt};

    use super::*;

    /// tract's operations that give the same bits on every CPU: they move values, work on one at a time, multiply
    /// integers, or add the products of f32 one after the other.
    const SAME_BITS: [&str; 18] = [
        "Add",
        "Cast",
        "Concat",
        "IntoShape",
        "LazyIm2col",
        "Mul",
        "MoveAxis",
        "OptAddUnicast",
        "OptBinChain(Add+Max)",
        "OptBinChain(Mul+Add)",
        "OptMatMul",
        "OptMatMulPack",
        "OptMulByScalar",
        "Pad",
        "QuantizeLinearI8",
        "Slice",
        "Source",
        "Const",
    ];
    const OURS: [&str; 4] = ["Conv3x3", "Gelu", "LayerNorm", "RowSoftmax"];

    #[test]
    fn the_shipped_graph_has_no_operation_that_depends_on_the_cpu() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/cardiac-lv-vit_t-256/model.onnx");
        let mut model = reader().model_for_path(path).unwrap();
        model
            .set_input_fact(0, f32::fact([1, 3, 256, 256]).into())
            .unwrap();
        let model = lower(model.into_typed().unwrap())
            .and_then(TypedModel::into_optimized)
            .unwrap();
        let found: BTreeSet<String> = model
            .nodes()
            .iter()
            .map(|node| node.op.name().into_owned())
            .collect();
        for op in OURS {
            assert!(found.contains(op), "no {op} in {found:?}");
        }
        let known: BTreeSet<String> = SAME_BITS
            .into_iter()
            .chain(OURS)
            .map(String::from)
            .collect();
        let unknown: Vec<_> = found.difference(&known).collect();
        assert!(
            unknown.is_empty(),
            "{unknown:?}: does it add in the same order everywhere?"
        );
    }
}
