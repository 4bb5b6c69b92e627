//! One function a pass: it looks at a node and, where the group that ends in it is what the pass is for, replaces it.

mod convolution;

use self::convolution::convolution;
use super::super::ops::{Activation, Depthwise, RelativeBias, WindowAttention};
use super::graph::{
    Draft, Graph, LinearDraft, MOST_PRODUCTS, Matrix, OURS, RowsDraft, Values, attribute,
};

pub(super) type Pass = fn(&mut Graph, usize) -> Option<()>;

/// In the order in which they run over the whole graph.
pub(super) const PASSES: [(&str, Pass); 7] = [
    ("gelu", gelu),
    ("convolution", convolution),
    ("linear", linear),
    ("window_attention", window_attention),
    ("sum", sum),
    ("activation", activation),
    ("chain", chain),
];

/// A Gelu in its parts, x / 2 * (1 + f(..)): with erf(x / sqrt 2), or tanh(sqrt(2 / pi) * (x + 0.044715 x^3)). And
/// HardSwish, which is one node.
fn gelu(graph: &mut Graph, root: usize) -> Option<()> {
    if let Some(node) = graph.is(root, "HardSwish") {
        let inputs = node.input.clone();
        graph.replace(root, &[], inputs, Draft::Activation(Activation::HardSwish));
        return Some(());
    }
    let product = graph.is(root, "Mul")?;
    let (half, half_node) = graph.only(&product.input[0], "Mul")?;
    let (one, sum) = graph.only(&product.input[1], "Add")?;
    let mut removed = vec![half, one];
    let (inner, kind) = if let Some((erf, node)) = graph.only(&sum.input[0], "Erf") {
        removed.push(erf);
        (&node.input[0], Activation::Gelu)
    } else {
        let (tanh, node) = graph.only(&sum.input[0], "Tanh")?;
        removed.push(tanh);
        (&node.input[0], Activation::GeluTanh)
    };
    let (place, scaled) = graph.only(inner, "Mul")?;
    removed.push(place);
    let mut x = &scaled.input[0];
    let mut factor = 2f32.sqrt().recip();
    if kind == Activation::GeluTanh {
        factor = (2.0 / std::f32::consts::PI).sqrt();
        let (plus, node) = graph.only(x, "Add")?;
        let (times, bent) = graph.only(&node.input[1], "Mul")?;
        let (power, cube) = graph.only(&bent.input[0], "Pow")?;
        x = &node.input[0];
        if cube.input[0] != *x
            || graph.scalar(&cube.input[1]) != Some(3.0)
            || graph.scalar(&bent.input[1]) != Some(0.044_715)
        {
            return None;
        }
        removed.extend([plus, times, power]);
    }
    let same = half_node.input[0] == *x
        && graph.scalar(&half_node.input[1]) == Some(0.5)
        && graph.scalar(&sum.input[1]) == Some(1.0)
        && graph.scalar(&scaled.input[1]) == Some(factor);
    if !same {
        return None;
    }
    let x = x.clone();
    graph.replace(root, &removed, vec![x], Draft::Activation(kind));
    Some(())
}

/// A product with a constant matrix: in integers where both operands come out of a DequantizeLinear.
fn linear(graph: &mut Graph, root: usize) -> Option<()> {
    let node = graph.is(root, "MatMul")?;
    let (x, weight) = (&node.input[0], &node.input[1]);
    let integers = graph.quantized(x).zip(graph.weights(weight, 1));
    let integers = integers.filter(|(_, (shape, ..))| shape[0] <= MOST_PRODUCTS);
    let (weights, input, removed) = if let Some(((x, input, places), weights)) = integers {
        let (shape, values, scales) = weights;
        let values = Values::I8 {
            values,
            scales,
            input,
        };
        ((shape, values), x.to_owned(), places.to_vec())
    } else {
        let (shape, values) = graph.f32(weight)?;
        ((shape, Values::F32(values)), x.clone(), vec![])
    };
    let &[k, n] = &weights.0[..] else { return None };
    let draft = Draft::Linear(LinearDraft {
        weights: Matrix {
            shape: [k, n],
            values: weights.1,
        },
        bias: Vec::new(),
        activation: Activation::None,
        rows: RowsDraft::Given,
    });
    graph.replace(root, &removed, vec![input], draft);
    Some(())
}

