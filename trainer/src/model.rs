//! A SAM with its configuration: built from a checkpoint to train, or opened from a run folder to judge.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use contract::geometry::{InputRules, Placement};
use contract::mask::Logits;
use contract::{Image, LabelMap};
use nets::adapter::AdapterConfig;
use nets::lora::{LoraConfig, LoraRows};
use nets::params::{Loaded, Params};
use nets::sam::{EncoderConfig, Sam, SamConfig};
use nets::tiny_vit::TinyVitConfig;
use nets::{Mode, checkpoint, ops};

use crate::config::{Config, Encoder, Method, Scope};
use crate::run_folder::{self, State};

/// Channels a head in every published TinyViT.
pub const HEAD_DIM: usize = 32;

pub struct Model {
    pub sam: Sam,
    pub config: SamConfig,
    pub loaded: Loaded,
    pub input: InputRules,
}

/// What a fine-tuning recipe makes of the network.
pub fn teacher_config(config: &Config) -> SamConfig {
    let encoder = match config.model.encoder {
        Encoder::LiteMedsam => TinyVitConfig::lite_medsam(),
        Encoder::VitT => TinyVitConfig::mobile_sam(config.input.size),
    };
    let whole = config.finetune.scope == Scope::EncoderDecoder;
    let stages = if whole { vec![0, 1, 2] } else { Vec::new() };
    SamConfig {
        encoder: EncoderConfig::TinyVit(encoder),
        num_cls: config.num_cls(),
        lora: (config.finetune.method == Method::Lora).then(|| LoraConfig {
            rank: config.finetune.rank,
            encoder_stages: stages.clone(),
            decoder: true,
            rows: LoraRows::PerHead,
        }),
        adapter: (config.finetune.method == Method::Adapter).then_some(AdapterConfig {
            encoder_stages: stages,
            decoder_depth: config.finetune.decoder_adapter_depth,
        }),
    }
}

/// ViT-T in MobileSAM's geometry at the input size, plain weights.
pub fn student_config(config: &Config) -> SamConfig {
    SamConfig {
        encoder: EncoderConfig::TinyVit(TinyVitConfig::mobile_sam(config.input.size)),
        num_cls: config.num_cls(),
        lora: None,
        adapter: None,
    }
}

impl Model {
    /// Builds the network from `state`; what `state` lacks starts from `seed`.
    pub fn build(
        config: SamConfig,
        input: InputRules,
        state: State,
        trainable: impl Fn(&str) -> bool + 'static,
        seed: u64,
    ) -> Result<Self> {
        let state = fit_mask_tokens(state, config.num_cls)?;
        let params = Params::new(state, trainable, seed);
        let sam = Sam::new(&config, &params)?;
        Ok(Self {
            sam,
            config,
            loaded: params.finish(),
            input,
        })
    }

    /// The best weights of a run folder, frozen.
    pub fn open(run: &Path) -> Result<Self> {
        let config = Config::read(&run.join("config.toml"))?;
        let file = run.join("sam.json");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}: is this a run folder?", file.display()))?;
        let sam_config: SamConfig = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", file.display()))?;
        let model = Self::build(
            sam_config,
            config.input,
            run_folder::read_best(run)?,
            |_| false,
            0,
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

    /// Class logits (B, classes, 4 g, 4 g) of prepared images (B, 3, S, S), without prompt.
    pub fn low_res_logits(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.sam.forward_noprompt(images, mode)?)
    }

    /// The same, enlarged to the input size where the decoder's grid is coarser.
    pub fn logits(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.at_input_size(&self.low_res_logits(images, mode)?)
    }

    pub fn at_input_size(&self, low_res: &Tensor) -> Result<Tensor> {
        let size = self.input.size;
        if low_res.dim(3)? == size {
            return Ok(low_res.clone());
        }
        Ok(ops::resize_bilinear(low_res, size, size)?)
    }

    /// Label map at the image's native size.
    pub fn predict(&self, image: &Image) -> Result<LabelMap> {
        let (tensor, placement) = self.prepare(image)?;
        let low_res = self.low_res_logits(&tensor, Mode::Eval)?;
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
        let boxes = Tensor::new(&[[[x0, y0, x1, y1]]], &Device::Cpu)?;
        let foreground = self.sam.forward_boxes(&tensor, &boxes, Mode::Eval)?;
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

/// Reads the weights to start from; an empty path means random ones.
pub fn start_state(path: &Path) -> Result<State> {
    if path.as_os_str().is_empty() {
        return Ok(State::new());
    }
    Ok(checkpoint::read(path, &Device::Cpu)?)
}

/// Official checkpoints have one single-mask and three multi-mask tokens. With other `num_cls` the
/// reference leaves all mask tokens random; we keep the leading ones (and the IoU head's rows).
fn fit_mask_tokens(mut state: State, num_cls: usize) -> Result<State> {
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

/// Says what of a checkpoint was used; refuses one that fits nothing.
pub fn describe_start(loaded: &Loaded, from: &Path) -> Result<String> {
    let report = &loaded.report;
    if from.as_os_str().is_empty() {
        return Ok("random start weights".to_owned());
    }
    if report.loaded.is_empty() {
        bail!(
            "{}: not one tensor fits this network; is it a SAM checkpoint?",
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
