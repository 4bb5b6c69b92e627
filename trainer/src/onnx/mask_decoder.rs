//! The mask decoder without prompts as ONNX nodes: flat image tokens to class logits.
//!
//! The output tokens are constants, so what the first layer does to them before it sees the image
//! is computed here. Token 0 (IoU) and 1 (single mask) attend, but nothing reads them at the end.

use anyhow::{Result, ensure};

use super::array::Array;
use super::graph::{GraphBuilder, Value};
use super::layers::{Linear, Module, norm};
use super::weights::Weights;

const KEY: &str = "mask_decoder";
/// SAM's, not to be read off the tensors.
const HEADS: usize = 8;
const EPSILON: f32 = 1e-5;
/// Of LayerNorm2d, in the upscaling.
const UPSCALING_EPSILON: f32 = 1e-6;

/// What both directions of the transformer see.
struct Tokens {
    queries: Value,
    /// (g * g, 256)
    keys: Value,
    /// The output tokens themselves, added to the queries of every attention.
    point: Value,
    /// Dense positional encoding, (g * g, 256).
    position: Value,
}

/// Embedding (g * g, 256) with the dense prompt added, to logits (1, classes, 4 g, 4 g).
pub(super) fn lower(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    embedding: &Value,
) -> Result<Value> {
    let tokens = output_tokens(weights)?;
    let classes = tokens.rows() - 2;
    let grid = embedding.shape[0].isqrt();
    ensure!(
        tokens.shape[1] == embedding.shape[1] && classes > 0,
        "{KEY}.mask_tokens.weight has the shape {:?} less one row, the embedding {} channels",
        tokens.shape,
        embedding.shape[1]
    );
    let encoding = dense_position(weights, grid)?;
    let first = first_self_attention(weights, &tokens)?;
    let mut state = Tokens {
        queries: graph.constant("mask_decoder/layers.0/queries", &first),
        keys: embedding.clone(),
        point: graph.constant("mask_decoder/tokens", &tokens),
        position: graph.constant("prompt_encoder/dense_pe", &encoding),
    };
    let depth = weights.count("mask_decoder.transformer.layers.{}.norm1.weight");
    for layer in 0..depth {
        two_way_layer(graph, weights, layer, &mut state)?;
    }
    let last = Module::new(
        "mask_decoder.transformer.final_attn_token_to_image",
        "mask_decoder/final_attn_token_to_image",
    );
    let attended = tokens_to_image(graph, weights, &last, &state)?;
    let queries = graph.add(
        &format!("{}/residual", last.name),
        &state.queries,
        &attended,
    );
    let (scale, shift) = norm(weights, "mask_decoder.transformer.norm_final_attn")?;
    let name = "mask_decoder/norm_final_attn";
    let queries = graph.layer_norm(name, &queries, (&scale, &shift), EPSILON);
    let kernels = hypernetworks(graph, weights, &queries, classes)?;
    let upscaled = upscale(graph, weights, &state.keys)?;
    let flat = graph.matmul("mask_decoder/masks", &upscaled, &kernels);
    // Rows are (y, x, dy1, dx1, dy2, dx2): each upscaling split a pixel in two times two.
    let split = [grid, grid, 2, 2, 2, 2, classes];
    let split = graph.reshape("mask_decoder/masks/split", &flat, &split);
    let split = graph.transpose("mask_decoder/masks/order", &split, &[6, 0, 2, 4, 1, 3, 5]);
    Ok(graph.reshape("logits", &split, &[1, classes, 4 * grid, 4 * grid]))
}

/// IoU token and mask tokens: (classes + 2, 256).
fn output_tokens(weights: &mut Weights) -> Result<Array> {
    let mut tokens = weights.ranked(&format!("{KEY}.iou_token.weight"), 2)?;
    let masks = weights.ranked(&format!("{KEY}.mask_tokens.weight"), 2)?;
    tokens.data.extend(&masks.data);
    tokens.shape[0] += masks.rows();
    Ok(tokens)
}

