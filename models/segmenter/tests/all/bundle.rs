use std::path::Path;

use contract::Image;
use contract::bundle::{ClassMask, GOLDEN_IMAGE, GOLDEN_MASK, MANIFEST};
use segmenter::decode::{Limits, Spacing, SpacingFrom, decode};
use segmenter::infer::{Probe, alone, half_precision, set_threads};
use segmenter::overlay::overlay_png;
use segmenter::result::{Instance, instances};
use segmenter::{OpenError, OpenOptions, Segmenter};
use tests::sample_bundle;

fn chain(error: &dyn std::error::Error) -> String {
    error.to_string()
}

fn open_error(path: &Path) -> OpenError {
    match Segmenter::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[test]
fn opens_tests_itself_and_finds_the_band() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = sample_bundle::write(directory.path());
    let segmenter = Segmenter::open(directory.path()).unwrap();
    assert_eq!(segmenter.manifest(), &manifest);
    assert_eq!(segmenter.self_test().unwrap().dice, [(1, 1.0)]);

    let scan = decode(&sample_bundle::golden_png(), &Limits::STANDARD).unwrap();
    let (logits, placement) = segmenter.logits(&scan.frames[0]).unwrap();
    assert_eq!(
        (logits.classes, logits.rows, placement.scaled_rows),
        (2, 16, 64)
    );
    let (labels, _) = segmenter.segment(&scan.frames[0]).unwrap();
    assert_eq!(labels, sample_bundle::golden_labels());

    let spacing = Spacing::uniform([0.5, 2.0], SpacingFrom::PixelSpacing, 1);
    let found = instances(std::slice::from_ref(&labels), &manifest, &spacing);
    let expected = Instance {
        id: 1,
        label: "bright".into(),
        frame: 0,
        bbox: [0, 16, 64, 32],
        area_px: 2048,
        area_mm2: Some(2048.0),
        mask: labels.rle(1),
    };
    assert_eq!(found, [expected]);
    let unknown = Spacing::default();
    assert_eq!(instances(&[labels], &manifest, &unknown)[0].area_mm2, None);
}

/// The number of threads holds for the process: no other test sets it.
#[test]
fn two_threads_give_the_bits_of_one() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/cardiac-lv-vit_t-256");
    let segmenter = Segmenter::open(&zoo).unwrap();
    let golden = std::fs::read(segmenter.path(GOLDEN_IMAGE)).unwrap();
    let image = decode(&golden, &Limits::STANDARD).unwrap().frames.remove(0);
    let bits = || -> Vec<u32> {
        let (logits, _) = segmenter.logits(&image).unwrap();
        logits.data.iter().map(|value| value.to_bits()).collect()
    };
    let of_one = bits();
    assert_eq!(set_threads(2).unwrap(), 2);
    assert_eq!(bits(), of_one);
    assert_eq!(alone(bits), of_one);
    assert_eq!(set_threads(3).unwrap(), 2, "what was said first counts");
}

/// The golden pair, which opening tries, allows for what the rounding moves.
#[test]
fn half_precision_is_another_way_to_the_same_mask() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/cardiac-lv-vit_t-256");
    let segmenter = Segmenter::open(&zoo).unwrap();
    let options = OpenOptions {
        half_precision: true,
        ..OpenOptions::default()
    };
    let half = Segmenter::open_with(&zoo, &options).unwrap();
    let golden = std::fs::read(segmenter.path(GOLDEN_IMAGE)).unwrap();
    let image = decode(&golden, &Limits::STANDARD).unwrap().frames.remove(0);
    let [one, two] = [&segmenter, &half].map(|it| it.logits(&image).unwrap().0.data);
    let furthest = one.iter().zip(&two).map(|(a, b)| (a - b).abs());
    let furthest = furthest.fold(0.0, f32::max);
    let top = one.iter().fold(0f32, |top, value| top.max(value.abs()));
    assert_eq!(furthest > 0.0, half_precision().is_some(), "{furthest}");
    assert!(furthest < 0.1 * top, "{furthest} of {top}");
}

