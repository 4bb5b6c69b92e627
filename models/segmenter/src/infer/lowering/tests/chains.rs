//! Layers that are computed block by block with the one that makes their rows.

use super::{Builder, assert_only};

#[test]
fn two_linear_layers() {
    for (quantized, half) in [(false, false), (false, true), (true, false)] {
        let mut graph = Builder {
            half,
            ..Builder::default()
        };
        graph.random("w1", &[37, 70]);
        graph.node("MatMul", "hidden", &["x", "w1"], &[]);
        graph.gelu("bent", "hidden");
        let mut input = "bent";
        if quantized {
            graph.quantized("steps", "bent");
            graph.weights("w2", &[70, 37], 1);
            input = "steps";
        } else {
            graph.random("w2", &[70, 37]);
        }
        graph.node("MatMul", "product", &[input, "w2"], &[]);
        graph.node("Add", "y", &["product", "x"], &[]);
        let name = if quantized { "MlpI8" } else { "Mlp" };
        // Three blocks, the last of them short.
        let tolerance = if half { 1e-2 } else { 2e-6 };
        assert_only(&graph.check(&[150, 37], tolerance), &[name]);
    }
}

#[test]
fn a_depthwise_convolution_and_a_linear_layer() {
    for quantized in [false, true] {
        let mut graph = Builder::default();
        graph.convolution("x", [40, 12, 10], [40, 6, 5], "depthwise");
        let last = graph.graph.node.last_mut().unwrap();
        last.output[0] = "convolved".to_owned();
        last.name = "convolved".to_owned();
        let mut input = "convolved";
        if quantized {
            graph.quantized("steps", "convolved");
            graph.weights("w", &[40, 20], 1);
            input = "steps";
        } else {
            graph.random("w", &[40, 20]);
        }
        graph.node("MatMul", "y", &[input, "w"], &[]);
        let name = if quantized {
            "DepthwiseLinearI8"
        } else {
            "DepthwiseLinear"
        };
        assert_only(&graph.check(&[120, 40], 2e-6), &[name]);
    }
}

#[test]
fn rows_that_somebody_else_reads_stay() {
    let mut graph = Builder::default();
    graph.random("w", &[8, 8]);
    graph.node("MatMul", "first", &["x", "w"], &[]);
    graph.node("MatMul", "second", &["first", "w"], &[]);
    graph.node("Add", "y", &["second", "first"], &[]);
    let operators = graph.check(&[5, 8], 1e-6);
    assert_only(&operators, &["Linear", "Linear"]);
}
