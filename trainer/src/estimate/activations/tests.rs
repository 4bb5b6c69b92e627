use candle_core::{DType, Device};
use nets::image_encoder_vit::WindowPadding;

use super::*;
use crate::estimate::{GRADIENT_COPIES, HEAP_SHARE};

fn sam(encoder: EncoderConfig) -> SamConfig {
    SamConfig {
        encoder,
        num_cls: 2,
        lora: None,
        adapter: None,
    }
}

fn vit_t(size: usize) -> SamConfig {
    sam(EncoderConfig::TinyVit(TinyVitConfig::mobile_sam(size)))
}

/// Names are all that counts.
fn vars<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Var> {
    let var = || Var::zeros(1, DType::F32, &Device::Cpu).unwrap();
    names
        .into_iter()
        .map(|name| (name.to_owned(), var()))
        .collect()
}

/// LoRA in decoder and encoder blocks.
fn lora(blocks: impl IntoIterator<Item = String>) -> BTreeMap<String, Var> {
    let blocks: Vec<String> = blocks
        .into_iter()
        .map(|block| format!("image_encoder.{block}.attn.qkv.linear_a_q.weight"))
        .collect();
    let decoder = [
        "mask_decoder.transformer.layers.0.self_attn.q_proj.w_a.weight",
        "prompt_encoder.no_mask_embed.weight",
    ];
    vars(blocks.iter().map(String::as_str).chain(decoder))
}

fn vit_t_lora() -> BTreeMap<String, Var> {
    let stages = [(1, 2), (2, 6), (3, 2)];
    lora(
        stages.into_iter().flat_map(|(stage, depth)| {
            (0..depth).map(move |i| format!("layers.{stage}.blocks.{i}"))
        }),
    )
}

/// What forward and backward pass add to the peak.
fn mib(config: &SamConfig, vars: &BTreeMap<String, Var>) -> f64 {
    let count = Activations::count(config, vars, 1, false);
    let n_values = count.kept + GRADIENT_COPIES * count.largest;
    HEAP_SHARE * n_values as f64 * 4.0 / 1024.0 / 1024.0
}

#[test]
fn counts_come_near_measured_peaks() {
    // Peaks (VmHWM) of `trainer finetune`, LoRA in encoder and decoder. vit_t at 256 px took
    // 509.9 MiB with a batch of 1 and 1211.7 with one of 4.
    let measured = (1211.7 - 509.9) / 3.0;
    let counted = mib(&vit_t(256), &vit_t_lora());
    assert!((counted / measured - 1.0).abs() < 0.15, "{counted} MiB");

    // vit_b at 1024 px took 14956.8 MiB; weights, moments, gradients, 60 images and the
    // program are 1240 of them.
    let measured = 14956.8 - 1240.0;
    let vit_b = ImageEncoderVitConfig::vit_b(WindowPadding::AfterNorm);
    let updates = lora((0..12).map(|i| format!("blocks.{i}")));
    let counted = mib(&sam(EncoderConfig::Vit(vit_b)), &updates);
    assert!((counted / measured - 1.0).abs() < 0.15, "{counted} MiB");
}

#[test]
fn the_softmax_of_global_attention_is_the_largest_result() {
    let vit_b = ImageEncoderVitConfig::vit_b(WindowPadding::AfterNorm);
    let config = sam(EncoderConfig::Vit(vit_b));
    let updates = lora(["blocks.11".to_owned()]);
    let count = Activations::count(&config, &updates, 2, false);
    assert_eq!(count.largest, 2 * 12 * (64 * 64) * (64 * 64));
}

#[test]
fn nothing_before_the_first_weight_that_trains_is_kept() {
    let kept =
        |size, vars: &BTreeMap<String, Var>| Activations::count(&vit_t(size), vars, 1, false).kept;
    let decoder = vars(["mask_decoder.iou_token.weight"]);
    let neck = vars([
        "image_encoder.neck.0.weight",
        "mask_decoder.iou_token.weight",
    ]);
    let stem = vars([
        "image_encoder.patch_embed.seq.0.c.weight",
        "mask_decoder.iou_token.weight",
    ]);
    let embedding = 256 * 16 * 16;
    assert_eq!(kept(256, &neck), kept(256, &decoder) + 4 * embedding);
    assert!(kept(256, &vit_t_lora()) > 5 * kept(256, &decoder));
    assert!(kept(256, &stem) > kept(256, &neck) + 64 * 64 * 64);
    assert_eq!(kept(256, &BTreeMap::new()), 0);
}

#[test]
fn activations_grow_with_the_batch_alone() {
    let updates = vit_t_lora();
    let count = |batch| Activations::count(&vit_t(256), &updates, batch, false);
    assert_eq!(count(3).kept, 3 * count(1).kept);
    assert_eq!(count(3).largest, 3 * count(1).largest);
}