#[test]
fn masks_have_the_native_size_of_any_shape() {
    let directory = tempfile::tempdir().unwrap();
    sample_bundle::write(directory.path());
    let segmenter = Segmenter::open(directory.path()).unwrap();
    for (rows, cols, channels) in [(1, 1, 1), (64, 48, 1), (7, 100, 3), (256, 255, 1)] {
        let lower = |row: usize| if row >= rows / 2 { 900.0 } else { -100.0 };
        let data = (0..rows * cols * channels)
            .map(|at| lower(at / (cols * channels)))
            .collect();
        let image = Image {
            rows,
            cols,
            channels,
            data,
        };
        let (labels, _) = segmenter.segment(&image).unwrap();
        assert_eq!((labels.rows, labels.cols), (rows, cols));
        if rows >= 64 {
            let area = labels.area_px(1) as f64 / (rows * cols) as f64;
            assert!((area - 0.5).abs() < 0.02, "{rows} x {cols}: {area}");
        }
    }
}

#[test]
fn a_flipped_byte_is_found_and_its_file_named() {
    for name in [MANIFEST, GOLDEN_IMAGE, GOLDEN_MASK, "model.onnx"] {
        let directory = tempfile::tempdir().unwrap();
        sample_bundle::write(directory.path());
        let path = directory.path().join(name);
        let original = std::fs::read(&path).unwrap();
        for at in (0..original.len()).step_by(original.len().div_ceil(12)) {
            let mut bytes = original.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let error = open_error(directory.path());
            assert_eq!(error.kind(), "bundle_damaged", "{name} byte {at}: {error}");
            assert!(chain(&error).contains(name), "{name} byte {at}: {error}");
        }
    }
}

#[test]
fn a_sealed_bundle_with_a_broken_graph_is_refused() {
    let whole = sample_bundle::graph();
    for length in (0..whole.len()).step_by(7) {
        let directory = tempfile::tempdir().unwrap();
        sample_bundle::write(directory.path());
        std::fs::write(directory.path().join("model.onnx"), &whole[..length]).unwrap();
        sample_bundle::seal(directory.path());
        let error = open_error(directory.path());
        assert_eq!(
            error.kind(),
            "bundle_graph",
            "{length} of {} bytes: {error}",
            whole.len()
        );
        assert!(chain(&error).contains("model.onnx"), "{error}");
    }
}

#[test]
fn a_wrong_golden_mask_fails_the_self_test_with_both_numbers() {
    let directory = tempfile::tempdir().unwrap();
    sample_bundle::write(directory.path());
    let mut labels = sample_bundle::golden_labels();
    labels.data[16 * 64..20 * 64].fill(0);
    let masks = [ClassMask {
        id: 1,
        rle: labels.rle(1),
    }];
    let path = directory.path().join(GOLDEN_MASK);
    std::fs::write(path, serde_json::to_vec(&masks).unwrap()).unwrap();
    sample_bundle::seal(directory.path());
    let error = open_error(directory.path());
    assert_eq!(error.kind(), "bundle_self_test");
    // 2 * 1792 / (2048 + 1792)
    assert!(
        chain(&error).contains("dice 0.9333 (2048 px, 1792 px expected)"),
        "{error}"
    );
}

fn tar_of(directory: &Path, prefix: &str, target: &Path) {
    let mut builder = tar::Builder::new(std::fs::File::create(target).unwrap());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        builder.append_path_with_name(&path, name).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn a_tar_is_as_good_as_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    sample_bundle::write(directory.path());
    let archives = tempfile::tempdir().unwrap();
    for (index, prefix) in ["", "bright-band-1.0.0/"].into_iter().enumerate() {
        let path = archives.path().join(format!("{index}.tar"));
        tar_of(directory.path(), prefix, &path);
        let segmenter = Segmenter::open(&path).unwrap();
        assert_eq!(segmenter.self_test().unwrap().dice, [(1, 1.0)]);
    }
}

