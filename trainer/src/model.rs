//! A SAM with its configuration: built from a checkpoint to train, or opened from a run folder to judge.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use contract::geometry::{InputRules, Placement};
use contract::mask::Logits;
use contract::{Image, LabelMap};
use nets::adapter::AdapterConfig;
use nets::image_encoder_vit::{ImageEncoderVitConfig, WindowPadding};
use nets::lora::{LoraConfig, LoraRows};
use nets::mask_decoder::Tokens;
use nets::params::{Compute, Loaded, Params};
use nets::prompt_encoder::Prompts;
use nets::sam::{EncoderConfig, Sam, SamConfig};
use nets::tiny_vit::TinyVitConfig;
use nets::{Mode, checkpoint, ops};

use crate::config::{self, Config, Encoder, Method, Scope};
use crate::run_folder::{self, State};

/// Parts of every SAM; upstream's names begin with one of them.
pub(crate) const PARTS: [&str; 3] = ["image_encoder.", "prompt_encoder.", "mask_decoder."];

/// Channels a head in every published TinyViT.
pub const HEAD_DIM: usize = 32;

pub struct Model {
    pub sam: Sam,
    pub config: SamConfig,
    pub loaded: Loaded,
    pub input: InputRules,
    /// In which it is looked at: `Eval`, or `Int8` to see what an export will lose.
    pub mode: Mode,
    device: Device,
}

/// What a fine-tuning recipe makes of the network.
pub fn teacher_config(config: &Config) -> Result<SamConfig> {
    let (strict, chosen) = (config.strict_reference, config.model.encoder);
    ensure!(
        chosen.any_size() || config.input.size == chosen.own_size(),
        "input.size is {} px, but model.encoder = {:?} takes {}: choose that (0 does), or the encoder \
         \"vit_t\"",
        config.input.size,
        chosen.name(),
        chosen.own_size()
    );
    let padding = if strict {
        WindowPadding::BeforeNorm
    } else {
        WindowPadding::AfterNorm
    };
    let encoder = encoder_config(chosen, config.input.size, padding);
    let finetune = &config.finetune;
    let layers = encoder_layers(config, encoder.tunable_layers())?;
    Ok(SamConfig {
        encoder,
        num_cls: config.num_cls(),
        lora: (finetune.method == Method::Lora).then(|| LoraConfig {
            rank: finetune.rank,
            encoder_layers: layers.clone(),
            decoder: true,
            rows: if strict {
                LoraRows::Reference
            } else {
                LoraRows::PerHead
            },
        }),
        adapter: (finetune.method == Method::Adapter).then_some(AdapterConfig {
            encoder_layers: layers,
            decoder_depth: finetune.decoder_adapter_depth,
        }),
    })
}

/// The published network of that name; `size_px` is the side of the input where any will do.
pub fn encoder_config(encoder: Encoder, size_px: usize, padding: WindowPadding) -> EncoderConfig {
    match encoder {
        Encoder::LiteMedsam => EncoderConfig::TinyVit(TinyVitConfig::lite_medsam()),
        Encoder::VitT => EncoderConfig::TinyVit(TinyVitConfig::mobile_sam(size_px)),
        Encoder::VitB => EncoderConfig::Vit(ImageEncoderVitConfig::vit_b(padding)),
        Encoder::VitL => EncoderConfig::Vit(ImageEncoderVitConfig::vit_l(padding)),
        Encoder::VitH => EncoderConfig::Vit(ImageEncoderVitConfig::vit_h(padding)),
    }
}

/// Where the encoder gets LoRA or adapters: nowhere if only the decoder trains, everywhere by default.
fn encoder_layers(config: &Config, n_layers: usize) -> Result<Vec<usize>> {
    let chosen = &config.finetune.encoder_layers;
    if let Some(layer) = chosen.iter().find(|&&layer| layer >= n_layers) {
        bail!(
            "finetune.encoder_layers names {layer}, but {} has the layers 0 to {}",
            config.model.encoder.name(),
            n_layers - 1
        );
    }
    Ok(match config.finetune.scope {
        Scope::Decoder => Vec::new(),
        Scope::EncoderDecoder if chosen.is_empty() => (0..n_layers).collect(),
        Scope::EncoderDecoder => chosen.clone(),
    })
}

