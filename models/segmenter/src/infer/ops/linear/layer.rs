//! What a layer consists of.

use super::super::activation::Activation;
use super::super::depthwise::Depthwise;
use super::super::matmul::{PackedF32, PackedI8};
use super::super::patches::Patches;

/// (rows, K) -> (rows, N), or a map to rows; with a residual (rows, N) as second input where there is one. Each output
/// is `activation(product * scale + bias + residual)`, rounded after every step.
pub(crate) struct Linear {
    pub(crate) weights: Weights,
    /// N values, or none.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
    pub(crate) rows: Rows,
}

/// What is multiplied.
#[derive(Debug)]
pub(crate) enum Rows {
    /// The rows of the input.
    Given,
    /// Neighbourhoods in a map.
    Patches(Patches),
    /// What a depthwise convolution makes of a map.
    Depthwise(Depthwise),
    /// What another layer makes of the input's rows.
    Linear(Box<Linear>),
}

pub(crate) enum Weights {
    F32(PackedF32),
    I8 {
        packed: PackedI8,
        /// One by the step of the activations.
        reciprocal: f32,
        /// Of the sums, N values or one.
        scales: Vec<f32>,
    },
}

impl Weights {
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self {
            Self::F32(packed) => [packed.k, packed.n],
            Self::I8 { packed, .. } => [packed.k, packed.n],
        }
    }
}
