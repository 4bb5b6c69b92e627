//! TinyViT as ONNX nodes. All dimensions are read off the tensors; only the input size is given.
//!
//! Convolutions run on (1, C, H, W), everything else on flat tokens (H * W, C).

use anyhow::{Result, ensure};

use super::layers::{Linear, norm};
use super::weights::Weights;
use super::{Array, GraphBuilder, Value, ints};

const EPSILON: f32 = 1e-5;
/// Of LayerNorm2d, in the neck.
const NECK_EPSILON: f32 = 1e-6;
const BATCH_NORM_EPSILON: f32 = 1e-5;
const KEY: &str = "image_encoder";

/// Image (1, 3, S, S) to the embedding as flat tokens (g * g, 256), with `no_mask` (256) added: the
/// prompt encoder's dense part, which the neck's last norm takes over as bias.
pub(super) fn lower(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    image: &Value,
    no_mask: &Array,
) -> Result<Value> {
    let mut x = stem(graph, weights, image)?;
    for block in 0..weights.count("image_encoder.layers.0.blocks.{}.conv1.c.weight") {
        x = mb_conv(graph, weights, &format!("layers.0.blocks.{block}"), &x)?;
    }
    let stages = weights.count("image_encoder.layers.{}.downsample.conv1.c.weight");
    ensure!(stages > 0, "tensor {KEY}.layers.0.downsample.conv1.c.weight is missing");
    for stage in 1..=stages {
        x = patch_merging(graph, weights, &format!("layers.{}.downsample", stage - 1), &x)?;
        let pattern = format!("{KEY}.layers.{stage}.blocks.{{}}.attn.qkv.weight");
        for block in 0..weights.count(&pattern) {
            x = tiny_vit_block(graph, weights, &format!("layers.{stage}.blocks.{block}"), &x)?;
        }
    }
    neck(graph, weights, &x, no_mask)
}

/// `layers.1.blocks.0` -> `image_encoder/layers.1/blocks.0`.
fn title(module: &str) -> String {
    let mut title = format!("{KEY}/");
    for (i, part) in module.split('.').enumerate() {
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        title += match (i, digits) {
            (0, _) => "",
            (_, true) => ".",
            (_, false) => "/",
        };
        title += part;
    }
    title
}

fn stem(graph: &mut GraphBuilder, weights: &mut Weights, image: &Value) -> Result<Value> {
    // MobileSAM halves twice with 3x3, LiteMedSAM keeps the grid with 1x1.
    let mut x = image.clone();
    for index in [0, 2] {
        let module = format!("patch_embed.seq.{index}");
        if index > 0 && !weights.has(&format!("{KEY}.{module}.c.weight")) {
            break;
        }
        if index > 0 {
            x = graph.gelu(&format!("{KEY}/patch_embed/act"), &x);
        }
        let kernel = weights.ranked(&format!("{KEY}.{module}.c.weight"), 4)?.shape[2];
        x = conv_bn(graph, weights, &module, &x, if kernel == 1 { 1 } else { 2 })?;
    }
    Ok(x)
}

/// Convolution with its batch norm (running statistics) folded in; "same" padding, depthwise where
/// the kernel has one input channel.
fn conv_bn(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &str,
    x: &Value,
    stride: usize,
) -> Result<Value> {
    let mut kernel = weights.ranked(&format!("{KEY}.{module}.c.weight"), 4)?;
    let bn = |field: &str| format!("{KEY}.{module}.bn.{field}");
    let (gamma, beta) = (weights.ranked(&bn("weight"), 1)?, weights.ranked(&bn("bias"), 1)?);
    let (mean, variance) =
        (weights.ranked(&bn("running_mean"), 1)?, weights.ranked(&bn("running_var"), 1)?);
    let per_channel = kernel.data.len() / kernel.rows();
    let mut bias = Vec::with_capacity(kernel.rows());
    for channel in 0..kernel.rows() {
        let scale = gamma.data[channel] / (variance.data[channel] + BATCH_NORM_EPSILON).sqrt();
        for value in &mut kernel.data[channel * per_channel..(channel + 1) * per_channel] {
            *value *= scale;
        }
        bias.push(beta.data[channel] - mean.data[channel] * scale);
    }
    let bias = Array::new(&[kernel.rows()], bias);
    conv(graph, &title(module), x, (&kernel, Some(&bias)), stride)
}

