//! A trained SAM to two bundles, f32 and int8, with proof that both say what the network says.

mod compare;
mod dice;
mod int8;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use candle_core::{Device, Tensor};
use contract::Image;
use contract::geometry::Placement;
use contract::manifest::{Precision, Provenance};
use nets::sam::EncoderConfig;
use nets::{Mode, lora};
use segmenter::infer::Probe;

use self::compare::open;
pub use self::request::Request;
use crate::bundle::{self, BundleSpec, write_bundle};
use crate::cli::ExportArgs;
use crate::config::Config;
use crate::dataset::{Dataset, Sample, Split};
use crate::model::{HEAD_DIM, Model};
use crate::onnx::{self, lower_automatic};
use crate::quantize::Layer;
use crate::report;
use crate::run_folder::{self, Identity, RunKind};

/// Largest difference between a logit of candle and of tract that is rounding.
const PARITY: f32 = 1e-3;

/// What an export wrote and how well the parts agree.
#[derive(Debug)]
pub struct Report {
    pub f32: PathBuf,
    pub int8: PathBuf,
    pub f32_bytes: usize,
    pub int8_bytes: usize,
    pub layers: Vec<Layer>,
    /// Layers that stay f32 because int8 there moved the masks, with the error that each made alone.
    pub kept_f32: Vec<(String, f32)>,
    /// Largest difference of a logit, network against f32 graph.
    pub parity: f32,
    /// Foreground Dice of the int8 against the f32 graph's masks, pixels of all images together.
    pub agreement: Option<f64>,
    /// The lowest of a single image.
    pub worst_agreement: Option<f64>,
    pub n_images: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for layer in &self.layers {
            writeln!(f, "{layer}")?;
        }
        for (name, error) in &self.kept_f32 {
            writeln!(
                f,
                "{name:<40} f32: alone it moves the logits by {:.2}%",
                100.0 * error
            )?;
        }
        let percent = |dice: Option<f64>| {
            dice.map_or("nothing found".to_owned(), |dice| {
                format!("{:.2} %", 100.0 * dice)
            })
        };
        writeln!(
            f,
            "f32   {:>10} bytes  {}",
            self.f32_bytes,
            self.f32.display()
        )?;
        writeln!(
            f,
            "int8  {:>10} bytes  {}",
            self.int8_bytes,
            self.int8.display()
        )?;
        writeln!(
            f,
            "network against f32 graph: logits differ by at most {:.2e}",
            self.parity
        )?;
        write!(
            f,
            "f32 against int8 masks on {} images: Dice {}, worst image {}",
            self.n_images,
            percent(self.agreement),
            percent(self.worst_agreement)
        )
    }
}

/// `trainer export`.
pub fn run(args: &ExportArgs) -> Result<()> {
    let recipe = args.run.join("config.toml");
    let recorded = Config::read(&recipe)?.digest();
    for text in &args.overrides {
        ensure!(
            text.trim_start().starts_with("export."),
            "--set {text}: the run is done, only keys of [export] can still be set"
        );
    }
    let config = Config::resolve(Some(&recipe), &args.overrides)?;
    let model = Model::open(&args.run)?;
    let EncoderConfig::TinyVit(encoder) = &model.config.encoder else {
        bail!(
            "{} is a plain ViT, and bundles hold a ViT-T: distil it first (`trainer distill --set \
         distill.teacher={0:?}`) and export the student",
            args.run.display()
        );
    };
    let identity = run_folder::read_identity(&args.run)?;
    let mut state = run_folder::read_best(&args.run)?;
    if let Some(lora) = &model.config.lora {
        state = lora::merge(state, lora.rows, HEAD_DIM)?;
    }
    let dataset = measured_data(&config, &identity)?;
    let calibration = images(
        &dataset,
        Split::Train,
        &config,
        config.export.calibration_images,
    )?;
    let validation = images(&dataset, Split::Validation, &config, usize::MAX)?;
    let size = config.input.size;
    let reference = |chw: &[f32]| {
        let image = Tensor::from_slice(chw, (1, 3, size, size), &Device::Cpu)?;
        Ok(model
            .low_res_logits(&image, Mode::Eval)?
            .flatten_all()?
            .to_vec1::<f32>()?)
    };
    let exported = export(&Request {
        state: &state,
        activation: encoder.activation,
        input: config.input,
        classes: &config.data.classes,
        recipe: &config.export,
        provenance: provenance(identity, recorded),
        calibration: &calibration,
        validation: if validation.is_empty() {
            &calibration
        } else {
            &validation
        },
        reference: &reference,
        out: &args.out,
    })?;
    report::say(&exported.to_string());
    let bundles = [
        ("f32", exported.f32.as_path()),
        ("int8", exported.int8.as_path()),
    ];
    for (row, dice) in dice::record(&dataset, config.data.target, &bundles)? {
        report::say(&format!("Dice {dice:.4} {row}"));
    }
    Ok(())
}

