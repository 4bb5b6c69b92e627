//! Weights on disk: PyTorch's `.pth` / `.pt` (zip with a pickle) and safetensors in, safetensors out.

mod pickle;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{} is neither safetensors nor a PyTorch zip checkpoint, or it is truncated: fetch it again",
        path.display()
    )]
    Format {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "{} is not a plain state dict: {found}; nothing of it was executed. \
         Fetch the weights as safetensors, or where you trust the file load it in PyTorch and save \
         it anew with torch.save(model.state_dict(), ..)",
        path.display()
    )]
    NotPlain { path: PathBuf, found: String },
    #[error("{} holds no tensors: is it a state dict, or wrapped under another key?", path.display())]
    Empty { path: PathBuf },
    #[error("{}: tensor {name}", path.display())]
    Tensor {
        path: PathBuf,
        name: String,
        source: Box<candle_core::Error>,
    },
}

type State = BTreeMap<String, Tensor>;

/// The two kinds of file that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    PyTorchZip,
    Safetensors,
}

/// By the first bytes: whatever is no zip has to be safetensors.
pub fn format(path: &Path) -> Result<Format, CheckpointError> {
    let error = |source| CheckpointError::Read {
        path: path.to_owned(),
        source,
    };
    let mut magic = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(File::open(path).map_err(error)?, 4),
        &mut magic,
    )
    .map_err(error)?;
    Ok(if magic == *b"PK\x03\x04" {
        Format::PyTorchZip
    } else {
        Format::Safetensors
    })
}

/// All floating-point tensors as f32; integers other than an optimizer's step counts are left out
/// (BatchNorm's `num_batches_tracked` never matters).
pub fn read(path: &Path, device: &Device) -> Result<State, CheckpointError> {
    Ok(read_with_metadata(path, device)?.0)
}

/// The same with the metadata of a safetensors file.
pub fn read_with_metadata(
    path: &Path,
    device: &Device,
) -> Result<(State, HashMap<String, String>), CheckpointError> {
    let (state, metadata) = match format(path)? {
        Format::PyTorchZip => (read_pickle(path)?, HashMap::new()),
        Format::Safetensors => {
            let bytes = std::fs::read(path).map_err(|source| CheckpointError::Read {
                path: path.to_owned(),
                source,
            })?;
            read_safetensors(path, &bytes, device)?
        }
    };
    if state.is_empty() {
        return Err(CheckpointError::Empty {
            path: path.to_owned(),
        });
    }
    Ok((state, metadata))
}

fn read_safetensors(
    path: &Path,
    bytes: &[u8],
    device: &Device,
) -> Result<(State, HashMap<String, String>), CheckpointError> {
    let format = |source: safetensors::SafeTensorError| {
        let path = path.to_owned();
        // PyTorch before 1.6, and Python itself, write a pickle without a zip around it. A header of
        // safetensors may begin with the same two bytes, so this is asked of what failed only.
        if let [0x80, 0..=5, ..] = bytes {
            return CheckpointError::NotPlain {
                path,
                found: "it is a bare pickle, as PyTorch before 1.6 wrote it".to_owned(),
            };
        }
        CheckpointError::Format {
            path,
            source: Box::new(source),
        }
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
    let file = SafeTensors::deserialize(bytes).map_err(format)?;
    let mut state = State::new();
    for (name, view) in file.tensors() {
        let tensor = candle_core::safetensors::Load::load(&view, device)
            .and_then(keep)
            .map_err(|source| tensor_error(path, &name, source))?;
        state.extend(tensor.map(|tensor| (name, tensor)));
    }
    Ok((state, header.metadata().clone().unwrap_or_default()))
}

fn read_pickle(path: &Path) -> Result<State, CheckpointError> {
    let format = |source| CheckpointError::Format {
        path: path.to_owned(),
        source,
    };
    if let Some(found) = pickle::foreign(path).map_err(format)? {
        return Err(CheckpointError::NotPlain {
            path: path.to_owned(),
            found,
        });
    }
    let mut state = State::new();
    // Flat, or wrapped the way training scripts do.
    for key in [None, Some("model"), Some("state_dict")] {
        let Ok(tensors) = PthTensors::new(path, key) else {
            continue;
        };
        for name in tensors.tensor_infos().keys() {
            let tensor = tensors
                .get(name)
                .map_err(|source| tensor_error(path, name, source))?;
            let kept = tensor.map(keep).transpose();
            let kept = kept
                .map_err(|source| tensor_error(path, name, source))?
                .flatten();
            state.extend(kept.map(|tensor| (name.clone(), tensor)));
        }
        if !state.is_empty() {
            return Ok(state);
        }
    }
    // Nothing found: say why the plain reading failed, if it did.
    PthTensors::new(path, None).map_err(|source| format(Box::new(source)))?;
    Ok(state)
}

fn tensor_error(path: &Path, name: &str, source: candle_core::Error) -> CheckpointError {
    CheckpointError::Tensor {
        path: path.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    }
}

fn keep(tensor: Tensor) -> candle_core::Result<Option<Tensor>> {
    match tensor.dtype() {
        DType::F32 | DType::U32 => Ok(Some(tensor)),
        DType::F16 | DType::BF16 | DType::F64 => tensor.to_dtype(DType::F32).map(Some),
        _ => Ok(None),
    }
}

/// Writes safetensors beside `path`, syncs and renames: a reader sees the old file or the new one.
#[expect(
    clippy::implicit_hasher,
    reason = "the format's library takes no other"
)]
pub fn write(
    path: &Path,
    state: &State,
    metadata: &HashMap<String, String>,
) -> Result<(), CheckpointError> {
    let error = |source: std::io::Error| CheckpointError::Write {
        path: path.to_owned(),
        source,
    };
    let bytes = safetensors::serialize(state, Some(metadata.clone()))
        .map_err(|source| error(std::io::Error::other(source)))?;
    let temporary = path.with_extension("part");
    let mut file = File::create(&temporary).map_err(error)?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(error)?;
    std::fs::rename(&temporary, path).map_err(error)?;
    if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(error)?;
    }
    Ok(())
}

/// Hex SHA-256 of a file.
pub fn digest(path: &Path) -> Result<String, CheckpointError> {
    let error = |source| CheckpointError::Read {
        path: path.to_owned(),
        source,
    };
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(error)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(error)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}