fn conv(
    graph: &mut GraphBuilder,
    name: &str,
    x: &Value,
    (kernel, bias): (&Array, Option<&Array>),
    stride: usize,
) -> Result<Value> {
    let (channels, side) = (x.shape[1], kernel.shape[2]);
    let groups = channels / kernel.shape[1];
    ensure!(
        groups * kernel.shape[1] == channels && (groups == 1 || groups == kernel.rows()),
        "{name}: a kernel of shape {:?} meets {channels} channels",
        kernel.shape
    );
    let pad = side / 2;
    let out = |length: usize| (length + 2 * pad - side) / stride + 1;
    let shape = [1, kernel.rows(), out(x.shape[2]), out(x.shape[3])];
    let attributes = vec![
        ints("kernel_shape", &[side as i64; 2]),
        ints("strides", &[stride as i64; 2]),
        ints("pads", &[pad as i64; 4]),
        super::int("group", groups as i64),
    ];
    let weight = graph.constant(&format!("{name}.weight"), kernel);
    let bias = bias.map(|bias| graph.constant(&format!("{name}.bias"), bias));
    let inputs: Vec<&Value> = [x, &weight].into_iter().chain(&bias).collect();
    Ok(graph.node("Conv", name, &inputs, attributes, &shape))
}

fn mb_conv(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &str,
    x: &Value,
) -> Result<Value> {
    let name = title(module);
    let mut y = x.clone();
    for index in 1..=2 {
        y = conv_bn(graph, weights, &format!("{module}.conv{index}"), &y, 1)?;
        y = graph.gelu(&format!("{name}/act{index}"), &y);
    }
    y = conv_bn(graph, weights, &format!("{module}.conv3"), &y, 1)?;
    y = graph.add(&format!("{name}/residual"), &y, x);
    Ok(graph.gelu(&format!("{name}/act3"), &y))
}

fn patch_merging(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &str,
    x: &Value,
) -> Result<Value> {
    let name = title(module);
    let y = conv_bn(graph, weights, &format!("{module}.conv1"), x, 1)?;
    let y = graph.gelu(&format!("{name}/act1"), &y);
    // Upstream's rule: a stage of one of these widths keeps the grid.
    let stride = if [320, 448, 576].contains(&y.shape[1]) { 1 } else { 2 };
    let y = conv_bn(graph, weights, &format!("{module}.conv2"), &y, stride)?;
    let y = graph.gelu(&format!("{name}/act2"), &y);
    conv_bn(graph, weights, &format!("{module}.conv3"), &y, 1)
}

/// Attention in windows, depthwise convolution, MLP; (1, C, H, W) to the same.
fn tiny_vit_block(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &str,
    x: &Value,
) -> Result<Value> {
    let name = title(module);
    let (channels, height, width) = (x.shape[1], x.shape[2], x.shape[3]);
    let tokens = to_tokens(graph, &format!("{name}/tokens"), x);
    let mut attended = window_attention(graph, weights, module, (&tokens, height, width))?;
    let adapter_key = format!("{KEY}.{module}.Space_Adapter");
    if weights.has(&format!("{adapter_key}.D_fc1.weight")) {
        let title = format!("{name}/Space_Adapter");
        let added = graph.adapter(weights, (&adapter_key, &title), &attended)?;
        attended = graph.add(&title, &attended, &added);
    }
    let x = graph.add(&format!("{name}/attn/residual"), &tokens, &attended);

    let map = graph.transpose(&format!("{name}/local_conv/channels_first"), &x, &[1, 0]);
    let map = graph.reshape(&format!("{name}/local_conv/map"), &map, &[1, channels, height, width]);
    let map = conv_bn(graph, weights, &format!("{module}.local_conv"), &map, 1)?;
    let x = to_tokens(graph, &format!("{name}/local_conv/tokens"), &map);

    let (scale, shift) = norm(weights, &format!("{KEY}.{module}.mlp.norm"))?;
    let fc1 = Linear::read(weights, &format!("{KEY}.{module}.mlp.fc1"))?;
    let fc2 = Linear::read(weights, &format!("{KEY}.{module}.mlp.fc2"))?;
    let y = graph.layer_norm(&format!("{name}/mlp/norm"), &x, (&scale, &shift), EPSILON);
    let y = graph.linear(&format!("{name}/mlp/fc1"), &y, &fc1);
    let y = graph.gelu(&format!("{name}/mlp/act"), &y);
    let y = graph.linear(&format!("{name}/mlp/fc2"), &y, &fc2);
    let mut out = graph.add(&format!("{name}/mlp/residual"), &x, &y);
    let adapter_key = format!("{KEY}.{module}.MLP_Adapter");
    if weights.has(&format!("{adapter_key}.D_fc1.weight")) {
        let title = format!("{name}/MLP_Adapter");
        let added = graph.adapter(weights, (&adapter_key, &title), &x)?;
        let half = graph.scalar(0.5);
        let added = graph.mul(&format!("{title}/half"), &added, &half);
        out = graph.add(&title, &out, &added);
    }
    let out = graph.transpose(&format!("{name}/channels_first"), &out, &[1, 0]);
    Ok(graph.reshape(&format!("{name}/map"), &out, &[1, channels, height, width]))
}

