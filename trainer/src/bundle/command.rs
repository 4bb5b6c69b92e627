//! `trainer bundle`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use contract::Image;
use contract::bundle::GOLDEN_IMAGE;
use segmenter::Segmenter;
use segmenter::decode::{Limits, decode};
use segmenter::infer::{passes, set_threads};

use super::sign;
use crate::cli::BundleCommand;
use crate::report;

pub fn run(command: &BundleCommand) -> Result<()> {
    match command {
        BundleCommand::Inspect { bundle } => inspect(bundle),
        BundleCommand::Pack { bundle, out } => super::pack(bundle, out),
        BundleCommand::Keygen { key, no_password } => sign::keygen(key, *no_password),
        BundleCommand::Sign {
            bundle,
            key,
            counter,
            version,
        } => {
            let release = sign::Release {
                counter: *counter,
                version: version.as_deref(),
            };
            sign::sign(bundle, key, &release)
        }
        BundleCommand::Profile {
            bundle,
            runs,
            nodes,
            threads,
            without,
            half_precision,
        } => {
            set_threads(*threads)?;
            let segmenter = super::open(bundle, *half_precision)?;
            profile(&segmenter, (usize::from(*runs), *nodes), without)
        }
        BundleCommand::Dump {
            bundle,
            out,
            images,
        } => dump(bundle, out, images),
    }
}

fn inspect(path: &Path) -> Result<()> {
    let segmenter = Segmenter::open(path)?;
    report::say(segmenter.manifest().to_json().trim_end());
    let test = segmenter.self_test()?;
    for (class, dice) in &test.dice {
        report::say(&format!(
            "golden: class {class}, Dice {dice:.4} to the expected mask"
        ));
    }
    report::say(&format!(
        "golden: inference {} ms",
        test.timing.infer.as_millis()
    ));
    Ok(())
}

fn profile(
    segmenter: &Segmenter,
    (runs, by_node): (usize, bool),
    without: &[String],
) -> Result<()> {
    if let Some(unknown) = without.iter().find(|it| passes().all(|name| name != *it)) {
        let known: Vec<&str> = passes().collect();
        bail!("--without {unknown}: the passes are {}", known.join(", "));
    }
    let profile = segmenter.profile(runs, by_node, without)?;
    let ms = |time: std::time::Duration| 1000.0 * time.as_secs_f64();
    let wide = profile.operators.iter().map(|it| it.name.len()).max();
    let wide = wide.unwrap_or_default();
    report::say(&format!(
        "{:<wide$} nodes      ms   million multiplications   a nanosecond",
        "operator"
    ));
    for it in &profile.operators {
        let work = it.multiplications as f64;
        let work = if work > 0.0 {
            format!("{:25.1}   {:12.1}", work / 1e6, work / (1e6 * ms(it.least)))
        } else {
            String::new()
        };
        report::say(&format!(
            "{:<wide$} {:5} {:7.2} {work}",
            it.name,
            it.nodes,
            ms(it.least)
        ));
    }
    let middle = profile.runs[profile.runs.len() / 2];
    report::say(&format!(
        "whole runs: {:.1} ms at least, {:.1} ms in the middle of {runs}",
        ms(profile.runs[0]),
        ms(middle)
    ));
    Ok(())
}

/// `tests/peers/onnx_runtime.py` reads what this writes.
fn dump(path: &Path, out: &Path, images: &[PathBuf]) -> Result<()> {
    let segmenter = Segmenter::open(path)?;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let golden = [segmenter.path(GOLDEN_IMAGE)];
    for (number, file) in (if images.is_empty() { &golden } else { images })
        .iter()
        .enumerate()
    {
        let image = read(file)?;
        let (input, _) = segmenter.manifest().input.prepare(&image);
        let (logits, _) = segmenter.logits(&image)?;
        for (kind, values) in [("input", &input), ("logits", &logits.data)] {
            let target = out.join(format!("{number}.{kind}.f32"));
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            fs::write(&target, bytes)
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

/// The first frame of an image file.
fn read(file: &Path) -> Result<Image> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scan = decode(&bytes, &Limits::STANDARD)
        .with_context(|| format!("cannot decode {}", file.display()))?;
    scan.frames
        .into_iter()
        .next()
        .with_context(|| format!("{} has no frame", file.display()))
}
