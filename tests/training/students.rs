//! A student that starts from another one: larger, with another activation, and trained to be int8.

use std::fs;

use super::{distill, done, finetune, mean_loss, phantoms, refused, trainer, with_settings};

#[test]
fn a_student_goes_on_as_a_larger_one_and_learns_to_be_int8() {
    let folder = phantoms();
    let path = folder.path();
    done(with_settings(
        finetune(path, "teacher"),
        &["finetune.epochs=1"],
    ));
    done(with_settings(
        distill(path, "small"),
        &["distill.mask_epochs=1"],
    ));
    let settings = [
        "distill.start=\"small\"",
        "distill.activation=\"hard_swish\"",
        "distill.embedding_epochs=0",
        "distill.mask_epochs=1",
        "distill.int8_epochs=2",
        "input.size=128",
    ];
    let large = || with_settings(distill(path, "large"), &settings);
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
    let losses = [0, 2].map(|epoch| mean_loss(&path.join("large"), epoch));
    assert!(losses[1] < losses[0], "it learns: {losses:?}");
    let run = fs::read_to_string(path.join("large/run.json")).unwrap();
    assert!(run.contains("student_digest"), "{run}");

    let export = ["export", "--run", "large", "--out", "bundles"];
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
