//! TinyViT as ONNX nodes. All dimensions are read off the tensors; only the input size is given.
//!
//! Convolutions run on (1, C, H, W), everything else on flat tokens (H * W, C).

use anyhow::{Result, ensure};

use super::layers::{Linear, norm};
use super::weights::Weights;
use super::window_attention::window_attention;
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
    ensure!(
        stages > 0,
        "tensor {KEY}.layers.0.downsample.conv1.c.weight is missing"
    );
    for stage in 1..=stages {
        x = patch_merging(
            graph,
            weights,
            &format!("layers.{}.downsample", stage - 1),
            &x,
        )?;
        let pattern = format!("{KEY}.layers.{stage}.blocks.{{}}.attn.qkv.weight");
        for block in 0..weights.count(&pattern) {
            x = tiny_vit_block(
                graph,
                weights,
                &format!("layers.{stage}.blocks.{block}"),
                &x,
            )?;
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
        let kernel = weights
            .ranked(&format!("{KEY}.{module}.c.weight"), 4)?
            .shape[2];
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
    let (gamma, beta) = (
        weights.ranked(&bn("weight"), 1)?,
        weights.ranked(&bn("bias"), 1)?,
    );
    let (mean, variance) = (
        weights.ranked(&bn("running_mean"), 1)?,
        weights.ranked(&bn("running_var"), 1)?,
    );
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
    let stride = if [320, 448, 576].contains(&y.shape[1]) {
        1
    } else {
        2
    };
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
    let (key, title) = (format!("{KEY}.{module}.attn"), format!("{name}/attn"));
    let mut attended = window_attention(graph, weights, (&key, &title), (&tokens, height, width))?;
    let adapter_key = format!("{KEY}.{module}.Space_Adapter");
    if weights.has(&format!("{adapter_key}.D_fc1.weight")) {
        let title = format!("{name}/Space_Adapter");
        let added = graph.adapter(weights, (&adapter_key, &title), &attended)?;
        attended = graph.add(&title, &attended, &added);
    }
    let x = graph.add(&format!("{name}/attn/residual"), &tokens, &attended);

    let map = graph.transpose(&format!("{name}/local_conv/channels_first"), &x, &[1, 0]);
    let map = graph.reshape(
        &format!("{name}/local_conv/map"),
        &map,
        &[1, channels, height, width],
    );
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
    let projection = Linear {
        weight: first,
        bias: None,
    };
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