/// Random Fourier features of the grid's pixel centres, (grid * grid, 256).
fn dense_position(weights: &mut Weights, grid: usize) -> Result<Array> {
    let name = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";
    let gauss = weights.ranked(name, 2)?;
    ensure!(
        gauss.rows() == 2,
        "tensor {name} has {} rows, expected x and y",
        gauss.rows()
    );
    let features = gauss.shape[1];
    let centre = |i: usize| 2.0 * ((i as f64 + 0.5) / grid as f64) - 1.0;
    let mut data = Vec::with_capacity(grid * grid * 2 * features);
    for pixel in 0..grid * grid {
        let (x, y) = (centre(pixel % grid), centre(pixel / grid));
        let angles: Vec<f64> = (0..features)
            .map(|f| f64::from(gauss.row(0)[f]) * x + f64::from(gauss.row(1)[f]) * y)
            .map(|turns| std::f64::consts::TAU * turns)
            .collect();
        data.extend(angles.iter().map(|angle| angle.sin() as f32));
        data.extend(angles.iter().map(|angle| angle.cos() as f32));
    }
    Ok(Array::new(&[grid * grid, 2 * features], data))
}

/// Layer 0 replaces the tokens by their self-attention and normalizes: constant.
fn first_self_attention(weights: &mut Weights, tokens: &Array) -> Result<Array> {
    let key = "mask_decoder.transformer.layers.0";
    let mut project = |part: &str, x: &Array| -> Result<Array> {
        let layer = Linear::read(weights, &format!("{key}.self_attn.{part}"))?;
        x.linear(
            &layer.weight,
            layer.bias.as_ref().expect("Linear::read gives a bias"),
        )
    };
    let q = project("q_proj", tokens)?;
    let k = project("k_proj", tokens)?;
    let v = project("v_proj", tokens)?;
    let mixed = project("out_proj", &q.attention(&k, &v, HEADS))?;
    let (scale, shift) = norm(weights, &format!("{key}.norm1"))?;
    Ok(mixed.layer_norm(&scale, &shift, f64::from(EPSILON)))
}

fn two_way_layer(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    index: usize,
    state: &mut Tokens,
) -> Result<()> {
    let layer = Module::new(
        format!("mask_decoder.transformer.layers.{index}"),
        format!("mask_decoder/layers.{index}"),
    );
    if index > 0 {
        let part = layer.part("self_attn");
        let name = format!("{}/query", part.name);
        let q = graph.add(&name, &state.queries, &state.point);
        let attended = attention(graph, weights, &part, [&q, &q, &state.queries])?;
        let sum = [&state.queries, &attended];
        state.queries = normed_sum(graph, weights, &layer.part("norm1"), sum)?;
    }
    let part = layer.part("cross_attn_token_to_image");
    let attended = tokens_to_image(graph, weights, &part, state)?;
    let residual = format!("{}/residual", part.name);
    let mut queries = graph.add(&residual, &state.queries, &attended);
    queries = skip_adapter(graph, weights, &adapter(&layer, "queries"), queries)?;
    queries = layer_norm(graph, weights, &layer.part("norm2"), &queries)?;
    let out = mlp(graph, weights, &layer.part("mlp"), &queries)?;
    let out = graph.mlp_adapter(weights, &layer.part("MLP_Adapter"), &queries, out)?;
    state.queries = normed_sum(graph, weights, &layer.part("norm3"), [&queries, &out])?;
    state.keys = image_to_tokens(graph, weights, &layer, state)?;
    Ok(())
}