/// (1, C, H, W) -> (H * W, C).
fn to_tokens(graph: &mut GraphBuilder, name: &str, x: &Value) -> Value {
    let (channels, count) = (x.shape[1], x.shape[2] * x.shape[3]);
    let flat = graph.reshape(&format!("{name}/flat"), x, &[channels, count]);
    graph.transpose(name, &flat, &[1, 0])
}

/// Self-attention inside windows, on tokens (H * W, C). The map is padded with zeros before the
/// attention's norm, so padding tokens become its bias and take part in the softmax, as upstream.
fn window_attention(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &str,
    (tokens, height, width): (&Value, usize, usize),
) -> Result<Value> {
    let (name, key) = (format!("{}/attn", title(module)), format!("{KEY}.{module}.attn"));
    let table = weights.ranked(&format!("{key}.attention_biases"), 2)?;
    let window = table.shape[1].isqrt();
    ensure!(
        window * window == table.shape[1],
        "{key}.attention_biases has {} columns, not those of a square window",
        table.shape[1]
    );
    let channels = tokens.shape[1];
    let (tall, wide) = (height.div_ceil(window), width.div_ceil(window));
    let padded = (tall * window, wide * window);

    let mut x = graph.reshape(&format!("{name}/map"), tokens, &[1, height, width, channels]);
    if padded != (height, width) {
        let (down, right) = ((padded.0 - height) as i64, (padded.1 - width) as i64);
        let pads = graph.integers(&[0, 0, 0, 0, 0, down, right, 0]);
        let shape = [1, padded.0, padded.1, channels];
        x = graph.node("Pad", &format!("{name}/pad"), &[&x, &pads], vec![], &shape);
    }
    let split = [tall, window, wide, window, channels];
    let x = graph.reshape(&format!("{name}/split"), &x, &split);
    let x = graph.transpose(&format!("{name}/windows"), &x, &[0, 2, 1, 3, 4]);
    let x = graph.reshape(&format!("{name}/flat"), &x, &[padded.0 * padded.1, channels]);
    let (scale, shift) = norm(weights, &format!("{key}.norm"))?;
    let x = graph.layer_norm(&format!("{name}/norm"), &x, (&scale, &shift), EPSILON);
    let x = attention(graph, weights, (&key, &name), &x, &table)?;
    let x = graph.reshape(&format!("{name}/unflat"), &x, &[tall, wide, window, window, channels]);
    let x = graph.transpose(&format!("{name}/unwindow"), &x, &[0, 2, 1, 3, 4]);
    let mut x = graph.reshape(&format!("{name}/join"), &x, &[padded.0, padded.1, channels]);
    if padded.0 != height {
        x = graph.slice(&format!("{name}/crop_rows"), &x, 0, 0..height);
    }
    if padded.1 != width {
        x = graph.slice(&format!("{name}/crop_columns"), &x, 1, 0..width);
    }
    Ok(graph.reshape(&format!("{name}/tokens"), &x, &[height * width, channels]))
}

