//! Students that start from another one: larger and with another activation, or trained to be int8.

use std::fs;

use super::{distill, done, finetune, mean_loss, phantoms, refused, trainer, with_settings};

#[test]
fn a_student_goes_on_as_a_larger_one_or_learns_to_be_int8() {
    let folder = phantoms();
    let path = folder.path();
    done(finetune(path, "teacher"));
    done(distill(path, "small"));
    let start = ["distill.start=\"small\"", "distill.embedding_epochs=0"];
    let larger = [
        "distill.activation=\"hard_swish\"",
        "input.size=128",
        "distill.mask_epochs=2",
    ];
    let large = || with_settings(with_settings(distill(path, "large"), &start), &larger);
    let said = refused(with_settings(large(), &["distill.start=\"nowhere\""]));
    assert!(
        said.contains("distill.start nowhere") && said.contains("best.safetensors"),
        "{said}"
    );
    let said = done(large());
    assert!(
        said.contains("small: ") && said.contains("0 start random"),
        "{said}"
    );
    let losses = [0, 1].map(|epoch| mean_loss(&path.join("large"), epoch));
    assert!(losses[1] < losses[0], "it learns: {losses:?}");

    let stage = ["distill.mask_epochs=0", "distill.int8_epochs=2"];
    done(with_settings(
        with_settings(distill(path, "aware"), &start),
        &stage,
    ));
    let run = fs::read_to_string(path.join("aware/run.json")).unwrap();
    let run: serde_json::Value = serde_json::from_str(&run).unwrap();
    assert_eq!(run["student_digest"].as_str().map(str::len), Some(64));
    let export = ["export", "--run", "aware", "--out", "bundles"];
    done(with_settings(
        trainer(path, &export),
        &["export.equalize=true"],
    ));
    let record = fs::read_to_string(path.join("bundles/int8/quantization.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let equalized = record["equalized"].as_array().unwrap();
    assert!(
        equalized.contains(&"image_encoder/layers.1/blocks.0/attn/proj".into()),
        "{record}"
    );
    let said = done(trainer(path, &["bundle", "inspect", "bundles/int8"]));
    assert!(said.contains("Dice 1.0000 to the expected mask"), "{said}");
}
