//! A state dict that is taken apart: every tensor must be found, and none may be left over.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use nets::ops::Activation;

use super::array::Array;

/// What the automatic graph has no use for: the ImageNet classifier, prompts, the IoU head and the
/// single-mask token's MLP.
const UNUSED: [&str; 7] = [
    "image_encoder.norm_head.",
    "image_encoder.head.",
    "prompt_encoder.point_embeddings.",
    "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.mask_downscaling.",
    "mask_decoder.iou_prediction_head.",
    "mask_decoder.output_hypernetworks_mlps.0.",
];

/// Float tensors of a state dict, remembering which were read, and what no tensor tells.
#[derive(Debug)]
pub(super) struct Weights {
    tensors: BTreeMap<String, Array>,
    used: BTreeSet<String>,
    /// Of the image encoder.
    pub(super) activation: Activation,
}

impl Weights {
    pub(super) fn new(state: &BTreeMap<String, Tensor>, activation: Activation) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in state {
            if name.ends_with(".num_batches_tracked") {
                continue;
            }
            let data = tensor
                .to_dtype(DType::F32)
                .and_then(|tensor| tensor.flatten_all())
                .and_then(|tensor| tensor.to_vec1::<f32>())
                .with_context(|| format!("cannot read tensor {name}"))?;
            ensure!(
                data.iter().all(|value| value.is_finite()),
                "tensor {name} holds NaN or infinity: the run diverged, export an earlier one"
            );
            tensors.insert(name.clone(), Array::new(tensor.dims(), data));
        }
        Ok(Self {
            tensors,
            used: BTreeSet::new(),
            activation,
        })
    }

    pub(super) fn get(&mut self, name: &str) -> Result<Array> {
        let array = self
            .tensors
            .get(name)
            .with_context(|| format!("tensor {name} is missing from the weights"))?;
        self.used.insert(name.to_owned());
        Ok(array.clone())
    }

    /// The same, of a known number of axes.
    pub(super) fn ranked(&mut self, name: &str, rank: usize) -> Result<Array> {
        let array = self.get(name)?;
        ensure!(
            array.shape.len() == rank,
            "tensor {name} has the shape {:?}, expected {rank} axes",
            array.shape
        );
        Ok(array)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// How many of `pattern` (with `{}` for 0, 1, 2 ...) there are.
    pub(super) fn count(&self, pattern: &str) -> usize {
        (0..self.tensors.len())
            .take_while(|i| self.has(&pattern.replace("{}", &i.to_string())))
            .count()
    }

    /// Fails with the tensors nobody read.
    pub(super) fn finish(self) -> Result<()> {
        let left: Vec<&str> = self
            .tensors
            .keys()
            .filter(|name| !self.used.contains(*name))
            .filter(|name| !UNUSED.iter().any(|prefix| name.starts_with(prefix)))
            .map(String::as_str)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let shown = left[..left.len().min(8)].join(", ");
        bail!(
            "{} tensors have no place in the graph ({shown}{}): merge LoRA first, and export SAMs \
             with a TinyViT encoder only",
            left.len(),
            if left.len() > 8 { ", ..." } else { "" }
        )
    }
}
