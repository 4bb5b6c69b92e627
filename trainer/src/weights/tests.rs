//! Commands on small checkpoints, which `describe` and `fit` use too.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use tempfile::TempDir;

use super::*;

/// Zeros of these shapes.
pub(super) fn state(tensors: &[(&str, &[usize])]) -> State {
    tensors
        .iter()
        .map(|&(name, dims)| {
            let zeros = Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
            (name.to_owned(), zeros)
        })
        .collect()
}

/// As much of a ViT as tells which one it is.
pub(super) fn vit(channels: usize, depth: usize) -> State {
    let mut found = state(&[("image_encoder.pos_embed", &[1, 2, 2, channels])]);
    for i in 0..depth {
        let name = format!("image_encoder.blocks.{i}.norm1.weight");
        found.extend(state(&[(&name, &[channels])]));
    }
    found
}

const QKV: &str = "image_encoder.layers.1.blocks.0.attn.qkv";

/// One attention of a TinyViT with two heads of 32 channels, whose weight is 0 and whose update is 1 on q
/// and 2 on v.
fn updated() -> State {
    let value = |value: f32, dims: &[usize]| Tensor::full(value, dims, &Device::Cpu).unwrap();
    [
        ("qkv.weight", value(0.0, &[192, 64])),
        ("qkv.bias", value(0.0, &[192])),
        ("linear_a_q.weight", value(1.0, &[1, 64])),
        ("linear_b_q.weight", value(1.0, &[64, 1])),
        ("linear_a_v.weight", value(1.0, &[1, 64])),
        ("linear_b_v.weight", value(2.0, &[64, 1])),
    ]
    .map(|(name, tensor)| (format!("{QKV}.{name}"), tensor))
    .into()
}

/// First column of the merged weight at some rows.
fn at(path: &Path, rows: [usize; 4]) -> [u8; 4] {
    let merged = checkpoint::read(path, &Device::Cpu).unwrap();
    let names: Vec<&String> = merged.keys().collect();
    assert_eq!(names, [&format!("{QKV}.bias"), &format!("{QKV}.weight")]);
    let weight = merged[&format!("{QKV}.weight")].to_vec2::<f32>().unwrap();
    rows.map(|row| weight[row][0] as u8)
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn save(&self, name: &str, state: &State) -> PathBuf {
        let path = self.path(name);
        checkpoint::write(&path, state, &HashMap::new()).unwrap();
        path
    }
}

fn all_of(file: &Path) -> WeightsSource {
    WeightsSource {
        file: file.to_owned(),
        key: None,
    }
}

fn text<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("this should fail"),
        Err(error) => format!("{error:#}"),
    }
}

fn has(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
}

#[test]
fn inspect_names_what_fits_and_what_does_not() {
    let folder = Folder::new();
    let mut found = vit(768, 12);
    found.extend(state(&[
        (
            "image_encoder.blocks.3.Space_Adapter.D_fc1.weight",
            &[192, 768],
        ),
        (
            "image_encoder.blocks.3.Depth_Adapter.D_fc1.weight",
            &[192, 768],
        ),
        ("mask_decoder.mask_tokens.weight", &[4, 256]),
        (
            "mask_decoder.output_hypernetworks_mlps.3.layers.0.bias",
            &[256],
        ),
        ("mask_decoder.surprise", &[1]),
    ]));
    let path = folder.save("vit.safetensors", &found);
    let text = inspect(&all_of(&path), None, Some(2)).unwrap();
    has(
        &text,
        &[
            "vit.safetensors: safetensors, 18 floating-point tensors",
            "network     vit_b: plain ViT",
            "fine-tuned  adapters in the encoder's layer 3",
            "classes     3: SAM's own heads in a published file",
            "as vit_b with 2 classes",
            // 12 norms, the adapter's one tensor, the mask tokens.
            "14 tensors fit, of 4 mask tokens the first 3",
            "would start random\n    image_encoder (",
            "more\n    mask_decoder (",
            "image_encoder.pos_embed [1, 2, 2, 768] in the file, [1, 64, 64, 768] here",
            "3 are unused",
            "Depth_Adapter, unused on purpose",
            "heads beyond 2 classes (1)",
            "mask_decoder (1):\n      mask_decoder.surprise",
        ],
    );
    // 12 names at most, and a line that counts the rest.
    let encoder = text.split("image_encoder (").nth(1).unwrap();
    let names = encoder
        .lines()
        .skip(1)
        .take_while(|it| it.starts_with("      image"));
    assert_eq!(names.count(), 12, "{text}");

    let other = inspect(&all_of(&path), Some(Encoder::LiteMedsam), None).unwrap();
    has(
        &other,
        &["as lite_medsam with 3 classes", "image_encoder (14)"],
    );
}

