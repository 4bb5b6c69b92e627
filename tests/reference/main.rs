//! Every number in the fixtures, at the tolerance stated there. The folder comes from
//! `SCANSIDE_FIXTURES` (default `../shared/fixtures`); nothing below knows a fixture by name, so
//! other seeds and sizes pass too.
#![expect(clippy::unwrap_used, reason = "a test may fail by unwrapping")]

mod decoders;
mod encoders;
mod fixture;
mod full_size;
mod losses;
mod pixels;
mod training;
mod vit;

use fixture::{Fixture, Folder};

#[test]
fn fixtures() {
    let Some(folder) = Folder::open() else { return };
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for name in folder.names() {
        let mut fixture = folder.fixture(&name);
        let run: fn(&mut Fixture) = match fixture.kind().as_str() {
            "tiny_vit" => encoders::tiny_vit,
            "tiny_vit_blocks" => encoders::tiny_vit_blocks,
            "lite_medsam" => encoders::lite_medsam,
            "prompt_encoder" => decoders::prompt_encoder,
            "mask_decoder" => decoders::mask_decoder,
            "losses" => losses::losses,
            "distillation" => losses::distillation,
            "preprocessing" => pixels::preprocessing,
            "prompts_from_mask" => pixels::prompts_from_mask,
            "image_encoder_vit" => vit::image_encoder_vit,
            "sam" => vit::sam,
            "training" => training::training,
            other => panic!("fixture {name} is of the unknown kind {other}"),
        };
        if fixture.kind() == "lite_medsam" && !encoders::lite_medsam_weights().exists() {
            let words =
                format!("SKIPPED: {name}, weights missing (SCANSIDE_LITE_MEDSAM names them)");
            assert!(
                std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
                "{words}"
            );
            println!("{words}");
            continue;
        }
        run(&mut fixture);
        match fixture.verdict() {
            Ok(n_outputs) => passed.push(format!("{name} ({n_outputs})")),
            Err(failure) => failed.push(failure),
        }
    }
    println!("passed {}: {}", passed.len(), passed.join(", "));
    assert!(
        failed.is_empty(),
        "failed {}:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(
        !passed.is_empty(),
        "the folder holds no fixture that can be checked"
    );
}

/// Names, shapes and what trains of the real ViT-B and ViT-T in six ways each.
#[test]
fn inventory() {
    let Some(folder) = Folder::open() else { return };
    let n_modes = full_size::inventory(&folder.json("param_inventory.json"));
    assert!(n_modes > 0, "the inventory is empty");
}

/// Whole ViT-T and ViT-B at 1024 px, three ways each.
#[test]
fn full_size_forward() {
    let rows: serde_json::Value =
        serde_json::from_str(include_str!("../golden/full_size_forward.json")).unwrap();
    for row in rows.as_array().unwrap() {
        full_size::forward(row);
        println!("as the reference: {} {}", row["encoder"], row["method"]);
    }
}

/// Upstream's SAM with windows padded after the norm; `tests/peers/upstream_sam.py` made the numbers.
#[test]
fn stock_vit_b_forward() {
    stock_forward("vit_b");
}

/// The same of ViT-H: 8 GB and minutes, so only with `SCANSIDE_LONG=1`.
#[test]
fn stock_vit_h_forward() {
    if std::env::var_os("SCANSIDE_LONG").is_none() {
        println!("SKIPPED: ViT-H takes 8 GB and minutes (SCANSIDE_LONG=1 runs it)");
        return;
    }
    stock_forward("vit_h");
}

fn stock_forward(encoder: &str) {
    let rows: serde_json::Value =
        serde_json::from_str(include_str!("../golden/stock_forward.json")).unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    full_size::stock_forward(rows.find(|row| row["encoder"] == encoder).unwrap());
}
