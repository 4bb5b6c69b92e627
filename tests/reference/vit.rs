//! The plain ViT encoder, and a whole Sam around it.

use candle_core::{DType, Device, Tensor};
use nets::Mode;
use nets::adapter::AdapterConfig;
use nets::image_encoder_vit::{ImageEncoderVit, ImageEncoderVitConfig, WindowPadding};
use nets::lora::{LoraConfig, LoraRows};
use nets::mask_decoder::{MaskDecoder, MaskDecoderConfig, Tokens};
use nets::ops::resize_bilinear;
use nets::params::Params;
use nets::prompt_encoder::{PromptEncoder, PromptEncoderConfig, Prompts};
use nets::sam::{ImageEncoder, Sam};
use nets::transformer::TransformerConfig;
use serde_json::Value;

use crate::fixture::Fixture;

pub(crate) fn image_encoder_vit(fixture: &mut Fixture) {
    let config = vit_config(&fixture.entry["constructor"]);
    let (lora, adapter) = surgery(fixture, config.depth);
    let params = Params::new(fixture.params.clone(), |_| false, 0);
    let encoder = ImageEncoderVit::new(&config, lora.as_ref(), adapter.as_ref(), &params).unwrap();
    let report = params.finish().report;
    assert_eq!(report.random, Vec::<String>::new());
    let inert: Vec<&str> = strings(&fixture.entry["inert_params"]);
    let unused = report
        .unused
        .iter()
        .filter(|name| !inert.contains(&name.as_str()));
    assert_eq!(unused.count(), 0, "{:?}", report.unused);

    let mut traced = Vec::new();
    let mut trace = |name: &str, tensor: &Tensor| traced.push((name.to_owned(), tensor.clone()));
    encoder
        .forward_traced(&fixture.input("image"), &mut trace)
        .unwrap();
    for (name, tensor) in traced {
        fixture.check(&name, &tensor);
    }
}

pub(crate) fn sam(fixture: &mut Fixture) {
    let params = Params::new(fixture.params.clone(), |_| false, 0);
    let sam = build_sam(fixture, &params);
    assert_eq!(params.finish().report.random, Vec::<String>::new());

    let embeddings = sam.embed(&fixture.input("image"), Mode::Eval).unwrap();
    fixture.check("image_embeddings", &embeddings);
    let boxes = fixture.input("boxes");
    let boxed = Prompts {
        boxes: Some(&boxes),
        ..Prompts::default()
    };
    for (case, prompts) in [("noprompt", Prompts::default()), ("box", boxed)] {
        let decoded = sam.decode(&embeddings, prompts, Tokens::Classes).unwrap();
        fixture.check(&format!("{case}.low_res_masks"), &decoded.masks);
        fixture.check(&format!("{case}.iou"), &decoded.iou);
        let classes = decoded.masks.argmax(1).unwrap();
        fixture.check(&format!("{case}.argmax"), &classes);
    }
    for record in 0..2 {
        forward(fixture, &sam, record);
    }
}

/// One record of `Sam.forward`: normalize, pad, segment, back to the original size, threshold.
fn forward(fixture: &mut Fixture, sam: &Sam, record: usize) {
    let input = |fixture: &Fixture, name: &str| {
        let name = format!("forward.{record}.{name}");
        fixture.has_input(&name).then(|| fixture.input(&name))
    };
    let constructor = fixture.entry["constructor"].clone();
    let side = constructor["image_encoder"]["img_size"].as_u64().unwrap() as usize;
    let statistic = |key: &str| {
        let values: Vec<f32> = serde_json::from_value(constructor[key].clone()).unwrap();
        Tensor::new(values, &Device::Cpu)
            .unwrap()
            .reshape((3, 1, 1))
            .unwrap()
    };
    let raw = input(fixture, "image").unwrap();
    let (_, rows, cols) = raw.dims3().unwrap();
    let image = raw
        .broadcast_sub(&statistic("pixel_mean"))
        .and_then(|x| x.broadcast_div(&statistic("pixel_std")))
        .and_then(|x| x.pad_with_zeros(1, 0, side - rows))
        .and_then(|x| x.pad_with_zeros(2, 0, side - cols))
        .and_then(|x| x.unsqueeze(0))
        .unwrap();
    let embedding = sam.embed(&image, Mode::Eval).unwrap();
    let coords = input(fixture, "point_coords");
    let labels = input(fixture, "point_labels");
    let (boxes, masks) = (input(fixture, "boxes"), input(fixture, "mask_inputs"));
    let prompts = Prompts {
        points: coords.as_ref().zip(labels.as_ref()),
        boxes: boxes.as_ref(),
        masks: masks.as_ref(),
    };
    let original: [usize; 2] =
        serde_json::from_value(fixture.entry["input"]["forward_original_size"][record].clone())
            .unwrap();
    for (multi, tokens) in [(true, Tokens::Classes), (false, Tokens::Single)] {
        let case = format!("forward.{record}.multi_{multi}");
        let decoded = sam.decode(&embedding, prompts, tokens).unwrap();
        fixture.check(&format!("{case}.low_res_logits"), &decoded.masks);
        fixture.check(&format!("{case}.iou"), &decoded.iou);
        let upscaled = format!("{case}.upscaled_logits");
        if fixture.has_output(&upscaled) {
            let logits = resize_bilinear(&decoded.masks, side, side)
                .and_then(|x| x.narrow(2, 0, rows))
                .and_then(|x| x.narrow(3, 0, cols))
                .and_then(|x| resize_bilinear(&x.contiguous()?, original[0], original[1]))
                .unwrap();
            fixture.check(&upscaled, &logits);
            let atol = fixture.atol(&upscaled);
            fixture.check_mask(&format!("{case}.masks"), &logits, atol);
        }
    }
}

