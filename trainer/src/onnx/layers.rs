//! Operators with their shapes, and the layers that encoder and decoder share.

use anyhow::{Result, ensure};
use nets::ops::Activation;

use super::array::Array;
use super::graph::{GraphBuilder, Value, float, int, ints, to_i64};
use super::weights::Weights;

/// A part of the network: where its weights stand, and what its nodes are called.
pub(super) struct Module {
    pub(super) key: String,
    pub(super) name: String,
}

impl Module {
    pub(super) fn new(key: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            name: name.into(),
        }
    }

    pub(super) fn part(&self, part: &str) -> Self {
        let Self { key, name } = self;
        Self::new(format!("{key}.{part}"), format!("{name}/{part}"))
    }

    /// Whether the weights have an adapter here.
    pub(super) fn is_adapter(&self, weights: &Weights) -> bool {
        weights.has(&format!("{}.D_fc1.weight", self.key))
    }
}

/// A feature map as tokens: (height * width, C).
pub(super) struct Map {
    pub(super) tokens: Value,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Map {
    pub(super) fn with(&self, tokens: Value) -> Self {
        Self { tokens, ..*self }
    }
}

/// Channels last: (rows, in) -> (rows, out).
pub(super) struct Linear {
    /// (out, in), as PyTorch stores it.
    pub(super) weight: Array,
    pub(super) bias: Option<Array>,
}

impl Linear {
    pub(super) fn read(weights: &mut Weights, name: &str) -> Result<Self> {
        let weight = weights.ranked(&format!("{name}.weight"), 2)?;
        let bias = weights.ranked(&format!("{name}.bias"), 1)?;
        ensure!(
            bias.shape[0] == weight.shape[0],
            "{name}.bias has {} values, {name}.weight {} rows",
            bias.shape[0],
            weight.shape[0]
        );
        Ok(Self {
            weight,
            bias: Some(bias),
        })
    }

    pub(super) fn scaled(self, factor: f32) -> Self {
        let scale = |array: Array| array.map(|x| x * factor);
        Self {
            weight: scale(self.weight),
            bias: self.bias.map(scale),
        }
    }
}

impl GraphBuilder {
    pub(super) fn reshape(&mut self, name: &str, x: &Value, shape: &[usize]) -> Value {
        let target = self.integers(&to_i64(shape));
        self.node("Reshape", name, &[x, &target], vec![], shape)
    }

    pub(super) fn transpose(&mut self, name: &str, x: &Value, order: &[usize]) -> Value {
        let shape: Vec<usize> = order.iter().map(|&axis| x.shape[axis]).collect();
        self.node(
            "Transpose",
            name,
            &[x],
            vec![ints("perm", &to_i64(order))],
            &shape,
        )
    }

    /// `x[begin..end]` along `axis`.
    pub(super) fn slice(
        &mut self,
        name: &str,
        x: &Value,
        axis: usize,
        range: std::ops::Range<usize>,
    ) -> Value {
        let begin = self.integers(&[range.start as i64]);
        let end = self.integers(&[range.end as i64]);
        let axes = self.integers(&[axis as i64]);
        let mut shape = x.shape.clone();
        shape[axis] = range.len();
        self.node("Slice", name, &[x, &begin, &end, &axes], vec![], &shape)
    }

    /// Batched product over equal leading axes.
    pub(super) fn matmul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        let mut shape = a.shape.clone();
        *shape.last_mut().expect("matrices have axes") = b.shape[b.shape.len() - 1];
        self.node("MatMul", name, &[a, b], vec![], &shape)
    }

    pub(super) fn add(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        let shape = if a.shape.len() >= b.shape.len() {
            &a.shape
        } else {
            &b.shape
        }
        .clone();
        self.node("Add", name, &[a, b], vec![], &shape)
    }

