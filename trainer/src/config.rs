//! What a run is: `config/train.toml` holds every default, a recipe the differences, `--set` the rest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use contract::geometry::InputRules;
use contract::manifest::{self, Class};
use nets::ops::Activation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::augment::Augmentation;
use crate::dataset::LabelRule;
use crate::quantize::Calibration;

const DEFAULTS: &str = include_str!("../../config/train.toml");

/// The resolved configuration; written into every run folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub seed: u64,
    /// Reproduce the reference, defects included; of the augmentation only `enabled` counts then.
    pub strict_reference: bool,
    pub compute: Compute,
    pub data: Data,
    pub input: InputRules,
    pub augmentation: Augmentation,
    pub model: Model,
    pub finetune: Finetune,
    pub distill: Distill,
    pub export: Export,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compute {
    pub device: Device,
    pub precision: Precision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    F32,
    Bf16,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub lists: Vec<PathBuf>,
    pub distill_lists: Vec<PathBuf>,
    pub target: LabelRule,
    pub classes: Vec<Class>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub encoder: Encoder,
    pub checkpoint: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Encoder {
    LiteMedsam,
    VitT,
    VitB,
    VitL,
    VitH,
}

impl Encoder {
    /// Side of the input that its published weights were trained with, px.
    pub fn own_size(self) -> usize {
        match self {
            Self::LiteMedsam => 256,
            Self::VitT | Self::VitB | Self::VitL | Self::VitH => 1024,
        }
    }

    /// Whether it takes inputs of other sizes: the others have position embeddings.
    pub fn any_size(self) -> bool {
        self == Self::VitT
    }

    /// As in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::LiteMedsam => "lite_medsam",
            Self::VitT => "vit_t",
            Self::VitB => "vit_b",
            Self::VitL => "vit_l",
            Self::VitH => "vit_h",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Decoder,
    EncoderDecoder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Vanilla,
    Adapter,
    Lora,
}

impl From<Scope> for nets::sam::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Decoder => Self::Decoder,
            Scope::EncoderDecoder => Self::EncoderDecoder,
        }
    }
}

impl From<Method> for nets::sam::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Vanilla => Self::Vanilla,
            Method::Adapter => Self::Adapter,
            Method::Lora => Self::Lora,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finetune {
    pub scope: Scope,
    pub method: Method,
    pub rank: usize,
    pub encoder_layers: Vec<usize>,
    pub gradient_checkpointing: bool,
    pub decoder_adapter_depth: usize,
    pub epochs: u64,
    pub batch: usize,
    pub accumulate: usize,
    pub learning_rate: f64,
    pub warmup_steps: u64,
    pub weight_decay: f64,
    pub clip_norm: f64,
    pub ema: f64,
    pub patience_epochs: u64,
    pub validate_every_epochs: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    pub teacher: PathBuf,
    pub start: PathBuf,
    pub views: usize,
    pub activation: Activation,
    pub embedding_epochs: u64,
    pub mask_epochs: u64,
    pub int8_epochs: u64,
    pub batch: usize,
    pub embedding_learning_rate: f64,
    pub mask_learning_rate: f64,
    pub int8_learning_rate: f64,
    pub warmup_steps: u64,
    pub weight_decay: f64,
    pub clip_norm: f64,
    pub ema: f64,
    pub embedding_weight: f64,
    pub teacher_weight: f64,
    pub batch_norm_frozen_epochs: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    pub name: String,
    pub version: String,
    pub counter: u64,
    pub licence: String,
    pub calibration_images: usize,
    pub calibration: Calibration,
    pub equalize: bool,
    pub keep_f32: Vec<String>,
    pub agreement: f64,
}

impl Config {
    /// The defaults, then `recipe`, then `key.path=value` overrides (values in TOML syntax).
    pub fn resolve(recipe: Option<&Path>, overrides: &[String]) -> Result<Self> {
        let mut table: toml::Table = DEFAULTS
            .parse()
            .context("config/train.toml in the binary")?;
        if let Some(path) = recipe {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read recipe {}", path.display()))?;
            let delta: toml::Table = text
                .parse()
                .with_context(|| format!("{} is not TOML", path.display()))?;
            merge(&mut table, delta, "").with_context(|| format!("in {}", path.display()))?;
        }
        for text in overrides {
            let delta: toml::Table = text.parse().with_context(|| {
                format!("--set {text}: write key.path=value in TOML syntax, strings in quotes")
            })?;
            merge(&mut table, delta, "").with_context(|| format!("in --set {text}"))?;
        }
        let mut config: Self = toml::Value::Table(table)
            .try_into()
            .context("invalid configuration")?;
        if config.input.size == 0 {
            config.input.size = config.model.encoder.own_size();
        }
        config.validate()?;
        Ok(config)
    }