/// A Sam with the sizes and the surgery of a fixture.
pub(crate) fn build_sam(fixture: &Fixture, params: &Params) -> Sam {
    let constructor = &fixture.entry["constructor"];
    let encoder = vit_config(&constructor["image_encoder"]);
    let (lora, adapter) = surgery(fixture, encoder.depth);
    let pair =
        |key: &str| serde_json::from_value(constructor["prompt_encoder"][key].clone()).unwrap();
    let prompt = |key: &str| number(&constructor["prompt_encoder"][key]);
    let decoder = &constructor["mask_decoder"];
    let transformer = |key: &str| number(&decoder["transformer"][key]);
    let adapted = fixture.flag("if_mask_decoder_adapter");
    Sam {
        image_encoder: ImageEncoder::Vit(
            ImageEncoderVit::new(
                &encoder,
                lora.as_ref(),
                adapter.as_ref(),
                &params.pp("image_encoder"),
            )
            .unwrap(),
        ),
        prompt_encoder: PromptEncoder::new(
            PromptEncoderConfig {
                embed_dim: prompt("embed_dim"),
                image_embedding_size: pair("image_embedding_size"),
                input_image_size: pair("input_image_size"),
                mask_in_chans: prompt("mask_in_chans"),
            },
            &params.pp("prompt_encoder"),
        )
        .unwrap(),
        mask_decoder: MaskDecoder::new(
            MaskDecoderConfig {
                transformer: TransformerConfig {
                    depth: transformer("depth"),
                    embedding_dim: transformer("embedding_dim"),
                    num_heads: transformer("num_heads"),
                    mlp_dim: transformer("mlp_dim"),
                    lora_rank: fixture
                        .flag("if_decoder_lora_layer")
                        .then(|| fixture.lora_rank()),
                    adapter_depth: if adapted {
                        number(&fixture.entry["args"]["decoder_adapt_depth"])
                    } else {
                        0
                    },
                },
                num_cls: number(&decoder["num_multimask_outputs"]),
                iou_head_depth: number(&decoder["iou_head_depth"]),
                iou_head_hidden_dim: number(&decoder["iou_head_hidden_dim"]),
            },
            &params.pp("mask_decoder"),
        )
        .unwrap(),
    }
}

fn vit_config(constructor: &Value) -> ImageEncoderVitConfig {
    let size = |key: &str| number(&constructor[key]);
    ImageEncoderVitConfig {
        img_size: size("img_size"),
        patch_size: size("patch_size"),
        in_chans: size("in_chans"),
        embed_dim: size("embed_dim"),
        depth: size("depth"),
        num_heads: size("num_heads"),
        mlp_ratio: constructor["mlp_ratio"].as_f64().unwrap(),
        out_chans: size("out_chans"),
        window_size: size("window_size"),
        global_attn_indexes: serde_json::from_value(constructor["global_attn_indexes"].clone())
            .unwrap(),
        padding: WindowPadding::BeforeNorm,
    }
}

/// An empty list means every block to the reference's LoRA, and none to its adapters.
fn surgery(fixture: &Fixture, depth: usize) -> (Option<LoraConfig>, Option<AdapterConfig>) {
    let lora = fixture.flag("if_encoder_lora_layer").then(|| {
        let listed = fixture.indices("encoder_lora_layer");
        LoraConfig {
            rank: fixture.lora_rank(),
            encoder_layers: if listed.is_empty() {
                (0..depth).collect()
            } else {
                listed
            },
            decoder: false,
            rows: LoraRows::Reference,
        }
    });
    let adapter = fixture.flag("if_encoder_adapter").then(|| AdapterConfig {
        encoder_layers: fixture.indices("encoder_adapter_depths"),
        decoder_depth: 0,
    });
    (lora, adapter)
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn strings(value: &Value) -> Vec<&str> {
    let list = value.as_array().into_iter().flatten();
    list.map(|it| it.as_str().unwrap()).collect()
}

/// Grey values 0.. as class indices.
pub(crate) fn labels(mask: &Tensor) -> Tensor {
    mask.squeeze(1)
        .and_then(|it| it.to_dtype(DType::U32))
        .unwrap()
}
