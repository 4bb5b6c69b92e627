//! Why weights cannot be read or written.

use std::path::{Path, PathBuf};

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
    #[error("{} is damaged: {what}; fetch or copy it again", path.display())]
    Damaged {
        path: PathBuf,
        what: String,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    #[error(
        "{} is not a plain state dict: {found}; nothing of it was executed. \
         Fetch the weights as safetensors, or where you trust the file load it in PyTorch and save \
         it anew with torch.save(model.state_dict(), ..)",
        path.display()
    )]
    NotPlain { path: PathBuf, found: String },
    #[error(
        "{} holds no state dict: {found}. Save one in PyTorch with torch.save(model.state_dict(), ..)",
        path.display()
    )]
    NoStateDict { path: PathBuf, found: String },
    #[error(
        "{} holds {found}: choose one, `trainer weights convert {} OUT.safetensors --key KEY` makes a \
         file of it",
        path.display(),
        path.display()
    )]
    WhichStateDict { path: PathBuf, found: String },
    #[error("{}: tensor {name}", path.display())]
    Tensor {
        path: PathBuf,
        name: String,
        source: Box<candle_core::Error>,
    },
}

pub(super) fn damaged(path: &Path, what: &str) -> CheckpointError {
    CheckpointError::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
        source: None,
    }
}

pub(super) fn tensor_error(path: &Path, name: &str, source: candle_core::Error) -> CheckpointError {
    CheckpointError::Tensor {
        path: path.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    }
}
