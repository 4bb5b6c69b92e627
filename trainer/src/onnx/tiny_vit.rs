//! TinyViT as ONNX nodes. All dimensions are read off the tensors; only the input size is given.
//!
//! All between the stem and the embedding are tokens (H * W, C); 3x3 convolutions stand between two transpositions,
//! which the program that loads the graph takes out again.

use anyhow::{Result, ensure};

use super::array::Array;
use super::graph::{GraphBuilder, Value, ints};
use super::layers::{Linear, Map, Module, norm};
use super::weights::Weights;
use super::window_attention::window_attention;

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
        let module = format!("layers.{}.downsample", stage - 1);
        x = patch_merging(graph, weights, &module, &x)?;
        let pattern = format!("{KEY}.layers.{stage}.blocks.{{}}.attn.qkv.weight");
        for block in 0..weights.count(&pattern) {
            let module = format!("layers.{stage}.blocks.{block}");
            x = tiny_vit_block(graph, weights, &module, &x)?;
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

/// MobileSAM halves twice with 3x3, LiteMedSAM keeps the grid with 1x1.
fn stem(graph: &mut GraphBuilder, weights: &mut Weights, image: &Value) -> Result<Map> {
    let first = folded(weights, "patch_embed.seq.0")?;
    let name = title("patch_embed.seq.0");
    let mut x = if first.side() == 1 {
        let map = Map {
            tokens: to_tokens(graph, &format!("{name}/tokens"), image),
            height: image.shape[2],
            width: image.shape[3],
        };
        pointwise(graph, &name, &map, first)?
    } else {
        conv(graph, &name, image, &first, 2)?
    };
    let module = "patch_embed.seq.2";
    if weights.has(&format!("{KEY}.{module}.c.weight")) {
        x = x.with(graph.activation(
            weights.activation,
            &format!("{KEY}/patch_embed/act"),
            &x.tokens,
        ));
        let second = folded(weights, module)?;
        x = if second.side() == 1 {
            pointwise(graph, &title(module), &x, second)?
        } else {
            conv_of_tokens(graph, &title(module), &x, &second, 2)?
        };
    }
    Ok(x)
}

/// A kernel (out, in, k, k) with its batch norm folded in.
struct Kernel {
    weight: Array,
    bias: Option<Array>,
}

impl Kernel {
    fn side(&self) -> usize {
        self.weight.shape[2]
    }
}

/// Convolution and batch norm (running statistics) as one.
fn folded(weights: &mut Weights, module: &str) -> Result<Kernel> {
    let mut weight = weights.ranked(&format!("{KEY}.{module}.c.weight"), 4)?;
    let mut bn = |field: &str| weights.ranked(&format!("{KEY}.{module}.bn.{field}"), 1);
    let (gamma, beta) = (bn("weight")?, bn("bias")?);
    let (mean, variance) = (bn("running_mean")?, bn("running_var")?);
    let per_channel = weight.data.len() / weight.rows();
    let mut bias = Vec::with_capacity(weight.rows());
    for channel in 0..weight.rows() {
        let scale = gamma.data[channel] / (variance.data[channel] + BATCH_NORM_EPSILON).sqrt();
        for value in &mut weight.data[channel * per_channel..(channel + 1) * per_channel] {
            *value *= scale;
        }
        bias.push(beta.data[channel] - mean.data[channel] * scale);
    }
    let bias = Some(Array::new(&[weight.rows()], bias));
    Ok(Kernel { weight, bias })
}

/// A 1x1 convolution: a linear layer on tokens.
fn pointwise(graph: &mut GraphBuilder, name: &str, x: &Map, kernel: Kernel) -> Result<Map> {
    let Kernel { mut weight, bias } = kernel;
    ensure!(
        weight.shape[1..] == [x.tokens.shape[1], 1, 1],
        "{name}: a kernel of shape {:?} meets {} channels",
        weight.shape,
        x.tokens.shape[1]
    );
    weight.shape.truncate(2);
    let tokens = graph.linear(name, &x.tokens, &Linear { weight, bias });
    Ok(x.with(tokens))
}

/// "Same" padding; depthwise where the kernel has one input channel.
fn conv_of_tokens(
    graph: &mut GraphBuilder,
    name: &str,
    x: &Map,
    kernel: &Kernel,
    stride: usize,
) -> Result<Map> {
    let channels = x.tokens.shape[1];
    let planes = graph.transpose(&format!("{name}/channels_first"), &x.tokens, &[1, 0]);
    let shape = [1, channels, x.height, x.width];
    let planes = graph.reshape(&format!("{name}/map"), &planes, &shape);
    conv(graph, name, &planes, kernel, stride)
}

/// The same of (1, C, H, W).
fn conv(
    graph: &mut GraphBuilder,
    name: &str,
    x: &Value,
    kernel: &Kernel,
    stride: usize,
) -> Result<Map> {
    let (channels, side, weight) = (x.shape[1], kernel.side(), &kernel.weight);
    let groups = channels / weight.shape[1];
    ensure!(
        groups * weight.shape[1] == channels && (groups == 1 || groups == weight.rows()),
        "{name}: a kernel of shape {:?} meets {channels} channels",
        weight.shape
    );
    let pad = side / 2;
    let out = |length: usize| (length + 2 * pad - side) / stride + 1;
    let (height, width) = (out(x.shape[2]), out(x.shape[3]));
    let attributes = vec![
        ints("kernel_shape", &[side as i64; 2]),
        ints("strides", &[stride as i64; 2]),
        ints("pads", &[pad as i64; 4]),
        super::graph::int("group", groups as i64),
    ];
    let constant = graph.constant(&format!("{name}.weight"), weight);
    let bias = kernel.bias.as_ref();
    let bias = bias.map(|bias| graph.constant(&format!("{name}.bias"), bias));
    let inputs: Vec<&Value> = [x, &constant].into_iter().chain(&bias).collect();
    let shape = [1, weight.rows(), height, width];
    let planes = graph.node("Conv", name, &inputs, attributes, &shape);
    Ok(Map {
        tokens: to_tokens(graph, &format!("{name}/tokens"), &planes),
        height,
        width,
    })
}

fn mb_conv(graph: &mut GraphBuilder, weights: &mut Weights, module: &str, x: &Map) -> Result<Map> {
    let name = title(module);
    let part = |index: usize| format!("{module}.conv{index}");
    let y = pointwise(graph, &title(&part(1)), x, folded(weights, &part(1))?)?;
    let y = y.with(graph.activation(weights.activation, &format!("{name}/act1"), &y.tokens));
    let y = conv_of_tokens(graph, &title(&part(2)), &y, &folded(weights, &part(2))?, 1)?;
    let y = y.with(graph.activation(weights.activation, &format!("{name}/act2"), &y.tokens));
    let y = pointwise(graph, &title(&part(3)), &y, folded(weights, &part(3))?)?;
    let sum = graph.add(&format!("{name}/residual"), &y.tokens, &x.tokens);
    Ok(x.with(graph.activation(weights.activation, &format!("{name}/act3"), &sum)))
}

fn patch_merging(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &str,
    x: &Map,
) -> Result<Map> {
    let name = title(module);
    let part = |index: usize| format!("{module}.conv{index}");
    let y = pointwise(graph, &title(&part(1)), x, folded(weights, &part(1))?)?;
    let y = y.with(graph.activation(weights.activation, &format!("{name}/act1"), &y.tokens));
    // Upstream's rule: a stage of one of these widths keeps the grid.
    let stride = if [320, 448, 576].contains(&y.tokens.shape[1]) {
        1
    } else {
        2
    };
    let kernel = folded(weights, &part(2))?;
    let y = conv_of_tokens(graph, &title(&part(2)), &y, &kernel, stride)?;
    let y = y.with(graph.activation(weights.activation, &format!("{name}/act2"), &y.tokens));
    pointwise(graph, &title(&part(3)), &y, folded(weights, &part(3))?)
}

/// Attention in windows, depthwise convolution, MLP.
fn tiny_vit_block(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &str,
    map: &Map,
) -> Result<Map> {
    let name = title(module);
    let block = Module::new(format!("{KEY}.{module}"), &name);
    let mut attended = window_attention(graph, weights, &block.part("attn"), map)?;
    let adapter = block.part("Space_Adapter");
    if adapter.is_adapter(weights) {
        let added = graph.adapter(weights, &adapter, &attended)?;
        attended = graph.add(&adapter.name, &attended, &added);
    }
    let x = graph.add(&format!("{name}/attn/residual"), &attended, &map.tokens);
    let local = format!("{module}.local_conv");
    let kernel = folded(weights, &local)?;
    let x = conv_of_tokens(graph, &title(&local), &map.with(x), &kernel, 1)?.tokens;

    let (scale, shift) = norm(weights, &format!("{KEY}.{module}.mlp.norm"))?;
    let fc1 = Linear::read(weights, &format!("{KEY}.{module}.mlp.fc1"))?;
    let fc2 = Linear::read(weights, &format!("{KEY}.{module}.mlp.fc2"))?;
    let y = graph.layer_norm(&format!("{name}/mlp/norm"), &x, (&scale, &shift), EPSILON);
    let y = graph.linear(&format!("{name}/mlp/fc1"), &y, &fc1);
    let y = graph.activation(weights.activation, &format!("{name}/mlp/act"), &y);
    let y = graph.linear(&format!("{name}/mlp/fc2"), &y, &fc2);
    let out = graph.add(&format!("{name}/mlp/residual"), &y, &x);
    let out = graph.mlp_adapter(weights, &block.part("MLP_Adapter"), &x, out)?;
    Ok(map.with(out))
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
    x: &Map,
    no_mask: &Array,
) -> Result<Value> {
    let name = format!("{KEY}/neck");
    let plain = |weights: &mut Weights, index: usize| -> Result<Kernel> {
        let weight = weights.ranked(&format!("{KEY}.neck.{index}.weight"), 4)?;
        Ok(Kernel { weight, bias: None })
    };
    let kernel = plain(weights, 0)?;
    let y = pointwise(graph, &format!("{name}.0"), x, kernel)?;
    let (scale, shift) = norm(weights, &format!("{KEY}.neck.1"))?;
    let normed = format!("{name}.1");
    let y = graph.layer_norm(&normed, &y.tokens, (&scale, &shift), NECK_EPSILON);
    let kernel = plain(weights, 2)?;
    let y = conv_of_tokens(graph, &format!("{name}.2"), &x.with(y), &kernel, 1)?;
    let (scale, shift) = norm(weights, &format!("{KEY}.neck.3"))?;
    let shift = shift.plus(no_mask);
    let normed = format!("{name}.3");
    Ok(graph.layer_norm(&normed, &y.tokens, (&scale, &shift), NECK_EPSILON))
}
