//! The graph, run by tract: the only file that names it.

use contract::Manifest;
use contract::mask::Logits;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum InferError {}

impl InferError {
    pub fn kind(&self) -> &'static str {
        todo!()
    }
}

/// A loaded automatic graph: image (1, 3, size, size) -> class logits (1, classes + 1, side, side).
pub struct Graph {}

impl Graph {
    /// Maps `path` and loads it with the input size, class count and output side of `manifest`.
    pub fn open(path: &Path, manifest: &Manifest) -> Result<Self, InferError> {
        todo!()
    }

    /// `chw` is 3 x size x size, as `InputRules::prepare` gives it.
    pub fn run(&self, chw: Vec<f32>) -> Result<Logits, InferError> {
        todo!()
    }
}

/// A named output of a [`Probe`].
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// A model loaded once with chosen outputs (inner tensors too), for calibration and parity checks.
pub struct Probe {}

impl Probe {
    /// `onnx` with its image input fixed to (1, 3, size, size) and these tensors as outputs.
    pub fn open(onnx: &[u8], size: usize, output_names: &[String]) -> Result<Self, InferError> {
        todo!()
    }

    /// One array for each output name, in the order given to `open`.
    pub fn run(&self, chw: &[f32]) -> Result<Vec<Array>, InferError> {
        todo!()
    }
}
