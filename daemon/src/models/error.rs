use std::io;
use std::path::PathBuf;

use contract::bundle::BundleError;
use segmenter::{OpenError, UnpackError};

/// Why a bundle does not come in, or does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    #[error("no slot is called `{slot}`; the configuration has {known}")]
    NoSlot { slot: String, known: String },
    #[error(
        "without a trusted key nothing is installed; name the signer's in `models.trusted_keys`, or \
         set `models.allow_unsigned` and say --unsigned"
    )]
    NoKey,
    #[error("--unsigned is not allowed here; sign the bundle, or set `models.allow_unsigned`")]
    UnsignedRefused,
    #[error("`{0}` was not staged by `scansided models install`")]
    Staged(String),
    #[error(
        "slot {slot}: {version} is refused, the highest counter that served is {highest}; sign \
         it with a higher one (`trainer bundle sign --counter N`); `scansided models rollback` goes back to what \
         served before"
    )]
    Counter {
        slot: String,
        version: String,
        highest: u64,
    },
    #[error("slot {0}: nothing is installed; `scansided models install` does that")]
    NothingInstalled(String),
    #[error(
        "slot {slot}: {damaged} installed versions are damaged; `scansided models list` names their \
         folders, remove these and install the bundle again"
    )]
    Damaged { slot: String, damaged: usize },
    #[error(
        "slot {slot}: no installed version is `{wanted}`; `scansided models list` has them; a \
         digest may be cut short"
    )]
    NoVersion { slot: String, wanted: String },
    #[error(
        "slot {slot}: `{wanted}` names more than one installed version; write the start of its digest"
    )]
    Ambiguous { slot: String, wanted: String },
    #[error("slot {0}: nothing served before, so there is nothing to go back to")]
    NothingBefore(String),
    #[error(
        "slot {slot}: {active} serves since a rollback already, and what served before it is not kept; \
         `scansided models promote {newer}` lets the newer version serve again"
    )]
    RolledBack {
        slot: String,
        active: String,
        newer: String,
    },
    #[error("slot {slot}: {version} is not there any more, another bundle lies in its place")]
    Replaced { slot: String, version: String },
    #[error("bundle {}: {source}", path.display())]
    Configured {
        path: PathBuf,
        source: Box<OpenError>,
    },
    #[error("{0}")]
    Open(#[from] Box<OpenError>),
    #[error("{0}")]
    Bundle(#[from] BundleError),
    #[error("{0}")]
    Unpack(#[from] UnpackError),
    #[error(
        "{}: {source}; remove the file, then the configured bundle serves and all counters are \
         forgotten",
        path.display()
    )]
    Record {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot {action} {}: {source}; check the rights of the folder and the disk", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl ModelsError {
    /// The command was wrong, not a bundle or the disk.
    pub(super) fn is_of_the_command(&self) -> bool {
        matches!(
            self,
            Self::NoSlot { .. }
                | Self::NoKey
                | Self::UnsignedRefused
                | Self::Staged(_)
                | Self::NothingInstalled(_)
                | Self::NoVersion { .. }
                | Self::Ambiguous { .. }
                | Self::NothingBefore(_)
                | Self::RolledBack { .. }
        )
    }
}