    /// Reads the configuration that a run folder was made with; keys that came later have their defaults.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: is this a run folder?", path.display()))?;
        let parse = || -> Result<Self> {
            let mut table: toml::Table = DEFAULTS.parse()?;
            merge(&mut table, text.parse()?, "")?;
            Ok(toml::Value::Table(table).try_into()?)
        };
        parse().with_context(|| format!("{} is damaged", path.display()))
    }

    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("the configuration has TOML types only")
    }

    /// Hex SHA-256 of the resolved configuration.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_toml()))
    }

    /// Classes of the network's output, background included.
    pub fn num_cls(&self) -> usize {
        self.data.classes.len() + 1
    }

    fn validate(&self) -> Result<()> {
        manifest::validate_input(&self.input)?;
        manifest::validate_classes(&self.data.classes).context("in data")?;
        let wanted = match self.data.target {
            LabelRule::Binary { .. } | LabelRule::Combine => 1,
            LabelRule::Classes { n } => usize::from(n),
        };
        let listed = self.data.classes.len();
        if listed != wanted {
            bail!("data.classes lists {listed} classes, data.target makes {wanted}");
        }
        let augmentation = &self.augmentation;
        for (key, [low, high]) in [
            ("augmentation.scale", augmentation.scale),
            ("augmentation.gamma", augmentation.gamma),
        ] {
            if !(0.0 < low && low <= high) {
                bail!("{key} is [{low}, {high}]: the lower end must be above 0 and come first");
            }
        }
        for (key, share) in [
            ("augmentation.equalize", f64::from(augmentation.equalize)),
            (
                "augmentation.saturation",
                f64::from(augmentation.saturation),
            ),
            ("augmentation.hue", f64::from(augmentation.hue)),
            ("finetune.ema", self.finetune.ema),
            ("distill.ema", self.distill.ema),
            ("distill.teacher_weight", self.distill.teacher_weight),
            ("export.agreement", self.export.agreement),
        ] {
            if !(0.0..=1.0).contains(&share) {
                bail!("{key} is {share}: it must be from 0 to 1");
            }
        }
        for (key, value) in [
            ("finetune.batch", self.finetune.batch),
            ("finetune.accumulate", self.finetune.accumulate),
            ("distill.batch", self.distill.batch),
            ("distill.views", self.distill.views),
        ] {
            if value == 0 {
                bail!("{key} is 0: it must be at least 1");
            }
        }
        Ok(())
    }
}

/// Lays `delta` over `base`; a key that `base` lacks is an error, so defaults are the list of keys.
fn merge(base: &mut toml::Table, delta: toml::Table, prefix: &str) -> Result<()> {
    for (key, value) in delta {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        let Some(old) = base.get_mut(&key) else {
            let known: Vec<&str> = base.keys().map(String::as_str).collect();
            bail!("unknown key {path}: known here are {}", known.join(", "));
        };
        match (old, value) {
            // `target` and `window` are one-of values: their tables replace each other.
            (toml::Value::Table(old), toml::Value::Table(new))
                if !matches!(key.as_str(), "target" | "window") =>
            {
                merge(old, new, &path)?;
            }
            (old, new) => *old = new,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_resolve_and_survive_a_round_trip() {
        let config = Config::resolve(None, &[]).unwrap();
        let again: Config = toml::from_str(&config.to_toml()).unwrap();
        assert_eq!(again.digest(), config.digest());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_neighbours() {
        let error = Config::resolve(None, &["finetune.epoch=3".into()]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("unknown key finetune.epoch"), "{text}");
        assert!(text.contains("epochs"), "{text}");
    }

    #[test]
    fn overrides_win() {
        let config = Config::resolve(
            None,
            &["finetune.epochs=3".into(), "finetune.rank=8".into()],
        )
        .unwrap();
        assert_eq!((config.finetune.epochs, config.finetune.rank), (3, 8));
    }

    #[test]
    fn values_that_would_fail_later_are_refused() {
        for (setting, words) in [
            ("input.size=100", "multiple of 64"),
            ("input.window={percentile={low=99.0,high=1.0}}", "window"),
            ("data.classes=[{id=2,label=\"a\",color=[1,2,3]}]", "1, 2, 3"),
            ("augmentation.gamma=[0.0,1.0]", "augmentation.gamma"),
            ("distill.teacher_weight=1.5", "distill.teacher_weight"),
        ] {
            let error = Config::resolve(None, &[setting.into()]).unwrap_err();
            assert!(format!("{error:#}").contains(words), "{setting}: {error:#}");
        }
    }

    #[test]
    fn classes_must_match_the_target() {
        let error = Config::resolve(None, &["data.target={classes={n=3}}".into()]).unwrap_err();
        assert!(error.to_string().contains("lists 1 classes"), "{error}");
    }
}
