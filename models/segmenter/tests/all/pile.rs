//! Real files beside the project: 172 objects of many vendors and 15 transfer syntaxes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use contract::Image;
use segmenter::decode::{Limits, decode};
use sha2::{Digest, Sha256};

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");

pub(crate) fn shared(folder: &str) -> Option<PathBuf> {
    let path = Path::new(SHARED).join(folder);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
        "{} is missing",
        path.display()
    );
    println!("SKIPPED: {} is not there", path.display());
    None
}

/// The manifest's rows as column -> value. Fields may be quoted.
fn manifest(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(fields);
    let names = lines.next().unwrap();
    lines
        .map(|values| names.iter().cloned().zip(values).collect())
        .collect()
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(letter),
        }
    }
    fields
}

/// Why a good file is not decoded: its codec exists in C++ only, or nowhere.
fn known_gap(row: &BTreeMap<String, String>) -> Option<&'static str> {
    match row["ts_uid"].as_str() {
        "1.2.840.10008.1.2.4.80" | "1.2.840.10008.1.2.4.81" if cfg!(not(feature = "jpeg-ls")) => {
            Some("unsupported_transfer_syntax")
        }
        // Segmented palettes.
        _ if row["file"].contains("US-ALOKA-16") => Some("unsupported"),
        _ => None,
    }
}

/// What has pixels and is no image of a patient.
fn is_no_image(row: &BTreeMap<String, String>) -> bool {
    matches!(&*row["modality"], "SEG" | "RTDOSE") || row["file"].contains("parametric_map")
}

/// Pixel Padding Value (0028,0120), in either order of bytes: padded pixels get another value.
fn has_padding(bytes: &[u8]) -> bool {
    let tags = [[0x28, 0, 0x20, 1], [0, 0x28, 1, 0x20]];
    // It stands in front of the pixels, which may have the same bytes.
    let head = &bytes[..bytes.len().min(16 * 1024)];
    head.windows(4)
        .any(|tag| tags.iter().any(|known| known == tag))
}

/// Named lossless by its transfer syntax, but its stream is a baseline JPEG, which decoders round
/// each in its own way.
const LOSSY_IN_DISGUISE: &str = "good/dcmjs__sample-op.dcm";

/// Slope and intercept between pydicom's pixel array, which has stored values, and ours; none where
/// the pixels are inverted, coloured, looked up or lossy.
fn rescale(row: &BTreeMap<String, String>) -> Option<(f32, f32)> {
    let lossy = ["4.50", "4.51", "4.91", "4.203"]
        .iter()
        .any(|end| row["ts_uid"].ends_with(end));
    let plain = matches!(row["photometric"].as_str(), "MONOCHROME2" | "RGB");
    if lossy || !plain || row["modlut"] == "True" || row["file"] == LOSSY_IN_DISGUISE {
        return None;
    }
    let number = |name: &str, absent| row[name].parse().unwrap_or(absent);
    Some((number("slope", 1.0), number("intercept", 0.0)))
}

/// An enhanced object keeps its rescale in the Pixel Value Transformation Sequence (0028,9145).
fn rescales_in_a_functional_group(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|tag| tag == [0x28, 0, 0x45, 0x91])
}

/// The first half of the SHA-256 of stored values in the layout of a numpy type.
fn digest(frames: &[Image], dtype: &str, (slope, intercept): (f32, f32)) -> Option<String> {
    let values = frames
        .iter()
        .flat_map(|frame| &frame.data)
        .map(|value| (value - intercept) / slope);
    let whole = values.clone().map(|value| value.round() as i32);
    let bytes: Vec<u8> = match dtype {
        "uint8" => whole.map(|value| value as u8).collect(),
        "uint16" | "int16" => whole.flat_map(|v| (v as u16).to_le_bytes()).collect(),
        ">u2" | ">i2" => whole.flat_map(|v| (v as u16).to_be_bytes()).collect(),
        "float32" => values.flat_map(f32::to_le_bytes).collect(),
        // f32 does not hold all values of 32 bits.
        _ => return None,
    };
    Some(hex::encode(Sha256::digest(bytes))[..32].to_owned())
}