/// The layer's second half: image tokens attend to queries.
fn image_to_tokens(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    layer: &Module,
    state: &Tokens,
) -> Result<Value> {
    let part = layer.part("cross_attn_image_to_token");
    let name = &part.name;
    let q = graph.add(&format!("{name}/query"), &state.keys, &state.position);
    let k = graph.add(&format!("{name}/key"), &state.queries, &state.point);
    let attended = attention(graph, weights, &part, [&q, &k, &state.queries])?;
    let keys = graph.add(&format!("{name}/residual"), &state.keys, &attended);
    // Upstream's fork runs the image tokens through the queries' adapter.
    let keys = skip_adapter(graph, weights, &adapter(layer, "keys"), keys)?;
    layer_norm(graph, weights, &layer.part("norm4"), &keys)
}

/// A layer's adapter, applied to these tokens.
fn adapter(layer: &Module, tokens: &str) -> Module {
    let Module { key, name } = layer;
    Module::new(format!("{key}.Adapter"), format!("{name}/Adapter/{tokens}"))
}

/// `x`, and what the adapter makes of it where there is one.
fn skip_adapter(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    adapter: &Module,
    x: Value,
) -> Result<Value> {
    if !adapter.is_adapter(weights) {
        return Ok(x);
    }
    let added = graph.adapter(weights, adapter, &x)?;
    Ok(graph.add(&adapter.name, &x, &added))
}

fn layer_norm(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &Module,
    x: &Value,
) -> Result<Value> {
    let (scale, shift) = norm(weights, &module.key)?;
    Ok(graph.layer_norm(&module.name, x, (&scale, &shift), EPSILON))
}

fn normed_sum(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &Module,
    [x, added]: [&Value; 2],
) -> Result<Value> {
    let sum = graph.add(&format!("{}/sum", module.name), x, added);
    layer_norm(graph, weights, module, &sum)
}

fn mlp(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    Module { key, name }: &Module,
    x: &Value,
) -> Result<Value> {
    let first = Linear::read(weights, &format!("{key}.lin1"))?;
    let second = Linear::read(weights, &format!("{key}.lin2"))?;
    let hidden = graph.linear(&format!("{name}/lin1"), x, &first);
    let hidden = graph.relu(&format!("{name}/act"), &hidden);
    Ok(graph.linear(&format!("{name}/lin2"), &hidden, &second))
}

fn tokens_to_image(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &Module,
    state: &Tokens,
) -> Result<Value> {
    let name = &module.name;
    let q = graph.add(&format!("{name}/query"), &state.queries, &state.point);
    let k = graph.add(&format!("{name}/key"), &state.keys, &state.position);
    attention(graph, weights, module, [&q, &k, &state.keys])
}

/// Multi-head attention of flat tokens; queries, keys, values.
fn attention(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    Module { key, name }: &Module,
    operands: [&Value; 3],
) -> Result<Value> {
    let mut parts = Vec::new();
    for (part, x, order) in [
        ("q_proj", operands[0], [1, 0, 2]),
        ("k_proj", operands[1], [1, 2, 0]),
        ("v_proj", operands[2], [1, 0, 2]),
    ] {
        let mut layer = Linear::read(weights, &format!("{key}.{part}"))?;
        let inner = layer.weight.rows();
        ensure!(
            inner.is_multiple_of(HEADS),
            "{key}.{part} has {inner} rows for {HEADS} heads"
        );
        if part == "q_proj" {
            layer = layer.scaled(((inner / HEADS) as f32).sqrt().recip());
        }
        let y = graph.linear(&format!("{name}/{part}"), x, &layer);
        let shape = [y.shape[0], HEADS, inner / HEADS];
        let y = graph.reshape(&format!("{name}/{part}/heads"), &y, &shape);
        parts.push(graph.transpose(&format!("{name}/{part}/order"), &y, &order));
    }
    let scores = graph.matmul(&format!("{name}/scores"), &parts[0], &parts[1]);
    let scores = graph.softmax(&format!("{name}/softmax"), &scores);
    let mixed = graph.matmul(&format!("{name}/mixed"), &scores, &parts[2]);
    let mixed = graph.transpose(&format!("{name}/mixed/tokens"), &mixed, &[1, 0, 2]);
    let flat = [mixed.shape[0], mixed.shape[1] * mixed.shape[2]];
    let mixed = graph.reshape(&format!("{name}/mixed/flat"), &mixed, &flat);
    let out = Linear::read(weights, &format!("{key}.out_proj"))?;
    Ok(graph.linear(&format!("{name}/out_proj"), &mixed, &out))
}

