//! The shipped graph after all passes.

use std::collections::BTreeSet;
use std::path::Path;

use contract::bundle::Bundle;

use super::super::Graph;

/// tract's operations that give the same bits on every CPU: they move values, work on one at a time, or add the
/// products of f32 one after the other.
const SAME_BITS: [&str; 8] = [
    "Concat",
    "IntoShape",
    "MoveAxis",
    "OptAddUnicast",
    "OptMatMul",
    "OptMatMulPack",
    "Slice",
    "Source",
];
const OURS: [&str; 10] = [
    "ConvTokens",
    "ConvTokensI8",
    "Depthwise",
    "DepthwiseLinearI8",
    "Gelu",
    "LayerNorm",
    "LinearI8",
    "MlpI8",
    "RowSoftmax",
    "WindowAttention",
];

#[test]
fn the_shipped_graph_has_no_operation_that_depends_on_the_cpu() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/cardiac-lv-vit_t-256");
    let bundle = Bundle::open(&bundle).unwrap();
    let graph = Graph::open(&bundle.path("model.onnx"), &bundle.manifest).unwrap();
    let size = bundle.manifest.input.size;
    let profile = graph
        .profile(&vec![0.0; 3 * size * size], 1, false)
        .unwrap();
    let found: BTreeSet<String> = profile.operators.into_iter().map(|it| it.name).collect();
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
