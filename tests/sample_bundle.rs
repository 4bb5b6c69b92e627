//! A small bundle that is right by construction: four-by-four means of the image, thresholded at half
//! of its range, so tests need no trained network.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use contract::bundle::{ClassMask, GOLDEN_IMAGE, GOLDEN_MASK, MANIFEST, file_digest};
use contract::geometry::{Fit, InputRules};
use contract::intensity::{Normalize, Window};
use contract::manifest::{Class, Kind, Output, Precision, Provenance, SCHEMA};
use contract::{LabelMap, Manifest};

pub const SIZE: usize = 64;
const SIDE: usize = SIZE / 4;
const OPSET: i64 = 17;
const GRAPH: &str = "model.onnx";

/// Writes the bundle into an existing directory.
pub fn write(directory: &Path) -> Manifest {
    std::fs::write(directory.join(GRAPH), graph()).unwrap();
    std::fs::write(
        directory.join(GOLDEN_IMAGE),
        golden(image::ImageFormat::Tiff),
    )
    .unwrap();
    let masks = [ClassMask {
        id: 1,
        rle: golden_labels().rle(1),
    }];
    std::fs::write(
        directory.join(GOLDEN_MASK),
        serde_json::to_vec(&masks).unwrap(),
    )
    .unwrap();
    seal(directory)
}

/// Writes `manifest.json` for the files as they lie in `directory` now.
pub fn seal(directory: &Path) -> Manifest {
    let files: BTreeMap<String, String> = [GRAPH, GOLDEN_IMAGE, GOLDEN_MASK]
        .into_iter()
        .map(|name| (name.to_owned(), file_digest(&directory.join(name)).unwrap()))
        .collect();
    let manifest = Manifest {
        schema: SCHEMA.into(),
        name: "bright-band".into(),
        version: "1.0.0".into(),
        counter: 1,
        kind: Kind::Automatic {
            graph: GRAPH.into(),
            input: "image".into(),
            output: "logits".into(),
        },
        classes: vec![Class {
            id: 1,
            label: "bright".into(),
            snomed: None,
            color: [255, 0, 0],
        }],
        input: InputRules {
            size: SIZE,
            fit: Fit::LongestSidePad,
            window: Window::MinMax,
            normalize: Normalize::Unit,
        },
        output: Output { side: SIDE },
        precision: Precision::F32,
        opset: OPSET,
        licence: "Apache-2.0 OR MIT".into(),
        files,
        provenance: Provenance {
            command: "tests/sample_bundle.rs".into(),
            recipe_digest: String::new(),
            data_fingerprint: String::new(),
            teacher: "none".into(),
            dice: BTreeMap::new(),
            code_version: "test".into(),
        },
        digest: String::new(),
    }
    .seal();
    std::fs::write(directory.join(MANIFEST), manifest.to_json()).unwrap();
    manifest
}

/// An 8-bit grey PNG with a bright band across it.
pub fn golden_png() -> Vec<u8> {
    golden(image::ImageFormat::Png)
}

fn golden(format: image::ImageFormat) -> Vec<u8> {
    let pixels: Vec<u8> = golden_labels()
        .data
        .iter()
        .map(|&label| if label == 1 { 200 } else { 20 })
        .collect();
    let image = image::GrayImage::from_raw(SIZE as u32, SIZE as u32, pixels).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The band's edges lie on cell borders of the output grid, where interpolated logits change sign.
pub fn golden_labels() -> LabelMap {
    let mut labels = LabelMap::new(SIZE, SIZE);
    labels.data[16 * SIZE..48 * SIZE].fill(1);
    labels
}

/// `AveragePool` (4 x 4) and a 1 x 1 `Conv` to background and foreground logits.
pub fn graph() -> Vec<u8> {
    let pool = node(
        "AveragePool",
        &["image"],
        "means",
        &[("kernel_shape", 4), ("strides", 4)],
    );
    let conv = node(
        "Conv",
        &["means", "weight", "bias"],
        "logits",
        &[("kernel_shape", 1)],
    );
    let third = 10.0 / 3.0;
    let weight = tensor(
        "weight",
        &[2, 3, 1, 1],
        &[-third, -third, -third, third, third, third],
    );
    let bias = tensor("bias", &[2], &[5.0, -5.0]);
    let graph = [
        message(1, &pool),
        message(1, &conv),
        message(2, b"bright-band"),
        message(5, &weight),
        message(5, &bias),
        message(11, &value_info("image", &[1, 3, SIZE as u64, SIZE as u64])),
        message(12, &value_info("logits", &[1, 2, SIDE as u64, SIDE as u64])),
    ]
    .concat();
    let opset = [message(1, b""), number(2, OPSET as u64)].concat();
    [number(1, 8), message(7, &graph), message(8, &opset)].concat()
}

// Field numbers below are those of onnx.proto3.

fn node(operator: &str, inputs: &[&str], output: &str, squares: &[(&str, u64)]) -> Vec<u8> {
    let mut bytes: Vec<u8> = inputs
        .iter()
        .flat_map(|input| message(1, input.as_bytes()))
        .collect();
    bytes.extend(message(2, output.as_bytes()));
    bytes.extend(message(3, output.as_bytes()));
    bytes.extend(message(4, operator.as_bytes()));
    for &(name, side) in squares {
        let ints = [number(8, side), number(8, side)].concat();
        let attribute = [message(1, name.as_bytes()), ints, number(20, 7)].concat();
        bytes.extend(message(5, &attribute));
    }
    bytes
}

fn tensor(name: &str, shape: &[u64], values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let dims: Vec<u8> = shape.iter().flat_map(|&side| number(1, side)).collect();
    [
        dims,
        number(2, 1),
        message(8, name.as_bytes()),
        message(9, &raw),
    ]
    .concat()
}

fn value_info(name: &str, shape: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = shape
        .iter()
        .flat_map(|&side| message(1, &number(1, side)))
        .collect();
    let tensor_type = [number(1, 1), message(2, &dims)].concat();
    [
        message(1, name.as_bytes()),
        message(2, &message(1, &tensor_type)),
    ]
    .concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn message(field: u64, content: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
