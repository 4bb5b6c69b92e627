//! TinyViT's attention in windows, with a learnt bias for every offset.

use anyhow::{Result, ensure};

use super::array::Array;
use super::graph::{GraphBuilder, Value, int};
use super::layers::{Linear, Map, Module, norm};
use super::weights::Weights;

const EPSILON: f32 = 1e-5;

/// Self-attention inside the windows of a map, as tokens.
pub(super) fn window_attention(
    graph: &mut GraphBuilder,
    weights: &mut Weights,
    module: &Module,
    map: &Map,
) -> Result<Value> {
    let Module { key, name } = module;
    let table = weights.ranked(&format!("{key}.attention_biases"), 2)?;
    let window = table.shape[1].isqrt();
    ensure!(
        window * window == table.shape[1],
        "{key}.attention_biases has {} columns, not those of a square window",
        table.shape[1]
    );
    let windows = Windows {
        module,
        table,
        tall: map.height.div_ceil(window),
        wide: map.width.div_ceil(window),
        window,
    };
    if [windows.tall * window, windows.wide * window] == [map.height, map.width] {
        let norm = norm(weights, &format!("{key}.norm"))?;
        let normed = format!("{name}/norm");
        let x = graph.layer_norm(&normed, &map.tokens, (&norm.0, &norm.1), EPSILON);
        return windows.attention(graph, weights, &x);
    }
    windows.padded(graph, weights, map)
}

/// An attention, and how windows of its side cover a map.
struct Windows<'a> {
    module: &'a Module,
    /// Biases (heads, window * window).
    table: Array,
    tall: usize,
    wide: usize,
    window: usize,
}

impl Windows<'_> {
    /// The map is padded with zeros before the attention's norm, so padding tokens become its bias and take part in
    /// the softmax, as upstream.
    fn padded(&self, graph: &mut GraphBuilder, weights: &mut Weights, map: &Map) -> Result<Value> {
        let Module { key, name } = self.module;
        let Map {
            tokens,
            height,
            width,
        } = map;
        let (height, width, channels) = (*height, *width, tokens.shape[1]);
        let padded = (self.tall * self.window, self.wide * self.window);
        let x = graph.reshape(
            &format!("{name}/map"),
            tokens,
            &[1, height, width, channels],
        );
        let (down, right) = ((padded.0 - height) as i64, (padded.1 - width) as i64);
        let pads = graph.integers(&[0, 0, 0, 0, 0, down, right, 0]);
        let shape = [1, padded.0, padded.1, channels];
        let x = graph.node("Pad", &format!("{name}/pad"), &[&x, &pads], vec![], &shape);
        let flat = [padded.0 * padded.1, channels];
        let x = graph.reshape(&format!("{name}/flat"), &x, &flat);
        let (scale, shift) = norm(weights, &format!("{key}.norm"))?;
        let x = graph.layer_norm(&format!("{name}/norm"), &x, (&scale, &shift), EPSILON);
        let x = self.attention(graph, weights, &x)?;
        let shape = [padded.0, padded.1, channels];
        let mut x = graph.reshape(&format!("{name}/join"), &x, &shape);
        if padded.0 != height {
            x = graph.slice(&format!("{name}/crop_rows"), &x, 0, 0..height);
        }
        if padded.1 != width {
            x = graph.slice(&format!("{name}/crop_columns"), &x, 1, 0..width);
        }
        Ok(graph.reshape(&format!("{name}/tokens"), &x, &[height * width, channels]))
    }

    /// Tokens (H * W, C) of a map that windows cover to the same, with a bias for each head and offset inside the
    /// window.
    fn attention(
        &self,
        graph: &mut GraphBuilder,
        weights: &mut Weights,
        x: &Value,
    ) -> Result<Value> {
        let Module { key, name } = self.module;
        let Self {
            ref table,
            tall,
            wide,
            window,
            ..
        } = *self;
        let (heads, area) = (table.rows(), table.shape[1]);
        let (tokens, channels) = (x.shape[0], x.shape[1]);
        let qkv = Linear::read(weights, &format!("{key}.qkv"))?;
        let qkv = qkv_by_kind(qkv, heads, channels)?;
        let proj = Linear::read(weights, &format!("{key}.proj"))?;
        let width = channels / heads;

        let x = graph.linear(&format!("{name}/qkv"), x, &qkv);
        let split = [tall, window, wide, window, 3, heads, width];
        let x = graph.reshape(&format!("{name}/split"), &x, &split);
        let x = graph.transpose(&format!("{name}/windows"), &x, &[4, 0, 2, 5, 1, 3, 6]);
        let kinds = [3, tall * wide, heads, area, width];
        let x = graph.reshape(&format!("{name}/kinds"), &x, &kinds);
        let mut kind = |index: usize, part: &str| {
            let one = graph.slice(&format!("{name}/{part}/slice"), &x, 0, index..index + 1);
            graph.reshape(&format!("{name}/{part}"), &one, &kinds[1..])
        };
        let (q, k, v) = (kind(0, "q"), kind(1, "k"), kind(2, "v"));
        let k = graph.transpose(&format!("{name}/k/turned"), &k, &[0, 1, 3, 2]);
        let scores = graph.matmul(&format!("{name}/scores"), &q, &k);
        let bias = bias_of_offsets(graph, name, table);
        let scores = graph.add(&format!("{name}/biased"), &scores, &bias);
        let scores = graph.softmax(&format!("{name}/softmax"), &scores);
        let mixed = graph.matmul(&format!("{name}/mixed"), &scores, &v);
        let split = [tall, wide, heads, window, window, width];
        let mixed = graph.reshape(&format!("{name}/mixed/split"), &mixed, &split);
        let mixed = graph.transpose(&format!("{name}/mixed/map"), &mixed, &[0, 3, 1, 4, 2, 5]);
        let mixed = graph.reshape(&format!("{name}/mixed/tokens"), &mixed, &[tokens, channels]);
        Ok(graph.linear(&format!("{name}/proj"), &mixed, &proj))
    }
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
    Ok(Linear {
        weight: reorder(qkv.weight),
        bias: qkv.bias.map(reorder),
    })
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
    let index = graph.indices(
        &format!("constant/offsets_{window}"),
        &[area, area],
        &offsets,
    );
    let biases = graph.constant(&format!("{name}/attention_biases"), table);
    let shape = [table.rows(), area, area];
    let attributes = vec![int("axis", 1)];
    graph.node(
        "Gather",
        &format!("{name}/bias"),
        &[&biases, &index],
        attributes,
        &shape,
    )
}
