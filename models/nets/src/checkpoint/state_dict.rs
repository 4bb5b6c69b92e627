//! What a file of weights holds.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};

pub(super) type State = BTreeMap<String, Tensor>;

/// What a file holds.
#[derive(Debug)]
pub struct Checkpoint {
    /// All floating-point tensors, as f32, and the step counts of an optimizer of ours.
    pub state: State,
    /// Of a safetensors file.
    pub metadata: HashMap<String, String>,
    /// Tensors that no network computes with, and what they are: `int64`, `bool`, `sparse`.
    pub left_out: BTreeMap<String, String>,
    /// Where in a `.pth` the tensors stood; empty at the top.
    pub key: String,
    /// Other state dicts there.
    pub other_keys: Vec<String>,
}

/// Floating-point numbers become f32.
pub(super) fn tensor(
    bytes: &[u8],
    dtype: DType,
    dims: &[usize],
    device: &Device,
) -> candle_core::Result<Tensor> {
    let tensor = Tensor::from_raw_buffer(bytes, dtype, dims, device)?;
    if dtype == DType::U32 {
        return Ok(tensor);
    }
    tensor.to_dtype(DType::F32)
}