/// ViT-T in MobileSAM's geometry at the input size, but for windows that divide the grid; plain weights.
pub fn student_config(config: &Config) -> SamConfig {
    let encoder = TinyVitConfig {
        activation: config.distill.activation,
        ..TinyVitConfig::mobile_sam(config.input.size).with_dividing_windows()
    };
    SamConfig {
        encoder: EncoderConfig::TinyVit(encoder),
        num_cls: config.num_cls(),
        lora: None,
        adapter: None,
    }
}

/// What a network starts with, and where it computes.
pub struct Start<'a> {
    pub state: State,
    /// For what `state` lacks.
    pub seed: u64,
    pub compute: &'a Compute,
}

impl Model {
    /// Builds the network from what it starts with.
    pub fn build(
        config: SamConfig,
        input: InputRules,
        start: Start<'_>,
        trainable: impl Fn(&str) -> bool + 'static,
    ) -> Result<Self> {
        let compute = start.compute;
        let params = Params::new(start.state, trainable, start.seed).with_compute(compute);
        let sam = Sam::new(&config, &params)?;
        Ok(Self {
            sam,
            config,
            loaded: params.finish(),
            input,
            mode: Mode::Eval,
            device: compute.device.clone(),
        })
    }

    /// The best weights of a run folder, frozen, on the CPU.
    pub fn open(run: &Path) -> Result<Self> {
        Self::open_on(run, &Compute::default())
    }

    /// The same elsewhere.
    pub fn open_on(run: &Path, compute: &Compute) -> Result<Self> {
        let config = Config::read(&run.join("config.toml"))?;
        let file = run.join("sam.json");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}: is this a run folder?", file.display()))?;
        let sam_config: SamConfig = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", file.display()))?;
        let model = Self::build(
            sam_config,
            config.input,
            Start {
                state: run_folder::read_best(run)?,
                seed: 0,
                compute,
            },
            |_| false,
        )?;
        let random = &model.loaded.report.random;
        ensure!(
            random.is_empty(),
            "{} lacks {}",
            run.display(),
            random.join(", ")
        );
        Ok(model)
    }

    /// Where it computes.
    pub fn here(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.to_device(&self.device)?)
    }

    /// Class logits (B, classes, 4 g, 4 g) of prepared images (B, 3, S, S), without prompt.
    pub fn low_res_logits(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.sam.forward_noprompt(&self.here(images)?, mode)?)
    }

    /// The same at the input size.
    pub fn logits(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        resized(&self.low_res_logits(images, mode)?, self.input.size)
    }

    /// Masks (B, tokens, 4 g, 4 g) of prepared images, to be looked at and not to learn from.
    pub fn predicted(&self, images: &Tensor, prompts: Prompts, tokens: Tokens) -> Result<Tensor> {
        let images = self.here(images)?;
        let embedding = self.sam.embed_without_gradient(&images, self.mode)?;
        Ok(self.sam.decode(&embedding, prompts, tokens)?.masks)
    }

    /// Label map at the image's native size.
    pub fn predict(&self, image: &Image) -> Result<LabelMap> {
        let (tensor, placement) = self.prepare(image)?;
        let low_res = self.predicted(&tensor, Prompts::default(), Tokens::Classes)?;
        Ok(placement.labels_from_logits(&to_logits(&low_res)?))
    }

    /// Foreground of the single-mask token prompted with a box in native px.
    pub fn predict_box(
        &self,
        image: &Image,
        prompt: contract::prompt::BoxPrompt,
    ) -> Result<LabelMap> {
        let (tensor, placement) = self.prepare(image)?;
        let (x0, y0) = placement.point_to_frame(prompt.x0, prompt.y0);
        let (x1, y1) = placement.point_to_frame(prompt.x1, prompt.y1);
        let boxes = Tensor::new(&[[[x0, y0, x1, y1]]], &self.device)?;
        let prompts = Prompts {
            boxes: Some(&boxes),
            ..Prompts::default()
        };
        let foreground = self.predicted(&tensor, prompts, Tokens::Single)?;
        let both = Tensor::cat(&[&foreground.zeros_like()?, &foreground], 1)?;
        Ok(placement.labels_from_logits(&to_logits(&both)?))
    }

    fn prepare(&self, image: &Image) -> Result<(Tensor, Placement)> {
        let (chw, placement) = self.input.prepare(image);
        let size = self.input.size;
        Ok((
            Tensor::from_vec(chw, (1, 3, size, size), &Device::Cpu)?,
            placement,
        ))
    }
}