/// (windows * N, C) to the same, with a bias for each head and offset inside the window.
fn attention(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    (key, name): (&str, &str),
    x: &Value,
    table: &Array,
) -> Result<Value> {
    let (heads, area) = (table.rows(), table.shape[1]);
    let channels = x.shape[1];
    let windows = x.shape[0] / area;
    let qkv = qkv_by_kind(Linear::read(weights, &format!("{key}.qkv"))?, heads, channels)?;
    let proj = Linear::read(weights, &format!("{key}.proj"))?;
    let width = channels / heads;

    let x = graph.linear(&format!("{name}/qkv"), x, &qkv);
    let x = graph.reshape(&format!("{name}/heads"), &x, &[windows, area, 3, heads, width]);
    let mut parts = Vec::new();
    for (index, (part, order)) in
        [("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])].into_iter().enumerate()
    {
        let one = graph.slice(&format!("{name}/{part}/slice"), &x, 2, index..index + 1);
        let shape = [windows, area, heads, width];
        let one = graph.reshape(&format!("{name}/{part}/squeeze"), &one, &shape);
        parts.push(graph.transpose(&format!("{name}/{part}"), &one, &order));
    }
    let scores = graph.matmul(&format!("{name}/scores"), &parts[0], &parts[1]);
    let bias = bias_of_offsets(graph, name, table);
    let scores = graph.add(&format!("{name}/biased"), &scores, &bias);
    let scores = graph.softmax(&format!("{name}/softmax"), &scores);
    let mixed = graph.matmul(&format!("{name}/mixed"), &scores, &parts[2]);
    let mixed = graph.transpose(&format!("{name}/mixed/tokens"), &mixed, &[0, 2, 1, 3]);
    let mixed = graph.reshape(&format!("{name}/mixed/flat"), &mixed, &[windows * area, channels]);
    Ok(graph.linear(&format!("{name}/proj"), &mixed, &proj))
}

/// Upstream's rows are q, k, v of head 0, then of head 1 ...; ours are all q, all k, all v, with the
/// scale of the scores in q.
fn qkv_by_kind(qkv: Linear, heads: usize, channels: usize) -> Result<Linear> {
    ensure!(
        qkv.weight.shape == [3 * channels, channels] && channels.is_multiple_of(heads),
        "qkv of shape {:?} does not fit {heads} heads of {channels} channels",
        qkv.weight.shape
    );
    let width = channels / heads;
    let order: Vec<usize> = (0..3 * channels)
        .map(|i| {
            let (kind, head, c) = (i / channels, i % channels / width, i % width);
            (head * 3 + kind) * width + c
        })
        .collect();
    let scale = (width as f32).sqrt().recip();
    let reorder = |array: Array| {
        let mut array = array.select_rows(&order);
        let q = array.data.len() / 3;
        array.data[..q].iter_mut().for_each(|value| *value *= scale);
        array
    };
    Ok(Linear { weight: reorder(qkv.weight), bias: qkv.bias.map(reorder) })
}

/// (heads, N, N) from the table (heads, N) of offsets. Gathered when the graph is loaded: the file
/// holds N values a head instead of N * N.
fn bias_of_offsets(graph: &mut GraphBuilder, name: &str, table: &Array) -> Value {
    let area = table.shape[1];
    let window = area.isqrt();
    let mut offsets = Vec::with_capacity(area * area);
    for a in 0..area {
        for b in 0..area {
            let dy = (a / window).abs_diff(b / window);
            let dx = (a % window).abs_diff(b % window);
            offsets.push((dy * window + dx) as i32);
        }
    }
    let index = graph.indices(&format!("constant/offsets_{window}"), &[area, area], &offsets);
    let biases = graph.constant(&format!("{name}/attention_biases"), table);
    let shape = [table.rows(), area, area];
    let attributes = vec![super::int("axis", 1)];
    graph.node("Gather", &format!("{name}/bias"), &[&biases, &index], attributes, &shape)
}

/// 1x1, LayerNorm2d, 3x3, LayerNorm2d; the norms on tokens, where channels lie side by side.
fn neck(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    x: &Value,
    no_mask: &Array,
) -> Result<Value> {
    let name = format!("{KEY}/neck");
    let (height, width) = (x.shape[2], x.shape[3]);
    let mut first = weights.ranked(&format!("{KEY}.neck.0.weight"), 4)?;
    first.shape.truncate(2);
    let (scale, shift) = norm(weights, &format!("{KEY}.neck.1"))?;
    let tokens = to_tokens(graph, &format!("{name}/tokens"), x);
    let projection = Linear { weight: first, bias: None };
    let y = graph.linear(&format!("{name}.0"), &tokens, &projection);
    let y = graph.layer_norm(&format!("{name}.1"), &y, (&scale, &shift), NECK_EPSILON);

    let channels = y.shape[1];
    let y = graph.transpose(&format!("{name}/channels_first"), &y, &[1, 0]);
    let y = graph.reshape(&format!("{name}/map"), &y, &[1, channels, height, width]);
    let kernel = weights.ranked(&format!("{KEY}.neck.2.weight"), 4)?;
    let y = conv(graph, &format!("{name}.2"), &y, (&kernel, None), 1)?;
    let y = to_tokens(graph, &format!("{name}/embedding"), &y);
    let (scale, shift) = norm(weights, &format!("{KEY}.neck.3"))?;
    let shift = shift.plus(no_mask);
    Ok(graph.layer_norm(&format!("{name}.3"), &y, (&scale, &shift), NECK_EPSILON))
}
