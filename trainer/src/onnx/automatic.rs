//! The automatic graph: image in, class logits out, no prompt.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use tract_onnx::pb::ModelProto;

use super::weights::Weights;
use super::{GraphBuilder, Value, mask_decoder, tiny_vit};

pub const INPUT: &str = "image";
pub const OUTPUT: &str = "logits";

/// A lowered network and the shape of its output.
#[derive(Debug)]
pub struct Lowered {
    pub model: ModelProto,
    /// Background included.
    pub classes: usize,
    /// Side of the square logits, px.
    pub side: usize,
}

/// Lowers a SAM with a TinyViT encoder: `image` (1, 3, size, size) to `logits`
/// (1, num_cls, 4 g, 4 g), g being the side of the embedding. `state` has upstream's names with LoRA
/// merged; adapters become nodes.
pub fn lower_automatic(state: &BTreeMap<String, Tensor>, size: usize) -> Result<Lowered> {
    let mut weights = Weights::new(state)?;
    let mut graph = GraphBuilder::default();
    let image = graph.input(INPUT, &[1, 3, size, size]);
    let mut no_mask = weights.ranked("prompt_encoder.no_mask_embed.weight", 2)?;
    no_mask.shape = vec![no_mask.data.len()];
    let embedding = tiny_vit::lower(&mut graph, &mut weights, &image, &no_mask)
        .context("cannot export the image encoder")?;
    let grid = embedding.shape[0].isqrt();
    ensure!(
        grid * grid == embedding.shape[0],
        "an input of {size} px gives an embedding of {} tokens, which is no square",
        embedding.shape[0]
    );
    let logits: Value = mask_decoder::lower(&mut graph, &mut weights, &embedding)
        .context("cannot export the mask decoder")?;
    weights.finish()?;
    let (classes, side) = (logits.shape[1], logits.shape[2]);
    Ok(Lowered { model: graph.finish("sam_automatic", &logits)?, classes, side })
}
