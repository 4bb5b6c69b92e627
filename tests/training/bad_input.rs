//! What a user sees of checkpoints and data that cannot be trained on: the file, the value, and what to do.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{finetune, phantoms, refused, trainer, with_settings};

/// Zeros as safetensors.
fn weights(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, shape)| (name.clone(), zeros(shape)))
        .collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// A zip with one stored file, as PyTorch writes it.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(content);
    let size = (content.len() as u32).to_le_bytes();
    let length = (name.len() as u16).to_le_bytes();
    // Version, flags, method, time, date; then as in both headers.
    let mut shared = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
    shared.extend([crc.to_le_bytes(), size, size].concat());
    shared.extend(length);
    let mut file = [
        b"PK\x03\x04",
        &shared[..],
        &[0; 2],
        name.as_bytes(),
        content,
    ]
    .concat();
    let start = (file.len() as u32).to_le_bytes();
    let entry = [b"PK\x01\x02\x14\0", &shared[..], &[0; 16], name.as_bytes()].concat();
    file.extend(&entry);
    file.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    file.extend((entry.len() as u32).to_le_bytes());
    file.extend(start);
    file.extend([0; 2]);
    file
}

#[test]
fn checkpoints_that_cannot_be_started_from() {
    let folder = phantoms();
    let path = folder.path();
    let other = [("layer.weight".to_owned(), vec![4, 4])];
    weights(&path.join("resnet.safetensors"), &other);
    let mut vit_b = vec![
        ("image_encoder.pos_embed".to_owned(), vec![1, 1, 1, 768]),
        ("mask_decoder.iou_token.weight".to_owned(), vec![1, 256]),
    ];
    vit_b.extend((0..12).map(|i| (format!("image_encoder.blocks.{i}.norm1.weight"), vec![768])));
    weights(&path.join("vit_b.safetensors"), &vit_b);
    let whole = fs::read(path.join("vit_b.safetensors")).unwrap();
    fs::write(path.join("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    // What `pickle` writes for an object whose `__reduce__` gives `os.system` and its argument.
    let code = b"\x80\x02cposix\nsystem\nX\x0a\x00\x00\x00touch pwned\x85R.";
    let evil = zip("archive/data.pkl", code);
    fs::write(path.join("evil.pth"), &evil).unwrap();
    fs::write(path.join("cut.pth"), &evil[..evil.len() / 2]).unwrap();
    // Two state dicts, as tests/golden/make_checkpoints.py wrote them.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    for name in ["several.pth", "bare.pth"] {
        fs::copy(golden.join(name), path.join(name)).unwrap();
    }
    let cases: [(&str, &[&str]); 8] = [
        ("missing.pth", &["cannot read"]),
        (
            "several.pth",
            &["student (2 tensors)", "trainer weights convert", "--key"],
        ),
        (
            "bare.pth",
            &["it is one tensor", "torch.save(model.state_dict(), ..)"],
        ),
        (
            "resnet.safetensors",
            &["not one tensor fits", "trainer weights inspect"],
        ),
        (
            "vit_b.safetensors",
            &[
                "has the encoder of vit_b",
                "model.encoder is \"vit_t\"",
                "set model.encoder = \"vit_b\"",
            ],
        ),
        ("cut.safetensors", &["truncated", "fetch it again"]),
        ("cut.pth", &["truncated", "fetch it again"]),
        (
            "evil.pth",
            &["posix.system", "nothing of it was executed", "safetensors"],
        ),
    ];
    for (file, wanted) in cases {
        let setting = format!("model.checkpoint=\"{file}\"");
        let said = refused(with_settings(finetune(path, "run"), &[&setting]));
        assert!(said.contains(file), "no {file}: {said}");
        for words in wanted {
            assert!(said.contains(words), "{file}: no {words:?} in {said}");
        }
    }
    assert!(!path.join("pwned").exists());
    assert!(!path.join("run").exists(), "a refused run leaves no folder");
}

#[test]
fn labels_that_do_not_belong_to_the_images() {
    let folder = phantoms();
    let path = folder.path();
    let mask = path.join("phantom/PHANTOM-0001/label/1.png");
    let good = image::open(&mask).unwrap().to_luma8();
    let three_classes = [
        "data.target={classes={n=3}}",
        "data.classes=[{id=1,label=\"a\",color=[1,2,3]},{id=2,label=\"b\",color=[1,2,3]},\
         {id=3,label=\"c\",color=[1,2,3]}]",
    ];

    let mut unknown = good.clone();
    unknown.put_pixel(0, 0, image::Luma([77]));
    unknown.save(&mask).unwrap();
    let said = refused(with_settings(finetune(path, "run"), &three_classes));
    for words in ["PHANTOM-0001/label/1.png", "77", "data.target", "raise n"] {
        assert!(said.contains(words), "no {words}: {said}");
    }

    let (cols, rows) = good.dimensions();
    image::imageops::crop_imm(&good, 0, 0, cols, rows - 5)
        .to_image()
        .save(&mask)
        .unwrap();
    let said = refused(finetune(path, "run"));
    for words in [
        "PHANTOM-0001/dicom/1.dcm",
        "256 x 256",
        "PHANTOM-0001/label/1.png",
        "251 x 256",
        "native size",
    ] {
        assert!(said.contains(words), "no {words}: {said}");
    }

    good.save(&mask).unwrap();
    let none = ["data.target={binary={class=7}}"];
    let said = refused(with_settings(finetune(path, "run"), &none));
    assert!(
        said.contains("data.target = { binary = { class = 7 } }") && said.contains("[1]"),
        "{said}"
    );
}

#[test]
fn a_patient_in_training_and_validation_is_named() {
    let folder = phantoms();
    let path = folder.path();
    let list = path.join("list.csv");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replacen(",train,", ",validation,", 1)).unwrap();
    let said = refused(finetune(path, "run"));
    for words in ["list.csv", "PHANTOM-0001", "train", "validation", "in one"] {
        assert!(said.contains(words), "no {words}: {said}");
    }
    let index = "dataset index phantom --train 0001,0002 --validation 0002 --out other.csv";
    let words: Vec<&str> = index.split_whitespace().collect();
    let said = refused(trainer(path, &words));
    assert!(said.contains("PHANTOM-0002 is in two splits"), "{said}");
}

#[test]
fn a_loss_that_is_no_number_names_images_and_rate() {
    let folder = phantoms();
    let path = folder.path();
    let setting = ["finetune.learning_rate=1e30"];
    let said = refused(with_settings(finetune(path, "run"), &setting));
    for words in [
        "the loss is NaN",
        "/dicom/",
        "finetune.learning_rate",
        "1e30",
    ] {
        assert!(said.contains(words), "no {words}: {said}");
    }
    assert!(!said.contains("last.safetensors"), "none is there: {said}");
}

#[test]
fn a_gpu_that_this_program_cannot_use() {
    let folder = phantoms();
    let path = folder.path();
    let said = refused(with_settings(
        finetune(path, "run"),
        &["compute.device=\"cuda\""],
    ));
    for words in [
        "compute.device",
        "built without GPUs",
        "tests/cuda/build.sh",
    ] {
        assert!(said.contains(words), "no {words}: {said}");
    }
    assert!(!path.join("run").exists(), "a refused run leaves no folder");
}
