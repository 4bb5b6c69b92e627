//! Convolutions of 3x3, depthwise or of all channels.

use super::super::super::ops::{Activation, Depthwise, Layout, Patches};
use super::super::graph::{
    Draft, Graph, LinearDraft, MOST_PRODUCTS, Matrix, RowsDraft, Steps, Values, attribute, integers,
};

/// Tokens to planes, a 3x3 convolution, planes to tokens; or an image at its start.
pub(super) fn convolution(graph: &mut Graph, root: usize) -> Option<()> {
    let out = graph.is(root, "Transpose")?;
    if integers(out, "perm") != [1, 0] {
        return None;
    }
    let (flat, planes, _) = graph.reshape(&out.input[0])?;
    let (conv, node) = graph.only(planes, "Conv")?;
    let bias = match node.input.get(2) {
        Some(bias) => graph.f32(bias)?.1,
        None => vec![],
    };
    let stride = match integers(node, "strides") {
        [] | [1, 1] => 1,
        [2, 2] => 2,
        _ => return None,
    };
    if integers(node, "pads") != [1; 4] || integers(node, "dilations").iter().any(|&it| it != 1) {
        return None;
    }
    let groups = usize::try_from(attribute(node, "group", 1)).ok()?;
    let source = source(graph, &node.input[0])?;
    let &[1, channels, height, width] = &source.map[..] else {
        return None;
    };
    let patches = Patches {
        height,
        width,
        channels,
        stride,
        layout: source.layout,
    };
    let kernel = kernel(graph, &node.input[1], &source)?;
    let draft = convolved(patches, kernel, groups, bias)?;
    let removed = [&[flat, conv], &source.removed[..]].concat();
    graph.replace(root, &removed, vec![source.input], draft);
    Some(())
}

/// What a convolution reads.
struct Source {
    input: String,
    /// (1, channels, height, width)
    map: Vec<usize>,
    layout: Layout,
    /// Of bytes.
    steps: Option<Steps>,
    /// Nodes between the input and the convolution.
    removed: Vec<usize>,
}

fn source(graph: &Graph, value: &str) -> Option<Source> {
    let quantized = graph.quantized(value);
    let x = quantized.as_ref().map_or(value, |(x, ..)| x);
    let steps = quantized.as_ref().map(|(_, steps, _)| *steps);
    let mut removed: Vec<usize> = quantized
        .iter()
        .flat_map(|(_, _, places)| *places)
        .collect();
    let (input, map, layout) = match graph.reshape(x) {
        Some((reshape, flat, map)) => {
            let (transpose, tokens) = graph.transpose(flat, &[1, 0])?;
            removed.extend([reshape, transpose]);
            (tokens.to_owned(), map, Layout::Tokens)
        }
        None => (x.to_owned(), graph.image_shape(x)?, Layout::Planes),
    };
    Some(Source {
        input,
        map,
        layout,
        steps,
        removed,
    })
}

struct Kernel {
    /// (out, in, 3, 3)
    shape: Vec<usize>,
    /// (K, out)
    values: Values,
}

fn kernel(graph: &Graph, value: &str, source: &Source) -> Option<Kernel> {
    let channels = source.map[1];
    let integers = source
        .steps
        .and_then(|steps| Some((steps, graph.weights(value, 0)?)));
    match integers {
        Some((input, (shape, values, scales))) if 9 * channels <= MOST_PRODUCTS => {
            let values = order(&values, &shape, source.layout)?;
            let values = Values::I8 {
                values,
                scales,
                input,
            };
            Some(Kernel { shape, values })
        }
        _ if source.steps.is_some() => None,
        _ => {
            let (shape, values) = graph.f32(value)?;
            let values = Values::F32(order(&values, &shape, source.layout)?);
            Some(Kernel { shape, values })
        }
    }
}

/// The operation: depthwise, or of all channels.
fn convolved(patches: Patches, kernel: Kernel, groups: usize, bias: Vec<f32>) -> Option<Draft> {
    let channels = patches.channels;
    let Kernel { shape, values } = kernel;
    let activation = Activation::None;
    match values {
        // (9, C) is (K, out) of one input channel.
        Values::F32(taps) if groups == channels && shape[..2] == [channels, 1] => {
            let bias = if bias.is_empty() {
                vec![0.0; channels]
            } else {
                bias
            };
            Some(Draft::Depthwise(Depthwise {
                patches,
                taps,
                bias,
                activation,
            }))
        }
        values if groups == 1 && shape[1] == channels => Some(Draft::Linear(LinearDraft {
            weights: Matrix {
                shape: [9 * channels, shape[0]],
                values,
            },
            bias,
            activation,
            rows: RowsDraft::Patches(patches),
        })),
        _ => None,
    }
}

/// A kernel (out, in, 3, 3) as (K, out), K in the order of the patches.
fn order<T: Copy>(kernel: &[T], shape: &[usize], layout: Layout) -> Option<Vec<T>> {
    let &[out, channels, 3, 3] = shape else {
        return None;
    };
    let k = 9 * channels;
    let place = |i: usize| match layout {
        Layout::Planes => i,
        Layout::Tokens => i % channels * 9 + i / channels,
    };
    let values = (0..k).flat_map(|i| (0..out).map(move |o| (i, o)));
    Some(values.map(|(i, o)| kernel[o * k + place(i)]).collect())
}
