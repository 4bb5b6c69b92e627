//! Attention in windows, as the exporter writes it.

use super::*;

#[test]
fn attention_in_windows() {
    let by_distance = |head: usize, from: usize, to: usize| {
        let (down, right) = (to / 3 + 2 - from / 3, to % 3 + 2 - from % 3);
        numbers(50, 9)[head * 25 + down * 5 + right]
    };
    assert_only(&attention(by_distance, 2e-6, false), &["WindowAttention"]);
    assert_only(&attention(by_distance, 1e-2, true), &["WindowAttention"]);
    let by_pair = |head: usize, from: usize, to: usize| numbers(162, 9)[head * 81 + from * 9 + to];
    let operators = attention(by_pair, 2e-6, false);
    assert!(
        !operators.contains(&"WindowAttention".to_owned()),
        "{operators:?}"
    );
}

/// Two by one windows of 3 x 3 tokens, two heads of 16 channels.
fn attention(bias: impl Fn(usize, usize, usize) -> f32, tolerance: f32, half: bool) -> Vec<String> {
    let (down, across, side, heads, width) = (2, 1, 3, 2, 16);
    let (tokens, area, channels) = (down * across * side * side, side * side, heads * width);
    let mut graph = Builder::default();
    graph.i64("split", &[down, side, across, side, 3, heads, width]);
    graph.i64("kinds", &[3, down * across, heads, area, width]);
    graph.i64("kind", &[down * across, heads, area, width]);
    graph.i64("joined", &[down, across, heads, side, side, width]);
    graph.i64("tokens", &[tokens, channels]);
    let pairs = (0..162).map(|i| bias(i / 81, i / 9 % 9, i % 9));
    graph.f32("bias", &[2, 9, 9], &pairs.collect::<Vec<_>>());
    for i in 0..4 {
        graph.i64(&format!("at_{i}"), &[i]);
    }
    graph.node("Reshape", "a", &["x", "split"], &[]);
    graph.node(
        "Transpose",
        "b",
        &["a"],
        &[("perm", &[4, 0, 2, 5, 1, 3, 6])],
    );
    graph.node("Reshape", "c", &["b", "kinds"], &[]);
    for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
        let (from, to) = (format!("at_{i}"), format!("at_{}", i + 1));
        let slice = format!("{part}_slice");
        graph.node("Slice", &slice, &["c", &from, &to, "at_0"], &[]);
        graph.node("Reshape", part, &[&slice, "kind"], &[]);
    }
    graph.node("Transpose", "turned", &["k"], &[("perm", &[0, 1, 3, 2])]);
    graph.node("MatMul", "scores", &["q", "turned"], &[]);
    graph.node("Add", "biased", &["scores", "bias"], &[]);
    graph.node("Softmax", "soft", &["biased"], &[("axis", &[-1])]);
    graph.node("MatMul", "mixed", &["soft", "v"], &[]);
    graph.node("Reshape", "d", &["mixed", "joined"], &[]);
    graph.node("Transpose", "e", &["d"], &[("perm", &[0, 3, 1, 4, 2, 5])]);
    graph.node("Reshape", "y", &["e", "tokens"], &[]);
    graph.half = half;
    graph.check(&[tokens as usize, 3 * channels as usize], tolerance)
}