#[test]
fn an_unknown_encoder_is_compared_on_request_only() {
    let folder = Folder::new();
    let path = folder.save("small.safetensors", &vit(96, 2));
    let text = inspect(&all_of(&path), None, None).unwrap();
    has(
        &text,
        &[
            "unknown: a ViT with 96 channels and 2 blocks",
            "add --encoder",
        ],
    );
}

#[test]
fn convert_takes_wrappers_off_and_replaces_nothing_unasked() {
    let folder = Folder::new();
    let wrapped: State = vit(768, 12)
        .into_iter()
        .map(|(name, tensor)| (format!("module.{name}"), tensor))
        .collect();
    let source = folder.save("ddp.safetensors", &wrapped);
    has(
        &inspect(&all_of(&source), None, None).unwrap(),
        &["vit_b", "all begin with module."],
    );

    let out = folder.path("plain.safetensors");
    convert(&all_of(&source), &out, false).unwrap();
    let found = checkpoint::read_whole(&out, None, &Device::Cpu).unwrap();
    let (written, metadata) = (found.state, found.metadata);
    assert!(written.keys().eq(vit(768, 12).keys()));
    let digest = checkpoint::digest(&source).unwrap();
    assert_eq!(metadata["source_digest"], format!("sha256:{digest}"));

    has(
        &text(convert(&all_of(&source), &out, false)),
        &["plain.safetensors exists", "--force"],
    );
    convert(&all_of(&source), &out, true).unwrap();
    has(
        &text(convert(&all_of(&source), &folder.path("plain.pth"), false)),
        &["plain.pth", "let the name end in .safetensors"],
    );
}

