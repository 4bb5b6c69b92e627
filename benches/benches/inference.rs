//! One image through the daemon, stage by stage: decode, preprocess, infer, postprocess, encode; and what each pass
//! of the loader is worth.
//!
//! The bundles are those in `models/zoo`, or in the folder that `SCANSIDE_ZOO` names. The image is a phantom slice of
//! 12 bits in 16, at 256 x 256 px and at the 512 x 512 px of a scanner.

use std::hint::black_box;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::bundle::MANIFEST;
use contract::manifest::Kind;
use contract::mask::Logits;
use contract::{Image, LabelMap};
use criterion::{Criterion, criterion_group, criterion_main};
use image::{ImageBuffer, ImageFormat, Luma};
use phantom::dicom::{Ids, to_bytes};
use phantom::{Heart, Phantom};
use segmenter::Segmenter;
use segmenter::decode::{Limits, Spacing, SpacingFrom, decode};
use segmenter::infer::{Graph, LoadOptions, half_precision, passes};
use segmenter::result::instances;

const SIDES: [usize; 2] = [256, 512];

/// A slice in the middle of the heart, at the end of diastole.
fn slice(side: usize) -> Phantom {
    Heart::new(900_000).slice_sized(3, 9, 0.0, side)
}

fn decoders(criterion: &mut Criterion) {
    for side in SIDES {
        let phantom = slice(side);
        let dicom = to_bytes(&phantom, &Ids::new(&phantom, 1, 1)).expect("phantoms can be written");
        for (format, bytes) in [("dicom", dicom), ("png", png(&phantom.image))] {
            criterion.bench_function(&format!("decode/{format}/{side}"), |bencher| {
                let limits = Limits::STANDARD;
                bencher.iter(|| decode(black_box(&bytes), &limits).expect("phantoms decode"));
            });
        }
    }
}

/// 16 bits a sample.
fn png(image: &Image) -> Vec<u8> {
    let (width, height) = (image.cols as u32, image.rows as u32);
    let samples = image.data.iter().map(|&value| value as u16).collect();
    let buffer = ImageBuffer::<Luma<u16>, Vec<u16>>::from_raw(width, height, samples);
    let mut bytes = Cursor::new(Vec::new());
    buffer
        .expect("a sample a pixel")
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("memory takes it");
    bytes.into_inner()
}

fn stages(criterion: &mut Criterion) {
    for (name, segmenter) in bundles() {
        for side in SIDES {
            around_the_graph(criterion, (&name, &segmenter), side);
        }
        // `Segmenter` times its stages itself: the same figures that the daemon publishes.
        let Phantom { image, .. } = slice(SIDES[0]);
        criterion.bench_function(&format!("infer/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| segmenter.segment(black_box(&image)).expect("runs").1.infer)
                    .sum::<Duration>()
            });
        });
    }
}

fn around_the_graph(criterion: &mut Criterion, (name, segmenter): (&str, &Segmenter), side: usize) {
    let Phantom {
        image,
        labels,
        spacing_mm,
        ..
    } = slice(side);
    let rules = segmenter.manifest().input;
    let (logits, placement) = segmenter.logits(&image).expect("a tested bundle runs");
    criterion.bench_function(&format!("preprocess/{name}/{side}"), |bencher| {
        bencher.iter(|| rules.prepare(black_box(&image)));
    });
    criterion.bench_function(&format!("postprocess/{name}/{side}"), |bencher| {
        bencher.iter(|| placement.labels_from_logits(black_box::<&Logits>(&logits)));
    });
    criterion.bench_function(&format!("encode/{name}/{side}"), |bencher| {
        bencher.iter(|| encode(segmenter, black_box(&labels), spacing_mm));
    });
}

/// Boxes, areas and RLE of the true mask, as JSON.
fn encode(segmenter: &Segmenter, labels: &LabelMap, spacing_mm: [f64; 2]) -> String {
    let found = instances(
        std::slice::from_ref(labels),
        segmenter.manifest(),
        &Spacing::uniform(spacing_mm, SpacingFrom::PixelSpacing, 1),
    );
    serde_json::to_string(&found).expect("instances have JSON types only")
}

/// The graph with all passes, and without each of them: the difference is what it is worth. A pass that others build
/// on takes them with it. And in half precision, where the CPU has it.
fn loader_passes(criterion: &mut Criterion) {
    let image = slice(SIDES[0]).image;
    for (name, segmenter) in bundles() {
        let manifest = segmenter.manifest();
        let Kind::Automatic { graph, .. } = &manifest.kind;
        let path = segmenter.path(graph);
        let (chw, _) = manifest.input.prepare(&image);
        let mut run = |id: String, options: &LoadOptions| {
            let graph = Graph::open_with(&path, manifest, options).expect("it opened before");
            criterion.bench_function(&id, |bencher| {
                bencher.iter(|| graph.run(black_box(&chw)).expect("runs"));
            });
        };
        let all = std::iter::once(None).chain(passes().map(Some));
        for without in all {
            let options = LoadOptions {
                without: without.into_iter().map(String::from).collect(),
                half_precision: false,
            };
            let without = without.unwrap_or("nothing");
            run(format!("graph/{name}/without {without}"), &options);
        }
        if let Some(format) = half_precision() {
            let options = LoadOptions {
                half_precision: true,
                ..LoadOptions::default()
            };
            run(format!("graph/{name}/f32 as {format}"), &options);
        }
    }
}

/// Sorted, so that reports compare.
#[expect(
    clippy::print_stderr,
    reason = "a benchmark that measured nothing must say so"
)]
fn bundles() -> Vec<(String, Segmenter)> {
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
    let open = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let segmenter = Segmenter::open(&path).unwrap_or_else(|error| panic!("{error}"));
        (name.into_owned(), segmenter)
    };
    found.into_iter().map(open).collect()
}

criterion_group!(benches, decoders, stages, loader_passes);
criterion_main!(benches);
