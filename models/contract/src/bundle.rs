//! A bundle on disk: a directory, or one `.tar` of it, with `manifest.json`, the graph and the golden pair
//! (`golden.png`: 8- or 16-bit grey or RGB input; `golden.rle.json`: its label map as `Vec<ClassMask>`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Manifest;
use crate::mask::Rle;

pub const MANIFEST: &str = "manifest.json";
pub const GOLDEN_IMAGE: &str = "golden.png";
pub const GOLDEN_MASK: &str = "golden.rle.json";

/// Expected mask of one class in the golden pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassMask {
    pub id: u8,
    pub rle: Rle,
}

/// A bundle whose manifest was parsed and whose files have the digests it names.
#[derive(Debug)]
pub struct Bundle {
    pub manifest: Manifest,
    pub directory: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    // cases with fields: path, name, expected and found digest, remedy ...
}

impl Bundle {
    /// Reads and verifies a bundle directory: manifest digest, schema, every file's SHA-256.
    pub fn open(directory: &Path) -> Result<Self, BundleError> {
        todo!()
    }
}