#[test]
fn merge_puts_updates_where_the_training_had_them() {
    let folder = Folder::new();
    // First q of head 0 and head 1, first row of the last third, first v of head 1.
    let rows = [0, 96, 128, 160];
    let (per_head, reference) = ([1, 1, 0, 2], [1, 0, 2, 2]);

    let file = folder.save("lora.safetensors", &updated());
    let out = folder.path("out.safetensors");
    merge(&all_of(&file), &out, None, false).unwrap();
    assert_eq!(at(&out, rows), per_head);
    merge(&all_of(&file), &out, Some(LoraRows::Reference), true).unwrap();
    assert_eq!(at(&out, rows), reference);

    // A run folder knows.
    folder.save("best.safetensors", &updated());
    let record = folder.path("sam.json");
    std::fs::write(&record, r#"{"lora":{"rows":"reference"}}"#).unwrap();
    merge(&all_of(folder.0.path()), &out, None, true).unwrap();
    assert_eq!(at(&out, rows), reference);
    std::fs::write(&record, r#"{"lora":{"rows":"per_head"}}"#).unwrap();
    let error = text(merge(
        &all_of(folder.0.path()),
        &out,
        Some(LoraRows::Reference),
        true,
    ));
    has(&error, &["best.safetensors", "leave out --reference-rows"]);
    std::fs::write(&record, r#"{"lora":null}"#).unwrap();
    has(
        &text(merge(&all_of(folder.0.path()), &out, None, true)),
        &["sam.json does not say"],
    );
}

#[test]
fn what_cannot_be_merged_is_refused_with_a_remedy() {
    let folder = Folder::new();
    let out = folder.path("out.safetensors");
    let plain = folder.save("plain.safetensors", &vit(768, 12));
    has(
        &text(merge(&all_of(&plain), &out, None, false)),
        &["plain.safetensors holds no LoRA", "trainer weights convert"],
    );
    let mut adapted = updated();
    adapted.extend(state(&[(
        "image_encoder.layers.1.blocks.0.MLP_Adapter.D_fc1.bias",
        &[16],
    )]));
    let adapted = folder.save("adapted.safetensors", &adapted);
    has(
        &text(merge(&all_of(&adapted), &out, None, false)),
        &[
            "adapted.safetensors holds adapters",
            "cannot be merged",
            "as it is",
        ],
    );
    for missing in ["linear_b_v.weight", "linear_a_q.weight", "qkv.bias"] {
        let mut cut = updated();
        cut.remove(&format!("{QKV}.{missing}"));
        let cut = folder.save("cut.safetensors", &cut);
        has(
            &text(merge(&all_of(&cut), &out, None, false)),
            &[
                "cut.safetensors: its LoRA cannot be merged",
                "save it again",
            ],
        );
    }
    assert!(!out.exists());
}

#[test]
fn what_is_no_checkpoint_of_a_sam_is_refused_with_a_remedy() {
    let folder = Folder::new();
    let whole = std::fs::read(folder.save("whole.safetensors", &vit(768, 12))).unwrap();
    std::fs::write(folder.path("notes.pth"), "epoch 1: loss 0.3\n").unwrap();
    std::fs::write(folder.path("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(
        folder.path("cut.pth"),
        b"PK\x03\x04 the rest did not arrive",
    )
    .unwrap();
    std::fs::write(
        folder.path("old.pth"),
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
    )
    .unwrap();
    std::fs::create_dir(folder.path("empty")).unwrap();
    folder.save(
        "resnet.safetensors",
        &state(&[("conv1.weight", &[64, 3, 7, 7])]),
    );
    folder.save(
        "last.safetensors",
        &state(&[("model/mask_decoder.x", &[1]), ("optimizer/x", &[1])]),
    );
    for (name, remedy) in [
        ("notes.pth", "fetch it again"),
        ("cut.safetensors", "fetch it again"),
        ("cut.pth", "fetch it again"),
        ("old.pth", "nothing of it was executed"),
        ("missing.pth", "cannot read"),
        ("empty", "name a checkpoint file"),
        (
            "resnet.safetensors",
            "name a checkpoint with upstream's names",
        ),
        ("last.safetensors", "name the run folder"),
    ] {
        let path = folder.path(name);
        let named = path.display().to_string();
        has(
            &text(inspect(&all_of(&path), None, None)),
            &[&named, remedy],
        );
        let out = folder.path("out.safetensors");
        has(
            &text(convert(&all_of(&path), &out, false)),
            &[&named, remedy],
        );
        assert!(!out.exists(), "{name}");
    }
}

/// A .pth that tests/golden/make_checkpoints.py made.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/checkpoints")
        .join(name)
}

#[test]
fn one_of_several_state_dicts_is_chosen_by_its_key() {
    let mut source = all_of(&golden("several.pth"));
    has(
        &text(inspect(&source, None, None)),
        &["student (2 tensors), teacher (2 tensors)", "--key KEY"],
    );
    // Its two tensors are no SAM.
    source.key = Some("teacher".to_owned());
    has(
        &text(inspect(&source, None, None)),
        &["several.pth is no SAM", "2 tensors (b, w, ..)"],
    );
}

#[test]
fn tensors_that_are_no_floating_point_are_named() {
    let folder = Folder::new();
    let mut found = vit(768, 12);
    let integers = |dims: &[usize]| Tensor::zeros(dims, DType::I64, &Device::Cpu).unwrap();
    for name in ["norm.num_batches_tracked", "x.attention_bias_idxs"] {
        found.insert(format!("image_encoder.{name}"), integers(&[1]));
    }
    let path = folder.save("vit.safetensors", &found);
    let out = folder.path("out.safetensors");
    let named = "left out    2 that are not floating point: \
                 image_encoder.norm.num_batches_tracked (I64), image_encoder.x.attention_bias_idxs (I64)";
    has(&inspect(&all_of(&path), None, None).unwrap(), &[named]);
    has(&convert(&all_of(&path), &out, false).unwrap(), &[named]);
    crate::model::start_state(&path).unwrap();

    found.insert("module.mask_decoder.w".to_owned(), integers(&[1]));
    let path = folder.save("quantized.safetensors", &found);
    has(
        &text(crate::model::start_state(&path)),
        &[
            "quantized.safetensors: tensor module.mask_decoder.w is I64",
            "has to be floating point",
        ],
    );
}

#[test]
fn another_network_is_named_with_what_is_left_out() {
    has(
        &text(inspect(&all_of(&golden("types.pth")), None, None)),
        &[
            "it holds 4 tensors (bfloat16, float16, float32, ..) and 15 that are not floating point",
            "bool (bool), complex64 (complex64), float8_e4m3fn (float8_e4m3fn)",
            "none under image_encoder.",
        ],
    );
}
