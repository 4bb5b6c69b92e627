//! Dice and IoU of a run folder (candle), a bundle (tract, the daemon's path) or a checkpoint with boxes.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use contract::LabelMap;
use contract::prompt::tight_box;
use nets::params::Compute;
use nets::sam::{EncoderConfig, SamConfig};
use nets::tiny_vit::TinyVitConfig;
use segmenter::Segmenter;

use crate::bundle;
use crate::cli::{EvalArgs, SplitArg};
use crate::config::Config;
use crate::dataset::{Dataset, Entry, LabelRule, Sample, Split};
use crate::evaluate::{Report, evaluate};
use crate::model::{Model, Start, start_state};
use crate::report;

/// What makes label maps.
enum Subject {
    Run(Box<Model>),
    Bundle(Box<Segmenter>),
    /// A promptable checkpoint and the margin of its boxes, px.
    Boxes(Box<Model>, f32),
}

pub fn run(args: &EvalArgs) -> Result<()> {
    let dataset = Dataset::read_many(&args.list)?;
    let (subject, rule, num_cls) = open(args)?;
    let entries: Vec<&Entry> = match args.split {
        SplitArg::All => dataset.entries.iter().collect(),
        SplitArg::Train => dataset.of(Split::Train),
        SplitArg::Validation => dataset.of(Split::Validation),
        SplitArg::Test => dataset.of(Split::Test),
    };
    ensure!(
        !entries.is_empty(),
        "the lists have no {:?} images",
        args.split
    );
    let samples: Vec<Sample> = entries
        .iter()
        .map(|entry| dataset.load(entry, &rule))
        .collect::<Result<_>>()?;
    // A wrong label rule would otherwise read as a network that finds nothing.
    ensure!(
        samples
            .iter()
            .any(|sample| sample.labels.data.iter().any(|&label| label > 0)),
        "no image has a foreground pixel with the target {rule}: the label files hold the grey values \
         {:?}; name one with --class, or take all with --combine",
        dataset.classes
    );
    if let Some(folder) = &args.masks {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let measured: Report = evaluate(&samples, num_cls, |sample| {
        let labels = subject.predict(sample)?;
        if let Some(folder) = &args.masks {
            write_mask(folder, sample, &labels)?;
        }
        Ok(labels)
    })?;
    report::say(&measured.to_string());
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&measured)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn open(args: &EvalArgs) -> Result<(Subject, LabelRule, usize)> {
    let path = &args.subject;
    let binary = if args.combine {
        LabelRule::Combine
    } else {
        LabelRule::Binary { class: args.class }
    };
    if let Some(margin) = args.boxes {
        let config = SamConfig {
            encoder: EncoderConfig::TinyVit(TinyVitConfig::lite_medsam()),
            num_cls: 3,
            lora: None,
            adapter: None,
        };
        for text in &args.overrides {
            ensure!(
                text.trim_start().starts_with("input."),
                "--set {text}: a checkpoint is measured with the keys of [input] alone"
            );
        }
        let input = Config::resolve(None, &args.overrides)?.input;
        let start = Start {
            state: start_state(path)?,
            seed: 0,
            compute: &Compute::default(),
        };
        let model = Model::build(config, input, start, |_| false)?;
        let random = &model.loaded.report.random;
        ensure!(
            random.is_empty(),
            "{} is no LiteMedSAM: it lacks {}",
            path.display(),
            random[0]
        );
        return Ok((Subject::Boxes(Box::new(model), margin), binary, 2));
    }
    if path.join("run.json").exists() {
        let config = Config::read(&path.join("config.toml"))?;
        ensure!(
            !args.half_precision,
            "--half-precision is for bundles; {} is a run",
            path.display()
        );
        let model = Model::open(path)?;
        return Ok((
            Subject::Run(Box::new(model)),
            config.data.target,
            config.num_cls(),
        ));
    }
    if path.is_file() && path.extension().is_none_or(|it| it != "tar") {
        bail!(
            "{} is a file: give a run folder, a bundle, or --boxes",
            path.display()
        );
    }
    let segmenter = bundle::open(path, args.half_precision)?;
    let n_classes = segmenter.manifest().classes.len();
    let rule = if n_classes == 1 {
        binary
    } else {
        LabelRule::Classes { n: n_classes as u8 }
    };
    Ok((Subject::Bundle(Box::new(segmenter)), rule, n_classes + 1))
}

impl Subject {
    fn predict(&self, sample: &Sample) -> Result<LabelMap> {
        match self {
            Self::Run(model) => model.predict(&sample.image),
            Self::Bundle(segmenter) => Ok(segmenter.segment(&sample.image)?.0),
            Self::Boxes(model, margin) => match tight_box(&sample.labels, *margin) {
                Some(prompt) => model.predict_box(&sample.image, prompt),
                None => Ok(LabelMap::new(sample.image.rows, sample.image.cols)),
            },
        }
    }
}

/// Grey value = class id.
fn write_mask(folder: &Path, sample: &Sample, labels: &LabelMap) -> Result<()> {
    let name = sample.name.replace(['/', '\\', '#'], "_");
    let path = folder.join(format!("{name}.png"));
    image::save_buffer(
        &path,
        &labels.data,
        labels.cols as u32,
        labels.rows as u32,
        image::ColorType::L8,
    )
    .with_context(|| format!("cannot write {}", path.display()))
}
