//! The networks that are really exported, at full size with random weights: candle, tract and ONNX
//! Runtime must agree on them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use contract::geometry::{Fit, InputRules};
use contract::intensity::{Normalize, Window};
use contract::manifest::Class;
use nets::ops::Activation;
use nets::sam::SamConfig;
use nets::tiny_vit::{Stem, TinyVitConfig};
use phantom::Heart;
use segmenter::Segmenter;

use super::*;
use crate::cli::BundleCommand;
use crate::config;
use crate::dataset::LabelRule;
use crate::onnx::testing::{self, network, random_state};
use crate::quantize;

/// Random weights leave no margin at a mask's edge. Measured: 0.984 between tract and ONNX Runtime, and
/// as much between ONNX Runtime with and without its own optimizations; 0.998 for a fine-tuned LiteMedSAM.
const RANDOM_MASK_DICE: &str = "0.97";

fn phantoms(n: u64) -> Vec<Image> {
    (0..n)
        .map(|seed| Heart::new(seed).slice(3, 9, 0.0).image)
        .collect()
}

fn full_size(encoder: TinyVitConfig) -> SamConfig {
    let encoder = EncoderConfig::TinyVit(encoder);
    SamConfig {
        encoder,
        num_cls: 2,
        lora: None,
        adapter: None,
    }
}

/// Exports a randomly filled network to `out`.
fn exported(config: &SamConfig, out: &Path) -> Report {
    let class = |id: usize| Class {
        id: id as u8,
        label: format!("class {id}"),
        snomed: None,
        color: [230, 60, 60],
    };
    let classes: Vec<Class> = (1..config.num_cls).map(class).collect();
    let state = random_state(config);
    let images = phantoms(3);
    export(&Request {
        state: &state,
        activation: Activation::Gelu,
        input: InputRules {
            size: config.encoder.img_size(),
            fit: Fit::LongestSidePad,
            window: Window::Percentile {
                low: 0.5,
                high: 99.5,
            },
            normalize: Normalize::MinMax,
        },
        classes: &classes,
        recipe: &config::Export {
            name: "random".into(),
            version: "0.1.0".into(),
            counter: 1,
            licence: "CC0".into(),
            calibration_images: 2,
            calibration: quantize::Calibration::MeanSquare,
            equalize: false,
            keep_f32: Vec::new(),
            agreement: 0.0,
        },
        provenance: Provenance {
            command: "test".into(),
            recipe_digest: String::new(),
            data_fingerprint: String::new(),
            teacher: String::new(),
            dice: BTreeMap::new(),
            code_version: "0".into(),
        },
        calibration: &images[..2],
        validation: &images[2..],
        reference: &|chw| Ok(network(config, state.clone(), chw)),
        out,
    })
    .unwrap()
}

/// `SCANSIDE_KEEP` leaves the bundles behind for a look.
fn folder() -> tempfile::TempDir {
    let keep = std::env::var_os("SCANSIDE_KEEP").is_some();
    tempfile::Builder::new()
        .prefix("scanside-export-")
        .disable_cleanup(keep)
        .tempdir()
        .unwrap()
}

/// Python with onnx and onnxruntime, or none.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("SCANSIDE_PYTHON").map(PathBuf::from);
    if python.is_none() {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
            "SCANSIDE_REQUIRE_PEERS is set: set SCANSIDE_PYTHON to a python with onnxruntime"
        );
        eprintln!(
            "SKIPPED: ONNX Runtime (set SCANSIDE_PYTHON to a python with onnx and onnxruntime)"
        );
    }
    python
}

fn onnx_runtime_agrees(python: &Path, bundle: &Path, folder: &Path) {
    let images: Vec<PathBuf> = phantoms(6)
        .iter()
        .enumerate()
        .map(|(number, image)| {
            let path = folder.join(format!("{number}.png"));
            let data: Vec<u16> = image.data.iter().map(|&value| value as u16).collect();
            let (cols, rows) = (image.cols as u32, image.rows as u32);
            let buffer = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(cols, rows, data);
            buffer.unwrap().save(&path).unwrap();
            path
        })
        .collect();
    let out = folder.join("dump");
    bundle::command::run(&BundleCommand::Dump {
        bundle: bundle.to_owned(),
        out: out.clone(),
        images,
    })
    .unwrap();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/peers/onnx_runtime.py"
    );
    let status = Command::new(python)
        .arg(script)
        .args([bundle, &out])
        .arg(RANDOM_MASK_DICE)
        .status()
        .unwrap();
    assert!(status.success(), "{}: {status}", bundle.display());
}

#[test]
fn the_student_agrees_in_candle_tract_and_onnx_runtime() {
    let folder = folder();
    let report = exported(&full_size(TinyVitConfig::mobile_sam(256)), folder.path());
    assert!(report.parity > 0.0, "compared with itself");
    assert!(report.int8_bytes * 10 < report.f32_bytes * 3, "{report}");
    let manifest = Segmenter::open(&report.int8).unwrap().manifest().clone();
    assert_eq!(manifest.output.side, 64);
    if let Some(python) = python() {
        for bundle in [&report.f32, &report.int8] {
            let scratch = tempfile::tempdir().unwrap();
            onnx_runtime_agrees(&python, bundle, scratch.path());
        }
    }
}

/// LiteMedSAM's geometry: embedding 64 x 64, logits 256 x 256.
#[test]
fn the_teacher_exports_too() {
    let folder = folder();
    let report = exported(&full_size(TinyVitConfig::lite_medsam()), folder.path());
    let manifest = Segmenter::open(&report.f32).unwrap().manifest().clone();
    assert_eq!(manifest.output.side, 256);
}

#[test]
fn both_manifests_hold_the_dice_of_both() {
    let folder = folder();
    let report = exported(
        &testing::config(Stem::Stride4),
        &folder.path().join("bundles"),
    );
    let mut csv = "image,labels,patient,split\n".to_owned();
    for (number, split) in ["train", "validation", "test"].into_iter().enumerate() {
        let slice = Heart::new(number as u64).slice(3, 9, 0.0);
        let grey: Vec<u8> = slice
            .image
            .data
            .iter()
            .map(|value| (value / 16.0) as u8)
            .collect();
        let labels: Vec<u8> = slice.structures.data.iter().map(|&id| id % 3).collect();
        for (kind, data) in [("image", &grey), ("label", &labels)] {
            let path = folder.path().join(format!("{kind}{number}.png"));
            let (cols, rows) = (slice.image.cols as u32, slice.image.rows as u32);
            image::save_buffer(path, data, cols, rows, image::ColorType::L8).unwrap();
        }
        writeln!(csv, "image{number}.png,label{number}.png,{number},{split}").unwrap();
    }
    let list = folder.path().join("list.csv");
    std::fs::write(&list, csv).unwrap();
    let dataset = Dataset::read(&list).unwrap();
    let bundles = [
        ("f32", report.f32.as_path()),
        ("int8", report.int8.as_path()),
    ];
    let table = dice::record(&dataset, LabelRule::Classes { n: 2 }, &bundles).unwrap();
    assert_eq!(table.len(), 8, "{table:?}");
    for (_, path) in bundles {
        let manifest = Segmenter::open(path).unwrap().manifest().clone();
        assert_eq!(manifest.provenance.dice, table);
    }
}
