//! What a `.pth` asks for beyond tensors. candle's reader calls nothing and passes over what it does not
//! know, so without this check a file that runs code in PyTorch would load here as if it were plain
//! weights, and be handed on.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::pickle::{Object, OpCode, Stack};
use zip::ZipArchive;

/// The first thing in the pickles of the zip at `path` that weights and the records which training
/// scripts keep beside them do not need, as a clause about the file.
pub(super) fn foreign(path: &Path) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
    let mut zip = ZipArchive::new(BufReader::new(File::open(path)?))?;
    let names = zip
        .file_names()
        .map(|name| name.map(std::borrow::Cow::into_owned))
        .collect::<Result<Vec<_>, _>>()?;
    for name in names.iter().filter(|name| name.ends_with("data.pkl")) {
        let mut pickle = Vec::new();
        zip.by_name(name)?.read_to_end(&mut pickle)?;
        if let Some(found) = foreign_in(&pickle)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn foreign_in(mut pickle: &[u8]) -> Result<Option<String>, candle_core::Error> {
    let mut stack = Stack::empty();
    loop {
        // Newer ways to name a function have operations that candle lacks.
        if let Some(&operation) = pickle.first()
            && OpCode::try_from(operation).is_err()
        {
            return Ok(Some(format!(
                "its pickle has the operation {operation:#04x}, which PyTorch does not write for weights"
            )));
        }
        let done = stack.read(&mut pickle)?;
        if let Some(Object::Class {
            module_name,
            class_name,
        }) = stack.stack().last()
            && !is_plain(module_name, class_name)
        {
            return Ok(Some(format!(
                "its pickle asks for the Python object {module_name}.{class_name}"
            )));
        }
        if done {
            return Ok(None);
        }
    }
}

/// Tensors, and epochs, losses and arguments beside them.
fn is_plain(module: &str, class: &str) -> bool {
    match module {
        "torch" => {
            class.ends_with("Storage")
                || matches!(
                    class,
                    "Size" | "device" | "float16" | "bfloat16" | "float32" | "float64" | "int64"
                )
        }
        "torch._utils" => class.starts_with("_rebuild_"),
        "torch._tensor" => class == "_rebuild_from_type_v2",
        "torch.nn.parameter" => class == "Parameter",
        "collections" => matches!(class, "OrderedDict" | "defaultdict" | "Counter"),
        "numpy" => matches!(class, "dtype" | "ndarray"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => {
            matches!(class, "scalar" | "_reconstruct")
        }
        "argparse" => class == "Namespace",
        "_codecs" => class == "encode",
        "builtins" | "__builtin__" => matches!(class, "set" | "dict" | "list" | "int" | "float"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use candle_core::Device;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::{CheckpointError, State, read};
    use super::*;

    /// A tensor `w` of two floats, as `torch.save` pickles it.
    const TENSOR: &[u8] = b"X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((\
        X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ\
        K\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs";

    fn saved(pickle: &[&[u8]]) -> (PathBuf, Result<State, CheckpointError>) {
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
        let state = read(&path, &Device::Cpu);
        (path, state)
    }

    #[test]
    fn a_plain_state_dict_is_read() {
        let (_, state) = saved(&[b"\x80\x02}", TENSOR, b"."]);
        let state = state.unwrap();
        assert_eq!(state["w"].to_vec1::<f32>().unwrap(), [1.0, 2.0]);
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
        // As the argument of a call whose result candle takes for an empty dictionary.
        let hidden = [
            &[b"\x80\x02ccollections\nOrderedDict\n".as_slice()],
            call,
            &[b"\x85R", TENSOR, b"."],
        ]
        .concat();
        for pickle in [alone, beside, hidden] {
            let (path, state) = saved(&pickle);
            let text = state.unwrap_err().to_string();
            for words in [
                &path.display().to_string(),
                "not a plain state dict",
                "os.system",
                "nothing of it was executed",
                "torch.save(model.state_dict()",
            ] {
                assert!(text.contains(words), "`{words}` is not in: {text}");
            }
        }
        assert!(!witness.exists(), "the command ran");
    }

    #[test]
    fn operations_of_newer_pickles_are_refused() {
        let (_, state) = saved(&[b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R."]);
        let text = state.unwrap_err().to_string();
        assert!(text.contains("operation 0x8c"), "{text}");
        assert!(text.contains("nothing of it was executed"), "{text}");
    }
}
