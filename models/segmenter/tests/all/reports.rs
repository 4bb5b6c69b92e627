//! Files of public reports beside the project, masks by the bundle of the zoo: reports/README.md has the right values.

use std::path::{Path, PathBuf};

use segmenter::Segmenter;
use segmenter::decode::{Limits, decode, source};

use crate::pile::shared;

fn report(folder: &Path, name: &str) -> Vec<u8> {
    let path = folder.join(format!("{name}.dcm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn reports() -> Option<PathBuf> {
    shared("reports")
}

#[test]
fn masks_of_reported_headers_are_those_of_their_plain_twins() {
    let Some(folder) = reports() else { return };
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/cardiac-lv-vit_t-256");
    let segmenter = Segmenter::open(&zoo).unwrap();
    for (name, expected) in [
        ("r00_plain", vec![651]),
        ("r02_rescale_plain", vec![651]),
        ("r02_rescale_un", vec![651]),
        ("r02_identity_un", vec![651]),
        ("r02_modality_un", vec![651]),
        ("r03_enhanced_plain", vec![671, 509, 384]),
        ("r03_enhanced_groups_un", vec![671, 509, 384]),
        ("r04_private_un_undefined", vec![651]),
        ("r13_512_zeros_after_pixels", vec![651]),
        ("r14_fd_of_six_bytes", vec![651]),
        ("r14_odd_length_ow", vec![650]),
        ("r14_odd_length_ob", vec![650]),
        ("r15_says_explicit_is_implicit", vec![651]),
        ("r15_private_without_vr", vec![651]),
    ] {
        let scan = decode(&report(&folder, name), &Limits::STANDARD)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let masks = scan.frames.iter().map(|frame| {
            let (labels, _) = segmenter.segment(frame).unwrap();
            labels.area_px(1)
        });
        assert_eq!(masks.collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(scan.spacing.common(), Some([1.5, 1.5]), "{name}");
        assert_eq!(scan.modality.as_deref(), Some("MR"), "{name}");
    }
}

#[test]
fn sizes_stored_as_un_are_sizes() {
    let Some(folder) = reports() else { return };
    let scan = decode(&report(&folder, "r02_size_256_un"), &Limits::STANDARD).unwrap();
    assert_eq!((scan.frames[0].rows, scan.frames[0].cols), (256, 256));
}

#[test]
fn who_and_where_an_image_is_comes_out_of_un_and_of_every_character_set() {
    let Some(folder) = reports() else { return };
    let read = |name: &str| {
        let source = source::read(&report(&folder, name), &Limits::STANDARD);
        source.unwrap().unwrap()
    };
    let copied = |name: &str, tag: u32| {
        let source = read(name);
        let value = source.copied.into_iter().find(|copied| copied.0 == tag);
        value.map(|copied| copied.1).unwrap()
    };
    assert_eq!(copied("r02_identity_un", 0x0010_0020), "T-0302");
    for (name, expected) in [
        ("r02_identity_un", "Test^Unknown"),
        ("r06_name_japanese", "Yamada^Tarou=山田^太郎"),
        ("r06_name_korean", "Hong^Gildong=洪^吉洞"),
        ("r06_name_chinese", "Zhang^XiaoDong=张^小东"),
    ] {
        assert_eq!(copied(name, 0x0010_0010), expected);
        let doubts = source::doubts(&report(&folder, name), &Limits::STANDARD);
        assert!(doubts.is_empty(), "{name}");
    }
    let planes = read("r03_enhanced_groups_un").planes;
    let depths: Vec<f64> = planes
        .iter()
        .map(|plane| source::numbers(&plane.position).unwrap()[2])
        .collect();
    assert_eq!(depths, [0.0, 8.0, 16.0]);
}
