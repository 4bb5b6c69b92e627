//! Files of public reports whose pixels came out wrong or not at all, beside their plain twins.

use std::path::Path;

use segmenter::decode::{Limits, Scan, decode};

const REPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/reports");

fn are_here() -> bool {
    let here = Path::new(REPORTS).exists();
    assert!(
        here || std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
        "{REPORTS} is missing"
    );
    if !here {
        println!("SKIPPED: {REPORTS} is not there");
    }
    here
}

fn scan(name: &str) -> Scan {
    let bytes = std::fs::read(Path::new(REPORTS).join(name)).unwrap();
    decode(&bytes, &Limits::STANDARD).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn lossless_streams_and_separate_planes_equal_their_plain_twins() {
    if !are_here() {
        return;
    }
    for (name, twin) in [
        ("r01_lossless_restart_16_rows.dcm", "r00_plain.dcm"),
        ("r01_lossless_restart_1_rows.dcm", "r00_plain.dcm"),
        (
            "r01_lossless_point_transform_1.dcm",
            "r01_lossless_point_transform_1_plain.dcm",
        ),
        ("r16_rgb_planar.tif", "r16_rgb_plain.tif"),
    ] {
        let (found, expected) = (scan(name), scan(twin));
        assert!(
            found.frames == expected.frames,
            "{name} differs from {twin}"
        );
    }
}

#[test]
fn encapsulated_pixels_under_a_native_syntax_are_called_that() {
    if !are_here() {
        return;
    }
    let bytes =
        std::fs::read(Path::new(REPORTS).join("r15_encapsulated_says_explicit.dcm")).unwrap();
    let error = decode(&bytes, &Limits::STANDARD).unwrap_err();
    assert_eq!(error.kind(), "bad_attribute");
    assert!(error.to_string().contains("TransferSyntaxUID"), "{error}");
    assert!(error.to_string().contains("encapsulated"), "{error}");
}