#[test]
fn good_files_decode_with_their_shape_and_pixels() {
    let Some(pile) = shared("dicom_pile") else {
        return;
    };
    let (mut wrong, mut decoded, mut equal, mut gaps) = (Vec::new(), 0, 0, 0);
    let (mut jpeg_ls, mut no_images) = (0, 0);
    for row in manifest(&pile.join("manifest.csv")) {
        let name = &row["file"];
        if !name.starts_with("good/") {
            continue;
        }
        let bytes = std::fs::read(pile.join(name)).unwrap();
        let result = decode(&bytes, &Limits::STANDARD);
        if is_no_image(&row) {
            no_images += 1;
            match result {
                Err(error) if error.kind() == "no_patient_image" => {}
                _ => wrong.push(format!("{name} is no image of a patient")),
            }
            continue;
        }
        match (result, known_gap(&row)) {
            (Err(error), Some(kind)) if error.kind() == kind => gaps += 1,
            (Err(error), _) => wrong.push(format!("{name} ({}): {error}", row["ts"])),
            (Ok(scan), _) => {
                decoded += 1;
                let first = &scan.frames[0];
                let frames = row["frames"].parse().unwrap_or(1usize).max(1);
                let found = (first.rows, first.cols, scan.frames.len());
                let expected = (
                    row["rows"].parse().unwrap(),
                    row["cols"].parse().unwrap(),
                    frames,
                );
                if found != expected {
                    wrong.push(format!("{name}: {found:?} instead of {expected:?}"));
                } else if let Some(rescale) = rescale(&row)
                    && !rescales_in_a_functional_group(&bytes)
                    && !has_padding(&bytes)
                    && let Some(found) = digest(&scan.frames, &row["pydicom_dtype"], rescale)
                {
                    if found == row["pixels_sha256_32"] {
                        equal += 1;
                        jpeg_ls += usize::from(row["ts"].starts_with("JPEG-LS"));
                    } else {
                        wrong.push(format!(
                            "{name}: other pixels, {found} ({} {} bits {}/{} {})",
                            row["ts"],
                            row["photometric"],
                            row["stored"],
                            row["alloc"],
                            row["pydicom_dtype"]
                        ));
                    }
                }
            }
        }
    }
    println!(
        "{decoded} decoded, {equal} of them equal pydicom's pixels, {jpeg_ls} of these are JPEG-LS; \
         {gaps} need a C++ codec, {no_images} are no images of a patient"
    );
    #[cfg(feature = "jpeg-ls")]
    assert!(jpeg_ls > 10, "{jpeg_ls} JPEG-LS files are equal");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(
        decoded > 100 && equal > 40 && no_images > 10,
        "{decoded} decoded, {equal} equal, {no_images} no images"
    );
}

#[test]
fn odd_files_give_an_error_or_an_image() {
    let Some(pile) = shared("dicom_pile") else {
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(pile.join("odd")).unwrap() {
        let path = entry.unwrap().path();
        seen += 1;
        match decode(&std::fs::read(&path).unwrap(), &Limits::STANDARD) {
            Ok(scan) => println!("{}: {} frames", path.display(), scan.frames.len()),
            Err(error) => {
                println!("{}: {}: {error}", path.display(), error.kind());
                assert_ne!(error.kind(), "decoder_panicked", "{}", path.display());
            }
        }
    }
    assert!(seen > 10, "{seen} files");
}

#[test]
fn truncated_files_give_an_error_at_every_kibibyte() {
    let Some(pile) = shared("dicom_pile") else {
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(pile.join("good")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if bytes.len() > 40_000 {
            continue;
        }
        seen += 1;
        for length in (1..bytes.len()).step_by(1024) {
            if let Err(error) = decode(&bytes[..length], &Limits::STANDARD) {
                assert_ne!(error.kind(), "decoder_panicked", "{length}: {error}");
            }
        }
    }
    assert!(seen > 10, "{seen} files");
}

#[test]
fn live_series_decode() {
    let Some(live) = shared("dicom_live") else {
        return;
    };
    let mut folders = vec![live];
    let mut decoded = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            match decode(&std::fs::read(&path).unwrap(), &Limits::STANDARD) {
                Ok(scan) => {
                    decoded += 1;
                    assert!(scan.modality.is_some(), "{}", path.display());
                }
                // Directory objects and notes lie beside the images.
                Err(error) => assert!(
                    matches!(error.kind(), "no_pixel_data" | "not_an_image"),
                    "{}: {error}",
                    path.display()
                ),
            }
        }
    }
    println!("{decoded} decoded");
    assert!(decoded > 100, "{decoded} decoded");
}