/// (B, C, h, w) to (B, C, size, size), bilinear.
pub fn resized(x: &Tensor, size: usize) -> Result<Tensor> {
    if x.dims()[2..] == [size; 2] {
        return Ok(x.clone());
    }
    Ok(ops::resize_bilinear(x, size, size)?)
}

/// The first image of a (B, classes, h, w) tensor.
pub fn to_logits(tensor: &Tensor) -> Result<Logits> {
    let (_, classes, rows, cols) = tensor.dims4()?;
    let data = tensor.get(0)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(Logits {
        classes,
        rows,
        cols,
        data,
    })
}

/// What of a SAM's parts should be weights and is not floating point, with its type. TinyViT counts and indexes with
/// integers, too.
fn no_weight(left_out: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    let is_weight = |name: &str| {
        PARTS.iter().any(|part| name.contains(part))
            && !name.ends_with(".num_batches_tracked")
            && !name.ends_with(".attention_bias_idxs")
    };
    left_out
        .iter()
        .find(|(name, _)| is_weight(name))
        .map(|(name, kind)| (name.as_str(), kind.as_str()))
}

/// Reads the weights to start from; an empty path means random ones.
pub fn start_state(path: &Path) -> Result<State> {
    if path.as_os_str().is_empty() {
        return Ok(State::new());
    }
    let checkpoint = checkpoint::read_whole(path, None, &Device::Cpu)?;
    if let Some((name, kind)) = no_weight(&checkpoint.left_out) {
        bail!(
            "{}: tensor {name} is {kind}, and a weight has to be floating point: the checkpoint is quantized \
             or was changed; save the network that it was made from",
            path.display()
        );
    }
    Ok(checkpoint.state)
}

/// Official checkpoints have one single-mask and three multi-mask tokens. With other `num_cls` the
/// reference leaves all mask tokens random; we keep the leading ones (and the IoU head's rows).
pub fn fit_mask_tokens(mut state: State, num_cls: usize) -> Result<State> {
    for name in [
        "mask_decoder.mask_tokens.weight",
        "mask_decoder.iou_prediction_head.layers.2.weight",
        "mask_decoder.iou_prediction_head.layers.2.bias",
    ] {
        if let Some(tensor) = state.get(name) {
            let rows = tensor.dim(0)?;
            if rows > num_cls + 1 {
                let fitted = tensor.narrow(0, 0, num_cls + 1)?.contiguous()?;
                state.insert(name.to_owned(), fitted);
            }
        }
    }
    Ok(state)
}

/// Refuses a checkpoint of another encoder: its decoder fits, so that training would begin on an encoder of random
/// weights and say nothing. `found` is whose encoder it is, where that is known.
pub fn ensure_encoder_fits(
    loaded: &Loaded,
    found: Option<Encoder>,
    config: &config::Model,
) -> Result<()> {
    let report = &loaded.report;
    let count = |names: &[String]| {
        let encoder = names.iter().filter(|it| it.starts_with("image_encoder."));
        encoder.count()
    };
    let (fit, random) = (count(&report.loaded), count(&report.random));
    let has_one = fit + count(&report.unused) + count(&report.mismatched) > 0;
    let other = found.is_some_and(|found| found != config.encoder);
    if has_one && (other || fit < random) {
        let whose = found.map_or("an encoder of another kind".to_owned(), |found| {
            format!("the encoder of {}", found.name())
        });
        let choose = found.map_or(
            "`trainer weights inspect` says what it is".to_owned(),
            |it| format!("set model.encoder = {:?}", it.name()),
        );
        bail!(
            "model.checkpoint {} has {whose}, model.encoder is {:?}: {choose}, or name a checkpoint of {}",
            config.checkpoint.display(),
            config.encoder.name(),
            config.encoder.name()
        );
    }
    Ok(())
}

/// Says what of a checkpoint was used; refuses one that fits nothing.
pub fn describe_start(loaded: &Loaded, from: &Path) -> Result<String> {
    let report = &loaded.report;
    if from.as_os_str().is_empty() {
        return Ok("random start weights".to_owned());
    }
    if report.loaded.is_empty() {
        bail!(
            "{}: not one tensor fits this network; is it a SAM checkpoint? `trainer weights inspect {}` says \
             what it holds",
            from.display(),
            from.display()
        );
    }
    Ok(format!(
        "{}: {} tensors loaded, {} start random, {} unused",
        from.display(),
        report.loaded.len(),
        report.random.len(),
        report.unused.len()
    ))
}