/// What the exporter writes for attention in windows that divide the map, from all of q, k and v on.
fn window_attention(graph: &mut Graph, root: usize) -> Option<()> {
    let out = graph.is(root, "Reshape")?;
    let (order, mixed) = graph.transpose(&out.input[0], &[0, 3, 1, 4, 2, 5])?;
    let (split, mixed, split_shape) = graph.reshape(mixed)?;
    let &[down, across, heads, side, _, head_dim] = &split_shape[..] else {
        return None;
    };
    let (product, node) = graph.only(mixed, "MatMul")?;
    let (soft, soft_node) = graph.only(&node.input[0], "Softmax")?;
    let (biased, sum) = graph.only(&soft_node.input[0], "Add")?;
    let (bias_shape, bias) = graph.f32(&sum.input[1])?;
    let (scores, scores_node) = graph.only(&sum.input[0], "MatMul")?;
    let (turned, k) = graph.transpose(&scores_node.input[1], &[0, 1, 3, 2])?;
    let parts = [&scores_node.input[0], k, &node.input[1]];
    let mut removed = vec![order, split, product, soft, biased, scores, turned];
    let mut source = None;
    for (i, part) in parts.into_iter().enumerate() {
        let (squeeze, slice, shape) = graph.reshape(part)?;
        let (place, node) = graph.only(slice, "Slice")?;
        let bounds = [1, 2, 3].map(|at| node.input.get(at).and_then(|it| graph.shape(it)));
        let area = side * side;
        if bounds != [Some(vec![i]), Some(vec![i + 1]), Some(vec![0])]
            || shape != [down * across, heads, area, head_dim]
            || source
                .replace(node.input[0].clone())
                .is_some_and(|it| it != node.input[0])
        {
            return None;
        }
        removed.extend([squeeze, place]);
    }
    let (flat, turned, _) = graph.shared_reshape(&source?, 3)?;
    let (windows, x) = graph.transpose(turned, &[4, 0, 2, 5, 1, 3, 6])?;
    let (first, x, first_shape) = graph.reshape(x)?;
    let area = side * side;
    if first_shape != [down, side, across, side, 3, heads, head_dim]
        || bias_shape != [heads, area, area]
        || attribute(soft_node, "axis", -1) != -1
        || head_dim % 16 != 0
    {
        return None;
    }
    removed.extend([flat, windows, first]);
    let draft = Draft::WindowAttention(WindowAttention {
        windows: [down, across],
        side,
        heads,
        head_dim,
        bias: RelativeBias::new(&bias, side)?,
        half: None,
    });
    let inputs = vec![x.to_owned()];
    graph.replace(root, &removed, inputs, draft);
    Some(())
}

/// A bias or a residual that is added to a linear layer's output.
fn sum(graph: &mut Graph, root: usize) -> Option<()> {
    let node = graph.is(root, "Add")?;
    for (from, other) in [(0, 1), (1, 0)] {
        let (value, other) = (node.input[from].clone(), node.input[other].clone());
        let Some((index, layer, Draft::Linear(draft))) = graph.only_ours(&value) else {
            continue;
        };
        let n = draft.weights.shape[1];
        let mut inputs = layer.input.clone();
        if draft.activation != Activation::None || inputs.len() > 1 {
            continue;
        }
        let bias = graph.f32(&other);
        if bias.as_ref().is_some_and(|(shape, _)| *shape != [n]) {
            continue;
        }
        let Some(Draft::Linear(mut draft)) = graph.drafts.remove(&value) else {
            return None;
        };
        match bias {
            Some((_, bias)) if draft.bias.is_empty() => draft.bias = bias,
            // A bias twice: it is one number rounded twice, which nothing exports.
            Some((_, bias)) => {
                for (sum, bias) in draft.bias.iter_mut().zip(bias) {
                    *sum += bias;
                }
            }
            None => inputs.push(other),
        }
        graph.replace(root, &[index], inputs, Draft::Linear(draft));
        return sum(graph, root);
    }
    None
}

/// What follows a linear layer or a convolution at once.
fn activation(graph: &mut Graph, root: usize) -> Option<()> {
    let node = graph.node(root)?;
    let kind = match &node.op_type[..] {
        "Relu" => Activation::Relu,
        OURS => graph.activation(&node.output[0])?,
        _ => return None,
    };
    let value = node.input[0].clone();
    let (index, layer, _) = graph.only_ours(&value)?;
    let inputs = layer.input.clone();
    let mut draft = graph.drafts.remove(&value)?;
    let place = match &mut draft {
        Draft::Linear(LinearDraft { activation, .. })
        | Draft::Depthwise(Depthwise { activation, .. }) => Some(activation),
        Draft::Activation(_) | Draft::WindowAttention(_) => None,
    };
    match place {
        Some(activation) if *activation == Activation::None => *activation = kind,
        _ => {
            graph.drafts.insert(value, draft);
            return None;
        }
    }
    graph.replace(root, &[index], inputs, draft);
    Some(())
}

/// A layer whose rows another layer makes for it alone: both are computed block by block, and what lies between them
/// stays in the cache.
fn chain(graph: &mut Graph, root: usize) -> Option<()> {
    let node = graph.is(root, OURS)?;
    let (value, output) = (node.input[0].clone(), node.output[0].clone());
    let Some(Draft::Linear(LinearDraft {
        rows: RowsDraft::Given,
        ..
    })) = graph.drafts.get(&output)
    else {
        return None;
    };
    let (index, first, draft) = graph.only_ours(&value)?;
    let fits = match draft {
        Draft::Depthwise(_) => true,
        // Patches are gathered from a map that is quantized as a whole, and a residual is the second layer's.
        Draft::Linear(draft) => {
            first.input.len() == 1 && !matches!(draft.rows, RowsDraft::Patches(_))
        }
        Draft::Activation(_) | Draft::WindowAttention(_) => false,
    };
    if !fits {
        return None;
    }
    let mut inputs = node.input.clone();
    inputs[0].clone_from(&first.input[0]);
    let rows = match graph.drafts.remove(&value)? {
        Draft::Linear(first) => RowsDraft::Linear(Box::new(first)),
        Draft::Depthwise(depthwise) => RowsDraft::Depthwise(depthwise),
        Draft::Activation(_) | Draft::WindowAttention(_) => return None,
    };
    let Some(Draft::Linear(mut layer)) = graph.drafts.remove(&output) else {
        return None;
    };
    layer.rows = rows;
    graph.replace(root, &[index], inputs, Draft::Linear(layer));
    Some(())
}