#[test]
fn hostile_tars_are_refused() {
    struct Case {
        name: &'static str,
        entries: Vec<(&'static [u8], tar::EntryType)>,
        words: &'static str,
    }
    let file = tar::EntryType::Regular;
    let cases = [
        Case {
            name: "absolute",
            entries: vec![(b"/tmp/x", file)],
            words: "no plain file",
        },
        Case {
            name: "parent",
            entries: vec![(b"a/../../x", file)],
            words: "no plain file",
        },
        Case {
            name: "link",
            entries: vec![(b"x", tar::EntryType::Symlink)],
            words: "no plain file",
        },
        Case {
            name: "hard",
            entries: vec![(b"x", tar::EntryType::Link)],
            words: "no plain file",
        },
        Case {
            name: "fifo",
            entries: vec![(b"x", tar::EntryType::Fifo)],
            words: "no plain file",
        },
        Case {
            name: "twice",
            entries: vec![(b"x", file); 2],
            words: "no plain file",
        },
        Case {
            name: "many",
            entries: vec![(b"d/", tar::EntryType::Directory); 65],
            words: "64",
        },
        Case {
            name: "empty",
            entries: vec![],
            words: MANIFEST,
        },
    ];
    let archives = tempfile::tempdir().unwrap();
    for case in cases {
        let path = archives.path().join(format!("{}.tar", case.name));
        let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for (name, kind) in case.entries {
            let mut header = tar::Header::new_gnu();
            // Past the builder's own checks.
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
        }
        builder.finish().unwrap();
        let error = open_error(&path);
        assert!(chain(&error).contains(case.words), "{}: {error}", case.name);
    }
}

#[test]
fn a_tar_that_claims_too_much_or_ends_early_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("claims.tar");
    let mut header = tar::Header::new_gnu();
    header.set_path("model.onnx").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(3 << 30);
    header.set_cksum();
    std::fs::write(&path, header.as_bytes()).unwrap();
    assert!(chain(&open_error(&path)).contains("more than 2147483648 bytes"));

    let bundle = tempfile::tempdir().unwrap();
    sample_bundle::write(bundle.path());
    tar_of(bundle.path(), "", &path);
    let bytes = std::fs::read(&path).unwrap();
    for length in (0..bytes.len() - 1024).step_by(700) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = open_error(&path);
        assert!(
            matches!(error.kind(), "bundle_unpack" | "bundle_damaged"),
            "{length}: {error}"
        );
    }
}

#[test]
fn a_probe_gives_inner_tensors_by_name() {
    let names = ["means".to_owned(), "logits".to_owned()];
    let probe = Probe::open(&sample_bundle::graph(), 64, &names).unwrap();
    let arrays = probe.run(&vec![0.25; 3 * 64 * 64]).unwrap();
    assert_eq!(
        (arrays[0].name.as_str(), arrays[0].shape.as_slice()),
        ("means", &[1, 3, 16, 16][..])
    );
    assert!(arrays[0].data.iter().all(|mean| (mean - 0.25).abs() < 1e-6));
    // 10 * 0.25 - 5
    assert!(
        arrays[1].data[256..]
            .iter()
            .all(|logit| (logit + 2.5).abs() < 1e-5)
    );
    assert_eq!(probe.run(&[0.0; 3]).unwrap_err().kind(), "input_length");
    let missing = Probe::open(&sample_bundle::graph(), 64, &["nothing".to_owned()]);
    assert_eq!(missing.err().unwrap().kind(), "graph_broken");
}

#[test]
fn an_overlay_fills_at_forty_percent_and_draws_the_contour() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = sample_bundle::write(directory.path());
    let scan = decode(&sample_bundle::golden_png(), &Limits::STANDARD).unwrap();
    let labels = sample_bundle::golden_labels();
    let png = overlay_png(&scan.frames[0], &labels, &manifest.classes);
    let picture = image::load_from_memory(&png).unwrap().to_rgb8();
    assert_eq!(picture.get_pixel(5, 2).0, [0, 0, 0]);
    assert_eq!(picture.get_pixel(5, 16).0, [255, 0, 0]);
    assert_eq!(picture.get_pixel(5, 24).0, [255, 153, 153]);
}