fn provenance(identity: Identity, recipe_digest: String) -> Provenance {
    Provenance {
        command: report::command_line(),
        recipe_digest,
        teacher: identity.teacher(),
        data_fingerprint: identity.data_fingerprint,
        dice: BTreeMap::new(),
        code_version: identity.code_version,
    }
}

/// The lists as they were in training: after another split the figures would be of patients that the
/// network has seen.
fn measured_data(config: &Config, identity: &Identity) -> Result<Dataset> {
    let mut lists = config.data.lists.clone();
    if identity.kind == RunKind::Student {
        lists.extend(config.data.distill_lists.clone());
    }
    let all = Dataset::read_many(&lists)?;
    ensure!(
        all.fingerprint == identity.data_fingerprint,
        "the images, labels or splits of {lists:?} changed since the run began: restore them, or \
         train again"
    );
    Dataset::read_many(&config.data.lists)
}

/// At most `limit` images of a split, spread evenly over it.
fn images(dataset: &Dataset, split: Split, config: &Config, limit: usize) -> Result<Vec<Image>> {
    let entries = dataset.of(split);
    let count = entries.len().min(limit);
    (0..count)
        .map(|i| {
            let sample: Sample =
                dataset.load(entries[i * entries.len() / count], &config.data.target)?;
            Ok(sample.image)
        })
        .collect()
}

/// Lowers, checks against the network, calibrates, quantizes, and writes both bundles.
pub fn export(request: &Request<'_>) -> Result<Report> {
    let lowered = lower_automatic(request.state, request.activation, request.input.size)?;
    ensure!(
        lowered.classes == request.classes.len() + 1,
        "the network has {} classes with background, the recipe lists {} besides it",
        lowered.classes,
        request.classes.len()
    );
    ensure!(
        !request.validation.is_empty(),
        "no images to compare the graphs on"
    );
    let f32_graph = onnx::serialize(&lowered.model);
    let probe = open(&f32_graph, request.input.size)?;
    let frames: Vec<(Vec<f32>, Placement)> = request
        .validation
        .iter()
        .map(|image| request.input.prepare(image))
        .collect();
    let parity = parity(&probe, &frames[0].0, request.reference)?;

    let calibration: Vec<Vec<f32>> = request
        .calibration
        .iter()
        .map(|image| request.input.prepare(image).0)
        .collect();
    let quantized = int8::quantized(request, &lowered.model, &calibration, (&probe, &frames))?;
    let (int8_graph, compared) = (&quantized.graph, &quantized.compared);

    let golden = &request.validation[compared.golden];
    let paths = ["f32", "int8"].map(|name| request.out.join(name));
    let graphs = [(Precision::F32, &f32_graph), (Precision::Int8, int8_graph)];
    let record = quantized.record(request.recipe.calibration)?;
    for (path, (precision, graph)) in paths.iter().zip(graphs) {
        let mut spec = spec(request, lowered.side, precision, (graph, golden));
        if precision == Precision::Int8 {
            spec.quantization = Some(record.clone());
        }
        write_bundle(path, &spec)?;
    }
    let [f32, int8] = paths;
    Ok(Report {
        f32,
        int8,
        f32_bytes: f32_graph.len(),
        int8_bytes: int8_graph.len(),
        parity,
        agreement: compared.pooled.dice(),
        worst_agreement: compared.worst,
        n_images: frames.len(),
        layers: quantized.layers,
        kept_f32: quantized.kept,
    })
}

fn spec(
    request: &Request<'_>,
    side: usize,
    precision: Precision,
    (graph, golden): (&[u8], &Image),
) -> BundleSpec {
    BundleSpec {
        name: request.recipe.name.clone(),
        version: request.recipe.version.clone(),
        counter: request.recipe.counter,
        licence: request.recipe.licence.clone(),
        classes: request.classes.to_vec(),
        input: request.input,
        side,
        precision,
        provenance: request.provenance.clone(),
        onnx: graph.to_vec(),
        golden: golden.clone(),
        quantization: None,
    }
}

fn parity(
    probe: &Probe,
    chw: &[f32],
    reference: &dyn Fn(&[f32]) -> Result<Vec<f32>>,
) -> Result<f32> {
    let found = bundle::logits(probe, chw)?.data;
    let expected = reference(chw)?;
    ensure!(
        found.len() == expected.len(),
        "the graph gives {} logits, the network {}",
        found.len(),
        expected.len()
    );
    let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    // NaN must not pass: fold with max would drop it.
    let worst = differences.fold(0f32, |worst, x| if x <= worst { worst } else { x });
    ensure!(
        worst <= PARITY,
        "the exported graph and the network differ by {worst} in a logit (at most {PARITY} is \
         rounding): the export is wrong, please report it with the run's sam.json"
    );
    Ok(worst)
}
