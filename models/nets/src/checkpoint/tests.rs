//! Files of PyTorch's own (tests/golden/make_checkpoints.py says how each was made), and files that nobody's
//! pickler wrote.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::archive::Archive;
use super::torch::Entry;
use super::{Checkpoint, State, pickle, read, read_whole, torch};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/checkpoints")
        .join(name)
}

fn opened(name: &str) -> Checkpoint {
    read_whole(&golden(name), None, &Device::Cpu).unwrap()
}

/// All reasons, one behind the other.
fn refused(path: &Path, key: Option<&str>) -> String {
    let error = read_whole(path, key, &Device::Cpu).unwrap_err();
    let mut error: &dyn std::error::Error = &error;
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text.push_str(": ");
        text.push_str(&source.to_string());
        error = source;
    }
    text
}

fn has(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// `w` is 2 x 3, `b` has two; both count from 0.
fn is_state_dict(state: &State) {
    assert_eq!(state.keys().collect::<Vec<_>>(), ["b", "w"]);
    assert_eq!(state["w"].dims(), [2, 3]);
    assert_eq!(values(&state["w"]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(values(&state["b"]), [0.0, 1.0]);
}

#[test]
fn every_layout_in_memory_is_read_right() {
    let state = opened("layouts.pth").state;
    let counted = |n: u8| (0..n).map(f32::from).collect::<Vec<_>>();
    let cases: [(&str, &[usize], Vec<f32>); 17] = [
        ("channels_last", &[4, 3, 2, 2], counted(48)),
        ("channels_last_3d", &[2, 2, 2, 2, 2], counted(32)),
        (
            "columns",
            &[4, 2],
            vec![2.0, 3.0, 8.0, 9.0, 14.0, 15.0, 20.0, 21.0],
        ),
        (
            "every_second",
            &[2, 3],
            vec![1.0, 3.0, 5.0, 13.0, 15.0, 17.0],
        ),
        ("transposed", &[3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        (
            "permuted",
            &[4, 2, 3],
            (0..4)
                .flat_map(|k| (0..6).map(move |ij| f32::from(ij as u8 * 4 + k)))
                .collect(),
        ),
        (
            "expanded",
            &[3, 4],
            vec![0., 0., 0., 0., 1., 1., 1., 1., 2., 2., 2., 2.],
        ),
        ("one_for_all", &[2, 5], vec![7.0; 10]),
        ("zero_d", &[], vec![2.5]),
        ("empty", &[0, 3], vec![]),
        ("view", &[4], vec![5.0, 6.0, 7.0, 8.0]),
        ("tied", &[3], counted(3)),
        ("tied_too", &[3], counted(3)),
        ("parameter", &[2], counted(2)),
        ("buffer", &[2], counted(2)),
        ("overlapping", &[3, 2], vec![0.0, 1.0, 1.0, 2.0, 2.0, 3.0]),
        ("negated", &[3], vec![0.0, -2.0, -4.0]),
    ];
    assert_eq!(state.len(), cases.len());
    for (name, size, wanted) in cases {
        assert_eq!(state[name].dims(), size, "{name}");
        assert_eq!(values(&state[name]), wanted, "{name}");
    }
}

#[test]
fn floating_point_becomes_f32_and_the_rest_is_named() {
    let found = opened("types.pth");
    assert_eq!(
        found.state.keys().collect::<Vec<_>>(),
        ["bfloat16", "float16", "float32", "float64"]
    );
    for (name, tensor) in &found.state {
        assert_eq!(values(tensor), [0.0, 1.0, 2.0], "{name}");
    }
    // Their names say what they are, but for one.
    for (name, kind) in &found.left_out {
        let wanted = if name == "meta" {
            "without values (device meta)"
        } else {
            name
        };
        assert_eq!(kind, wanted);
    }
    assert_eq!(found.left_out.len(), 15, "{:?}", found.left_out);
    let bn = opened("batch_norm.pth");
    assert_eq!(bn.state.len(), 4);
    assert_eq!(bn.left_out["num_batches_tracked"], "int64");
}

#[test]
fn files_without_checksums_and_of_newer_protocols_are_read() {
    for name in ["no_crc.pth", "protocol_4.pth", "protocol_5.pth"] {
        is_state_dict(&opened(name).state);
    }
}

#[test]
fn a_state_dict_is_found_where_scripts_put_it() {
    for (name, key) in [
        ("training.pth", "model"),
        ("mean_beside.pth", "state_dict"),
        ("nested.pth", "checkpoint.net"),
        ("list_of_state_dicts.pth", "0"),
    ] {
        let found = opened(name);
        is_state_dict(&found.state);
        assert_eq!(found.key, key, "{name}");
    }
    let mean = read_whole(&golden("mean_beside.pth"), Some(""), &Device::Cpu).unwrap();
    assert_eq!(mean.state.keys().collect::<Vec<_>>(), ["mean"]);
    assert_eq!(mean.other_keys, ["state_dict"]);
}

#[test]
fn of_several_state_dicts_one_has_to_be_chosen() {
    let path = golden("several.pth");
    let text = refused(&path, None);
    has(
        &text,
        &[
            "several.pth holds several state dicts",
            "student (2 tensors), teacher (2 tensors)",
            "--key",
        ],
    );
    let teacher = read_whole(&path, Some("teacher"), &Device::Cpu).unwrap();
    assert_eq!(
        values(&teacher.state["w"]),
        [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    );
    assert_eq!(teacher.other_keys, ["student"]);
    has(
        &refused(&path, Some("ema")),
        &["nothing under the key ema", "student (2 tensors)"],
    );
}

#[test]
fn what_is_no_state_dict_is_said_as_what_it_is() {
    for (name, words) in [
        ("bare.pth", "it is one tensor, which has no name"),
        ("list.pth", "a list of 2 values, 2 of them tensors"),
        ("numbers.pth", "its 2 tensors stand under numbers"),
        ("optimizer.pth", "an optimizer's, under optimizer.state.0"),
        ("no_floats.pth", "none of its 2 tensors is floating point"),
        (
            "no_tensors.pth",
            "a dictionary without tensors (epoch, loss)",
        ),
        ("module.pth", "torch.nn.modules.linear.Linear"),
        ("before_1_6.pth", "as PyTorch before 1.6 wrote it"),
        ("script.pt", "TorchScript"),
        ("packed_anew.pth", "zip -0"),
    ] {
        let text = refused(&golden(name), None);
        has(&text, &[name, words]);
        assert!(
            text.contains("torch.save(model.state_dict(), ..)"),
            "no remedy: {text}"
        );
    }
    assert!(refused(&golden("no_floats.pth"), None).contains("ids is int64, mask is bool"));
}

#[test]
fn files_that_are_no_checkpoints_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    for (content, words) in [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 357\n",
            "git lfs pull",
        ),
        ("\n<!DOCTYPE html><html>", "a web page"),
        ("", "truncated: fetch it again"),
    ] {
        fs::write(&path, content).unwrap();
        has(&refused(&path, None), &["weights.pth", words]);
    }
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    zip.start_file("mimetype", SimpleFileOptions::default())
        .unwrap();
    zip.finish().unwrap();
    has(
        &refused(&path, None),
        &["a zip that torch.save did not write", "(mimetype)"],
    );
}

/// A tensor `w` of two floats, as `torch.save` pickles it.
const TENSOR: &[u8] = b"X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((\
    X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ\
    K\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs";

/// The same with another offset, size and stride, each as a pickle.
fn tensor(offset: &[u8], size: &[u8], stride: &[u8]) -> Vec<u8> {
    let at = TENSOR.windows(2).position(|it| it == b"K\x00").unwrap();
    let end = at + b"K\x00K\x02\x85K\x01\x85".len();
    [&TENSOR[..at], offset, size, stride, &TENSOR[end..]].concat()
}

struct Saved {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// A file with this pickle and eight bytes of storage.
fn saved(pickle: &[&[u8]]) -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    let stored = SimpleFileOptions::default();
    zip.start_file("weights/data.pkl", stored).unwrap();
    zip.write_all(&pickle.concat()).unwrap();
    zip.start_file("weights/data/0", stored).unwrap();
    zip.write_all(&[1f32.to_le_bytes(), 2f32.to_le_bytes()].concat())
        .unwrap();
    zip.finish().unwrap();
    Saved {
        path,
        _folder: folder,
    }
}

#[test]
fn a_plain_state_dict_is_read() {
    let file = saved(&[b"\x80\x02}", TENSOR, b"."]);
    let state = read(&file.path, &Device::Cpu).unwrap();
    assert_eq!(values(&state["w"]), [1.0, 2.0]);
}

#[test]
fn a_pickle_that_would_run_code_is_refused_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("ran");
    let shell = format!("touch {}", witness.display());
    let mut argument = vec![b'X'];
    argument.extend((shell.len() as u32).to_le_bytes());
    argument.extend(shell.bytes());
    let call: &[&[u8]] = &[b"cos\nsystem\n", &argument, b"\x85R"];

    let alone = [&[b"\x80\x02".as_slice()], call, &[b"."]].concat();
    let beside = [
        &[b"\x80\x02}".as_slice(), TENSOR, b"X\x01\x00\x00\x00x"],
        call,
        &[b"s."],
    ]
    .concat();
    // As the argument of a call whose result is a dictionary.
    let hidden = [
        &[b"\x80\x02ccollections\nOrderedDict\n".as_slice()],
        call,
        &[b"\x85R", TENSOR, b"."],
    ]
    .concat();
    // The newer way to name a function.
    let newer: Vec<&[u8]> = vec![b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R."];
    for pickle in [alone, beside, hidden, newer] {
        let file = saved(&pickle);
        has(
            &refused(&file.path, None),
            &[
                &file.path.display().to_string(),
                "not a plain state dict",
                "os.system",
                "nothing of it was executed",
                "torch.save(model.state_dict()",
            ],
        );
    }
    assert!(!witness.exists(), "the command ran");
}

#[test]
fn operations_that_weights_do_not_need_are_refused() {
    // INST names a class, too.
    let file = saved(&[b"\x80\x02(ios\nsystem\n."]);
    has(
        &refused(&file.path, None),
        &["operation 0x69", "nothing of it was executed"],
    );
}

#[test]
fn descriptions_that_reach_beyond_the_file_are_refused() {
    let [zero, one, two]: [&[u8]; 3] = [b"K\x00", b"K\x01\x85", b"K\x02\x85"];
    // 2^40 and 2^62.
    let [tera, huge]: [&[u8]; 2] = [b"\x8a\x06\0\0\0\0\0\x01", b"\x8a\x08\0\0\0\0\0\0\0\x40"];
    let tera_of: &[u8] = &[tera, b"\x85"].concat();
    let squared: &[u8] = &[huge, huge, b"\x86"].concat();
    let beyond = "reaches beyond its storage of 8 bytes";
    let too_large = "too large for the file";
    let unsound = "has no sound description";
    let cases: [(Vec<u8>, &str); 9] = [
        (tensor(b"K\x01", two, one), beyond),
        (tensor(zero, two, two), beyond),
        (tensor(huge, two, one), beyond),
        (tensor(zero, two, &[huge, b"\x85"].concat()), beyond),
        // Expanded: one number, a million million times.
        (tensor(zero, tera_of, b"K\x00\x85"), too_large),
        (tensor(zero, squared, b"K\x00K\x00\x86"), too_large),
        (tensor(zero, two, b"K\x01K\x01\x86"), unsound),
        // -1
        (tensor(b"\x8a\x01\xff", two, one), unsound),
        (tensor(zero, b"N", one), unsound),
    ];
    for (number, (description, words)) in cases.iter().enumerate() {
        let file = saved(&[b"\x80\x02}", description, b"."]);
        let text = refused(&file.path, None);
        assert!(
            text.contains(words) && text.contains("tensor w"),
            "{number}: no `{words}` in {text}"
        );
    }
}

#[test]
fn pickles_that_nobody_wrote_are_refused() {
    let cases: [&[u8]; 12] = [
        b"",
        b"\x80",
        b"\x80\x02}",
        b".",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x02}K\x01s.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02]q\x00h\x01.",
        b"\x80\x02(0t.",
        // A text of four gigabytes, and one of 2^64 - 1 bytes.
        b"\x80\x02X\xff\xff\xff\xff.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
    ];
    for pickle in cases {
        let file = saved(&[pickle]);
        has(
            &refused(&file.path, None),
            &["is damaged: its pickle", "fetch or copy it again"],
        );
    }
    // A list in itself, and a dictionary that holds itself twice at each of 40 levels.
    let file = saved(&[b"\x80\x02]q\x00h\x00a."]);
    has(&refused(&file.path, None), &["a list of 1 values"]);
    let levels: Vec<u8> = (0..40_u8)
        .flat_map(|i| [b'q', i, b']', b'h', i, b'a', b'h', i, b'a'])
        .collect();
    let file = saved(&[b"\x80\x02}", &levels, b"."]);
    has(&refused(&file.path, None), &["a list of 2 values"]);
}

/// A checksum stands before this in a file; here every byte of the pickle may be another.
#[test]
fn a_pickle_that_is_cut_or_flipped_ends_in_words_or_tensors() {
    for name in ["layouts.pth", "types.pth", "training.pth", "protocol_5.pth"] {
        let whole = Archive::open(&golden(name)).unwrap().pickle().unwrap();
        for at in 0..whole.len() {
            assert!(pickle::read(&whole[..at]).is_err(), "{name} cut at {at}");
            for bits in [0x01, 0x10, 0x80, 0xff] {
                let mut flipped = whole.clone();
                flipped[at] ^= bits;
                let Ok(values) = pickle::read(&flipped) else {
                    continue;
                };
                let found = torch::state_dicts(&values);
                let entries = found.iter().flat_map(|it| it.entries(&values));
                for (name, entry) in entries {
                    let Entry::Float(view) = entry else { continue };
                    let n = view.n_elements().filter(|n| *n < 1 << 16);
                    let bytes = n.and_then(|_| Some(view.gather(&[0; 200])?.len()));
                    let width = view.dtype.size_in_bytes();
                    assert!(
                        bytes.is_none_or(|it| Some(it) == n.map(|n| n * width)),
                        "{name}"
                    );
                }
                assert!(!torch::instead(&values).is_empty());
            }
        }
    }
}

#[test]
fn changed_and_missing_bytes_are_found() {
    let file = saved(&[b"\x80\x02}", TENSOR, b"."]);
    let whole = fs::read(&file.path).unwrap();
    let at = whole
        .windows(4)
        .position(|it| it == 2f32.to_le_bytes())
        .unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    fs::write(&file.path, flipped).unwrap();
    has(
        &refused(&file.path, None),
        &[
            "weights/data/0",
            "tensor w",
            "is not what was saved",
            "fetch or copy it again",
        ],
    );
    fs::write(&file.path, &whole[..whole.len() / 2]).unwrap();
    has(&refused(&file.path, None), &["truncated: fetch it again"]);

    let missing: Vec<u8> = TENSOR
        .iter()
        .map(|&byte| if byte == b'0' { b'9' } else { byte })
        .collect();
    let file = saved(&[b"\x80\x02}", &missing, b"."]);
    has(&refused(&file.path, None), &["weights/data/9 is missing"]);
}
