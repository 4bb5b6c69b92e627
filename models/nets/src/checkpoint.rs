//! Weights on disk: PyTorch's `.pth` / `.pt` (zip with a pickle) and safetensors in, safetensors out.

mod archive;
mod error;
mod pickle;
mod pth;
mod state_dict;
mod storage;
#[cfg(test)]
mod tests;
mod torch;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use candle_core::{DType, Device};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

pub use self::error::CheckpointError;
use self::error::tensor_error;
pub use self::state_dict::Checkpoint;
use self::state_dict::{State, tensor};

/// The two kinds of file that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    PyTorchZip,
    Safetensors,
}

/// By the first bytes: whatever is no zip has to be safetensors.
pub fn format(path: &Path) -> Result<Format, CheckpointError> {
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .map_err(|source| CheckpointError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(if magic == *b"PK\x03\x04" {
        Format::PyTorchZip
    } else {
        Format::Safetensors
    })
}

/// The tensors of [`read_whole`].
pub fn read(path: &Path, device: &Device) -> Result<State, CheckpointError> {
    Ok(read_whole(path, None, device)?.state)
}

/// `key`: which of several state dicts in a `.pth`.
pub fn read_whole(
    path: &Path,
    key: Option<&str>,
    device: &Device,
) -> Result<Checkpoint, CheckpointError> {
    let checkpoint = match format(path)? {
        Format::PyTorchZip => pth::read(path, key, device)?,
        Format::Safetensors => {
            let bytes = std::fs::read(path).map_err(|source| CheckpointError::Read {
                path: path.to_owned(),
                source,
            })?;
            read_safetensors(path, &bytes, device)?
        }
    };
    if checkpoint.state.is_empty() {
        let n = checkpoint.left_out.len();
        let first: Vec<String> = checkpoint
            .left_out
            .iter()
            .take(3)
            .map(|(name, kind)| format!("{name} is {kind}"))
            .collect();
        let found = match n {
            0 => "it has no tensors".to_owned(),
            _ => format!(
                "none of its {n} tensors is floating point ({})",
                first.join(", ")
            ),
        };
        return Err(CheckpointError::NoStateDict {
            path: path.to_owned(),
            found,
        });
    }
    Ok(checkpoint)
}

fn read_safetensors(
    path: &Path,
    bytes: &[u8],
    device: &Device,
) -> Result<Checkpoint, CheckpointError> {
    let format = |source: safetensors::SafeTensorError| no_safetensors(path, bytes, source);
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
    let file = SafeTensors::deserialize(bytes).map_err(format)?;
    let mut state = State::new();
    let mut left_out = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F64 => DType::F64,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::U32 => DType::U32,
            other => {
                left_out.insert(name, format!("{other:?}"));
                continue;
            }
        };
        let tensor = tensor(view.data(), dtype, view.shape(), device)
            .map_err(|source| tensor_error(path, &name, source))?;
        state.insert(name, tensor);
    }
    Ok(Checkpoint {
        state,
        metadata: header.metadata().clone().unwrap_or_default(),
        left_out,
        key: String::new(),
        other_keys: Vec::new(),
    })
}

/// Files that are taken for weights: said as what they are.
fn no_safetensors(
    path: &Path,
    bytes: &[u8],
    source: safetensors::SafeTensorError,
) -> CheckpointError {
    let path = path.to_owned();
    let is_text = |start: &[u8]| bytes.trim_ascii_start().starts_with(start);
    // PyTorch before 1.6, and Python itself, write a pickle without a zip around it. A header of
    // safetensors may begin with the same two bytes, so this is asked of what failed only.
    if let [0x80, 0..=5, ..] = bytes {
        return CheckpointError::NotPlain {
            path,
            found: "it is a bare pickle, as PyTorch before 1.6 wrote it".to_owned(),
        };
    }
    let what = if is_text(b"version https://git-lfs") {
        "it is a pointer of Git LFS, the weights themselves come with `git lfs pull`"
    } else if is_text(b"<") {
        "it is a web page, as a server gives it that wants a login or a click"
    } else {
        return CheckpointError::Format {
            path,
            source: Box::new(source),
        };
    };
    CheckpointError::Damaged {
        path,
        what: what.to_owned(),
        source: None,
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
        match file.read(&mut buffer).map_err(error)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}