    pub(super) fn mul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.node("Mul", name, &[a, b], vec![], &a.shape.clone())
    }

    pub(super) fn softmax(&mut self, name: &str, x: &Value) -> Value {
        self.node(
            "Softmax",
            name,
            &[x],
            vec![int("axis", -1)],
            &x.shape.clone(),
        )
    }

    pub(super) fn relu(&mut self, name: &str, x: &Value) -> Value {
        self.node("Relu", name, &[x], vec![], &x.shape.clone())
    }

    /// The exact GELU, in the form tract recognizes (Gelu itself is opset 20).
    pub(super) fn gelu(&mut self, name: &str, x: &Value) -> Value {
        let (root, one, half) = (
            self.scalar(2f32.sqrt().recip()),
            self.scalar(1.0),
            self.scalar(0.5),
        );
        let scaled = self.mul(&format!("{name}/scaled"), x, &root);
        let erf = self.node(
            "Erf",
            &format!("{name}/erf"),
            &[&scaled],
            vec![],
            &x.shape.clone(),
        );
        let weight = self.add(&format!("{name}/weight"), &erf, &one);
        let half_x = self.mul(&format!("{name}/half"), x, &half);
        self.mul(name, &half_x, &weight)
    }

    pub(super) fn activation(&mut self, kind: Activation, name: &str, x: &Value) -> Value {
        match kind {
            Activation::Gelu => self.gelu(name, x),
            Activation::GeluTanh => self.gelu_tanh(name, x),
            Activation::HardSwish => self.node("HardSwish", name, &[x], vec![], &x.shape.clone()),
        }
    }

    /// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which runtimes recognize too.
    fn gelu_tanh(&mut self, name: &str, x: &Value) -> Value {
        let constants = [
            3.0,
            0.044_715,
            (2.0 / std::f32::consts::PI).sqrt(),
            1.0,
            0.5,
        ];
        let [three, cubic, root, one, half] = constants.map(|value| self.scalar(value));
        let part = |part: &str| format!("{name}/{part}");
        let shape = x.shape.clone();
        let cube = self.node("Pow", &part("cube"), &[x, &three], vec![], &shape);
        let bent = self.mul(&part("bent"), &cube, &cubic);
        let inner = self.add(&part("inner"), x, &bent);
        let scaled = self.mul(&part("scaled"), &inner, &root);
        let tanh = self.node("Tanh", &part("tanh"), &[&scaled], vec![], &shape);
        let weight = self.add(&part("weight"), &tanh, &one);
        let half_x = self.mul(&part("half"), x, &half);
        self.mul(name, &half_x, &weight)
    }

    /// Over the last axis.
    pub(super) fn layer_norm(
        &mut self,
        name: &str,
        x: &Value,
        (weight, bias): (&Array, &Array),
        epsilon: f32,
    ) -> Value {
        let scale = self.constant(&format!("{name}.weight"), weight);
        let shift = self.constant(&format!("{name}.bias"), bias);
        let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
        self.node(
            "LayerNormalization",
            name,
            &[x, &scale, &shift],
            attributes,
            &x.shape.clone(),
        )
    }

    /// `x` must have two axes: with more, tract multiplies once per leading index.
    pub(super) fn linear(&mut self, name: &str, x: &Value, layer: &Linear) -> Value {
        assert_eq!(
            x.shape.len(),
            2,
            "operand of the linear layer {name} is flat"
        );
        let weight = self.constant(&format!("{name}.weight"), &layer.weight.transposed());
        let Some(bias) = &layer.bias else {
            return self.matmul(name, x, &weight);
        };
        let product = self.matmul(&format!("{name}/matmul"), x, &weight);
        let bias = self.constant(&format!("{name}.bias"), bias);
        self.add(name, &product, &bias)
    }

    /// D_fc1, GELU, D_fc2; the skip connection is the caller's.
    pub(super) fn adapter(
        &mut self,
        weights: &mut Weights,
        Module { key, name }: &Module,
        x: &Value,
    ) -> Result<Value> {
        let first = Linear::read(weights, &format!("{key}.D_fc1"))?;
        let second = Linear::read(weights, &format!("{key}.D_fc2"))?;
        let hidden = self.linear(&format!("{name}/D_fc1"), x, &first);
        let hidden = self.gelu(&format!("{name}/act"), &hidden);
        Ok(self.linear(&format!("{name}/D_fc2"), &hidden, &second))
    }

    /// `out`, and half of what the adapter makes of `x` where there is one.
    pub(super) fn mlp_adapter(
        &mut self,
        weights: &mut Weights,
        adapter: &Module,
        x: &Value,
        out: Value,
    ) -> Result<Value> {
        if !adapter.is_adapter(weights) {
            return Ok(out);
        }
        let name = &adapter.name;
        let added = self.adapter(weights, adapter, x)?;
        let half = self.scalar(0.5);
        let added = self.mul(&format!("{name}/half"), &added, &half);
        Ok(self.add(name, &out, &added))
    }
}

/// LayerNorm's two vectors.
pub(super) fn norm(weights: &mut Weights, name: &str) -> Result<(Array, Array)> {
    let scale = weights.ranked(&format!("{name}.weight"), 1)?;
    let shift = weights.ranked(&format!("{name}.bias"), 1)?;
    Ok((scale, shift))
}
