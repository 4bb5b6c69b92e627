//! Prompt encoder and mask decoder.

use candle_core::{DType, Device, Tensor};
use nets::mask_decoder::{MaskDecoder, MaskDecoderConfig, Tokens};
use nets::params::Params;
use nets::prompt_encoder::{PromptEncoder, PromptEncoderConfig, Prompts};
use nets::transformer::TransformerConfig;

use crate::fixture::Fixture;

pub(crate) fn prompt_encoder(fixture: &mut Fixture) {
    let pair = |fixture: &Fixture, key: &str| {
        let list = &fixture.entry["constructor"][key];
        [0, 1].map(|i| list[i].as_u64().unwrap() as usize)
    };
    let config = PromptEncoderConfig {
        embed_dim: fixture.constructor("embed_dim"),
        image_embedding_size: pair(fixture, "image_embedding_size"),
        input_image_size: pair(fixture, "input_image_size"),
        mask_in_chans: fixture.constructor("mask_in_chans"),
    };
    let params = Params::new(fixture.params.clone(), |_| false, 0);
    let encoder = PromptEncoder::new(config, &params).unwrap();
    assert_eq!(params.finish().report.random, Vec::<String>::new());
    fixture.check("dense_pe", &encoder.dense_pe().unwrap());

    let [coords, labels, boxes, multi_boxes, masks] = [
        "point_coords",
        "point_labels",
        "boxes",
        "multi_boxes",
        "masks",
    ]
    .map(|name| fixture.input(name));
    let points = Some((&coords, &labels));
    let none = Prompts::default();
    let [boxes, multi_boxes, masks] = [Some(&boxes), Some(&multi_boxes), Some(&masks)];
    #[rustfmt::skip]
    let cases = [
        ("none", none),
        ("points", Prompts { points, ..none }),
        ("boxes", Prompts { boxes, ..none }),
        ("multi_boxes", Prompts { boxes: multi_boxes, ..none }),
        ("points_boxes", Prompts { points, boxes, ..none }),
        ("mask", Prompts { masks, ..none }),
        ("boxes_mask", Prompts { boxes, masks, ..none }),
    ];
    for (case, prompts) in cases {
        let (sparse, dense) = encoder.forward(prompts).unwrap();
        fixture.check(&format!("{case}.sparse"), &sparse);
        fixture.check(&format!("{case}.dense"), &dense);
    }
}

pub(crate) fn mask_decoder(fixture: &mut Fixture) {
    let shape = fixture.entry["constructor"]["transformer"].clone();
    let number = |key: &str| shape[key].as_u64().unwrap() as usize;
    let adapted = fixture.flag("if_mask_decoder_adapter");
    let depth = fixture.entry["args"]["decoder_adapt_depth"]
        .as_u64()
        .unwrap() as usize;
    let config = MaskDecoderConfig {
        transformer: TransformerConfig {
            depth: number("depth"),
            embedding_dim: number("embedding_dim"),
            num_heads: number("num_heads"),
            mlp_dim: number("mlp_dim"),
            lora_rank: fixture
                .flag("if_decoder_lora_layer")
                .then(|| fixture.lora_rank()),
            adapter_depth: if adapted { depth } else { 0 },
        },
        num_cls: fixture.constructor("num_multimask_outputs"),
        iou_head_depth: fixture.constructor("iou_head_depth"),
        iou_head_hidden_dim: fixture.constructor("iou_head_hidden_dim"),
    };
    let params = Params::new(fixture.params.clone(), |_| false, 0);
    let decoder = MaskDecoder::new(config, &params).unwrap();
    assert_eq!(params.finish().report.random, Vec::<String>::new());

    let [images, pe, sparse, dense, dense_none, sparse3, dense3] = [
        "image_embeddings",
        "image_pe",
        "sparse",
        "dense",
        "dense_none",
        "sparse3",
        "dense3",
    ]
    .map(|name| fixture.input(name));
    let empty = Tensor::zeros((1, 0, pe.dim(1).unwrap()), DType::F32, &Device::Cpu).unwrap();
    let first = images.narrow(0, 0, 1).unwrap();
    for (case, images, prompts) in [
        ("prompted", &images, (&sparse, &dense)),
        ("noprompt", &images, (&empty, &dense_none)),
        ("one_image", &first, (&sparse3, &dense3)),
    ] {
        for (multi, tokens) in [(true, Tokens::Classes), (false, Tokens::Single)] {
            let decoded = decoder.forward(images, &pe, prompts, tokens).unwrap();
            fixture.check(&format!("{case}.multi_{multi}.masks"), &decoded.masks);
            fixture.check(&format!("{case}.multi_{multi}.iou"), &decoded.iou);
        }
    }
    let pe = pe.broadcast_as(images.shape()).unwrap();
    let source = (&images + &dense).unwrap();
    let (queries, keys) = decoder.transformer.forward(&source, &pe, &sparse).unwrap();
    fixture.check("transformer.queries", &queries);
    fixture.check("transformer.keys", &keys);
}