/// Each class token through its own MLP: kernels (32, classes).
fn hypernetworks(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    queries: &Value,
    classes: usize,
) -> Result<Value> {
    let mut rows = Vec::new();
    for class in 1..=classes {
        let name = format!("mask_decoder/output_hypernetworks_mlps.{class}");
        let key = format!("{KEY}.output_hypernetworks_mlps.{class}.layers");
        let mut x = graph.slice(&format!("{name}/token"), queries, 0, class + 1..class + 2);
        let layers = weights.count(&format!("{key}.{{}}.weight"));
        ensure!(
            layers > 0,
            "tensor {key}.0.weight is missing from the weights"
        );
        for index in 0..layers {
            let layer = Linear::read(weights, &format!("{key}.{index}"))?;
            x = graph.linear(&format!("{name}/layers.{index}"), &x, &layer);
            if index + 1 < layers {
                x = graph.relu(&format!("{name}/layers.{index}/act"), &x);
            }
        }
        rows.push(x);
    }
    let width = rows[0].shape[1];
    let inputs: Vec<&Value> = rows.iter().collect();
    let name = "mask_decoder/kernels";
    let axis = vec![super::graph::int("axis", 0)];
    let stacked = graph.node(
        "Concat",
        &format!("{name}/rows"),
        &inputs,
        axis,
        &[classes, width],
    );
    Ok(graph.transpose(name, &stacked, &[1, 0]))
}

/// Two transposed convolutions of stride 2, as products on pixels: (g * g, 256) -> (16 g * g, 32).
fn upscale(graph: &mut GraphBuilder, weights: &mut Weights, keys: &Value) -> Result<Value> {
    let key = format!("{KEY}.output_upscaling");
    let name = "mask_decoder/output_upscaling";
    let x = transposed_conv(
        graph,
        weights,
        &Module::new(format!("{key}.0"), format!("{name}.0")),
        keys,
    )?;
    let (scale, shift) = norm(weights, &format!("{key}.1"))?;
    let x = graph.layer_norm(
        &format!("{name}.1"),
        &x,
        (&scale, &shift),
        UPSCALING_EPSILON,
    );
    let x = graph.gelu(&format!("{name}.2"), &x);
    let x = transposed_conv(
        graph,
        weights,
        &Module::new(format!("{key}.3"), format!("{name}.3")),
        &x,
    )?;
    Ok(graph.gelu(&format!("{name}.4"), &x))
}

/// 2x2, stride 2: every pixel (row) becomes four rows, in the order (dy, dx).
fn transposed_conv(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    Module { key, name }: &Module,
    x: &Value,
) -> Result<Value> {
    let kernel = weights.ranked(&format!("{key}.weight"), 4)?;
    let bias = weights.ranked(&format!("{key}.bias"), 1)?;
    let (inputs, outputs) = (kernel.rows(), kernel.shape[1]);
    ensure!(
        kernel.shape[2..] == [2, 2],
        "{key}.weight has the shape {:?}",
        kernel.shape
    );
    // (in, out, dy * dx) -> rows (dy * dx, out) of `in` values.
    let data = (0..4 * outputs)
        .flat_map(|row| {
            let (offset, out) = (row / outputs, row % outputs);
            (0..inputs).map(move |input| (input * outputs + out) * 4 + offset)
        })
        .map(|index| kernel.data[index])
        .collect();
    let layer = Linear {
        weight: Array::new(&[4 * outputs, inputs], data),
        bias: Some(Array::new(&[4 * outputs], bias.data.repeat(4))),
    };
    let y = graph.linear(name, x, &layer);
    Ok(graph.reshape(&format!("{name}/pixels"), &y, &[4 * x.shape[0], outputs]))
}
