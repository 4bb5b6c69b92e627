//! One image through the daemon, stage by stage: decode, preprocess, infer, postprocess, encode.
//!
//! The bundles are those in `models/zoo`, or in the folder that `SCANSIDE_ZOO` names. The image is a phantom
//! slice as DICOM, 256 x 256 px of 16 bits.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::bundle::MANIFEST;
use contract::mask::Logits;
use contract::{Image, LabelMap};
use criterion::{Criterion, criterion_group, criterion_main};
use phantom::dicom::{Ids, to_bytes};
use phantom::{Heart, Phantom};
use segmenter::Segmenter;
use segmenter::decode::{Limits, decode};
use segmenter::result::instances;

/// A slice in the middle of the heart, at the end of diastole.
fn slice() -> Phantom {
    Heart::new(900_000).slice(3, 9, 0.0)
}

fn decode_dicom(criterion: &mut Criterion) {
    let phantom = slice();
    let bytes = to_bytes(&phantom, &Ids::new(&phantom, 1, 1)).expect("phantoms can be written");
    criterion.bench_function("decode/dicom", |bencher| {
        bencher.iter(|| decode(black_box(&bytes), &Limits::STANDARD).expect("phantoms decode"));
    });
}

fn stages(criterion: &mut Criterion) {
    let Phantom {
        image,
        labels,
        spacing_mm,
        ..
    } = slice();
    for path in bundles() {
        let segmenter = Segmenter::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into());
        bundle_stages(criterion, (&name, &segmenter), &image);
        criterion.bench_function(&format!("encode/{name}"), |bencher| {
            bencher.iter(|| encode(&segmenter, black_box(&labels), spacing_mm));
        });
    }
}

fn bundle_stages(criterion: &mut Criterion, (name, segmenter): (&str, &Segmenter), image: &Image) {
    let rules = segmenter.manifest().input;
    let (logits, placement) = segmenter.logits(image).expect("a tested bundle runs");
    criterion.bench_function(&format!("preprocess/{name}"), |bencher| {
        bencher.iter(|| rules.prepare(black_box(image)));
    });
    // `Segmenter` times its stages itself: the same figures that the daemon publishes.
    criterion.bench_function(&format!("infer/{name}"), |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| segmenter.segment(black_box(image)).expect("runs").1.infer)
                .sum::<Duration>()
        });
    });
    criterion.bench_function(&format!("postprocess/{name}"), |bencher| {
        bencher.iter(|| placement.labels_from_logits(black_box::<&Logits>(&logits)));
    });
}

/// Boxes, areas and RLE of the true mask, as JSON.
fn encode(segmenter: &Segmenter, labels: &LabelMap, spacing_mm: [f64; 2]) -> String {
    let found = instances(
        std::slice::from_ref(labels),
        segmenter.manifest(),
        Some(spacing_mm),
    );
    serde_json::to_string(&found).expect("instances have JSON types only")
}

/// Sorted, so that reports compare.
#[expect(
    clippy::print_stderr,
    reason = "a benchmark that measured nothing must say so"
)]
fn bundles() -> Vec<PathBuf> {
    let zoo = std::env::var_os("SCANSIDE_ZOO").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo"),
        PathBuf::from,
    );
    let mut found: Vec<PathBuf> = std::fs::read_dir(&zoo)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(MANIFEST).is_file())
        .collect();
    found.sort();
    if found.is_empty() {
        eprintln!(
            "no bundle in {}: only decode is measured; set SCANSIDE_ZOO to a folder of bundles",
            zoo.display()
        );
    }
    found
}

criterion_group!(benches, decode_dicom, stages);
criterion_main!(benches);
