//! A bundle on disk: a directory, or one `.tar` of it, with `manifest.json`, the graph and the golden pair
//! (`golden.tif`: modality values as 32-bit floats, grey or RGB; `golden.rle.json`: its label map as
//! `Vec<ClassMask>`), and `manifest.minisig` where somebody signed it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use crate::manifest::{GOLDEN_IMAGE, GOLDEN_MASK, MANIFEST};
use crate::manifest::{Manifest, ManifestError};
use crate::mask::Rle;
use crate::signature::{SIGNATURE, SignatureError, TrustedKeys};

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

/// Why a directory is no usable bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{}: cannot be read, nothing is there; name a bundle's folder or its .tar", path.display())]
    Absent { path: PathBuf },
    #[error("{}: has no {MANIFEST}, so it is no bundle; name a folder that `trainer export` wrote, or its .tar", path.display())]
    NoManifest { path: PathBuf },
    #[error("{}: is a file where a bundle's folder is needed; name the folder, or unpack the .tar", path.display())]
    NotAFolder { path: PathBuf },
    #[error("{}: cannot be read: {source}; check the path and that the bundle is complete", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: is not a regular file; put the file itself into the bundle", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: is larger than {limit} bytes; check what was put there", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{}: is missing, only signed bundles are accepted here; sign it with `trainer bundle sign`", path.display())]
    Unsigned { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Signature {
        path: PathBuf,
        source: SignatureError,
    },
    #[error("{}: {source}", directory.display())]
    Manifest {
        directory: PathBuf,
        source: ManifestError,
    },
    #[error("{}: sha-256 is {found}, the manifest names {expected}; copy the bundle again", path.display())]
    Digest {
        path: PathBuf,
        expected: String,
        found: String,
    },
}

/// A manifest has a few kilobytes; more would be somebody else's file.
const MANIFEST_LIMIT: u64 = 1 << 20;
/// Four lines of text; the trusted comment may be long.
const SIGNATURE_LIMIT: u64 = 1 << 14;
/// A golden image of 2048 x 2048 px in colour and its mask stay below it.
const READ_LIMIT: u64 = 64 << 20;

impl Bundle {
    /// Reads and verifies a bundle directory: manifest digest, schema, every file's SHA-256.
    /// Files the manifest does not name are left alone.
    pub fn open(directory: &Path) -> Result<Self, BundleError> {
        Self::read_from(directory, None)
    }

    /// The same, with a signature of one of these keys over the manifest, which is checked first.
    pub fn open_signed(directory: &Path, keys: &TrustedKeys) -> Result<Self, BundleError> {
        Self::read_from(directory, Some(keys))
    }

    fn read_from(directory: &Path, keys: Option<&TrustedKeys>) -> Result<Self, BundleError> {
        let path = directory.join(MANIFEST);
        let json =
            read_limited(&path, MANIFEST_LIMIT).map_err(|error| no_bundle(directory, error))?;
        if let Some(keys) = keys {
            verify(directory, &json, keys)?;
        }
        let directory = directory.to_path_buf();
        let manifest = Manifest::parse(&json).map_err(|source| BundleError::Manifest {
            directory: directory.clone(),
            source,
        })?;
        for (name, expected) in &manifest.files {
            let path = directory.join(name);
            let found = file_digest(&path)?;
            if found != *expected {
                return Err(BundleError::Digest {
                    path,
                    expected: expected.clone(),
                    found,
                });
            }
        }
        Ok(Self {
            manifest,
            directory,
        })
    }

    /// Bytes of a small file in the bundle, at most [`READ_LIMIT`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, BundleError> {
        read_limited(&self.path(name), READ_LIMIT)
    }

    /// Path of a file in the bundle.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Why there is no manifest to read: most often the path is not the one that was meant.
fn no_bundle(directory: &Path, error: BundleError) -> BundleError {
    let path = directory.to_path_buf();
    match &error {
        BundleError::Read { source, .. } => match source.kind() {
            io::ErrorKind::NotFound if directory.is_dir() => BundleError::NoManifest { path },
            io::ErrorKind::NotFound => BundleError::Absent { path },
            io::ErrorKind::NotADirectory => BundleError::NotAFolder { path },
            _ => error,
        },
        _ => error,
    }
}

fn verify(directory: &Path, json: &[u8], keys: &TrustedKeys) -> Result<(), BundleError> {
    let path = directory.join(SIGNATURE);
    let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    if path.symlink_metadata().is_err_and(missing) {
        return Err(BundleError::Unsigned { path });
    }
    let bytes = read_limited(&path, SIGNATURE_LIMIT)?;
    let verified = std::str::from_utf8(&bytes)
        .map_err(|_| SignatureError::Form)
        .and_then(|text| keys.verify(json, text));
    verified.map_err(|source| BundleError::Signature { path, source })
}

/// Hex SHA-256 of a file, as `files` of a manifest holds it.
pub fn file_digest(path: &Path) -> Result<String, BundleError> {
    let mut file = open_regular(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0_u8; 1 << 16];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(hex::encode(hash.finalize())),
            Ok(count) => hash.update(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(BundleError::Read {
                    path: path.to_path_buf(),
                    source,
                });
            }
        }
    }
}

fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| BundleError::Read {
            path: path.to_path_buf(),
            source,
        })?;
    if bytes.len() as u64 > limit {
        return Err(BundleError::TooLarge {
            path: path.to_path_buf(),
            limit,
        });
    }
    Ok(bytes)
}

/// Opens a regular file; a link or a device could lead out of the bundle or never end.
fn open_regular(path: &Path) -> Result<File, BundleError> {
    let fail = |source| BundleError::Read {
        path: path.to_path_buf(),
        source,
    };
    if !path.symlink_metadata().map_err(fail)?.is_file() {
        return Err(BundleError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    File::open(path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn complete() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = crate::manifest::tests::sample();
        for (name, digest) in &mut manifest.files {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            *digest = file_digest(&path).unwrap();
        }
        fs::write(folder.path().join(MANIFEST), manifest.seal().to_json()).unwrap();
        folder
    }

    #[test]
    fn a_complete_bundle_opens() {
        let folder = complete();
        let folder = folder.path();
        fs::write(folder.join("notes.txt"), "not named, not read").unwrap();
        let bundle = Bundle::open(folder).unwrap();
        assert_eq!(bundle.manifest.name, "cine");
        assert_eq!(fs::read(bundle.path("graph.onnx")).unwrap(), b"graph.onnx");
        assert_eq!(bundle.read(GOLDEN_MASK).unwrap(), GOLDEN_MASK.as_bytes());
    }

    #[test]
    fn a_signature_is_asked_for_before_the_manifest_is_read() {
        let folder = complete();
        let folder = folder.path();
        fs::write(folder.join(MANIFEST), "{").unwrap();
        let keys = TrustedKeys::default();
        let error = Bundle::open_signed(folder, &keys).unwrap_err();
        assert!(matches!(error, BundleError::Unsigned { .. }), "{error}");
        for (text, expected) in [(&b"\xff"[..], "is no minisign"), (b"x", "is no minisign")] {
            fs::write(folder.join(SIGNATURE), text).unwrap();
            let error = Bundle::open_signed(folder, &keys).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_path_that_is_no_bundle_is_said_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heart.tar");
        fs::write(&file, "tar").unwrap();
        let missing = folder.path().join("hart.tar");
        for (path, words) in [
            (
                missing.as_path(),
                "hart.tar: cannot be read, nothing is there",
            ),
            (folder.path(), "has no manifest.json, so it is no bundle"),
            (
                &file,
                "heart.tar: is a file where a bundle's folder is needed",
            ),
        ] {
            for error in [
                Bundle::open(path).unwrap_err(),
                Bundle::open_signed(path, &TrustedKeys::default()).unwrap_err(),
            ] {
                assert!(error.to_string().contains(words), "{error}");
            }
        }
    }

    #[test]
    fn damage_is_named() {
        let folder = complete();
        let folder = folder.path();
        let graph = folder.join("graph.onnx");
        fs::write(&graph, b"grapi").unwrap();
        let error = Bundle::open(folder).unwrap_err();
        assert!(
            matches!(&error, BundleError::Digest { path, .. } if *path == graph),
            "{error}"
        );
        fs::remove_file(&graph).unwrap();
        let error = Bundle::open(folder).unwrap_err();
        assert!(
            matches!(&error, BundleError::Read { path, .. } if *path == graph),
            "{error}"
        );
        fs::create_dir(&graph).unwrap();
        let error = Bundle::open(folder).unwrap_err();
        assert!(matches!(error, BundleError::NotAFile { .. }), "{error}");
        fs::write(folder.join(MANIFEST), vec![b' '; 2 << 20]).unwrap();
        let error = Bundle::open(folder).unwrap_err();
        assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
        fs::write(folder.join(MANIFEST), "{").unwrap();
        let error = Bundle::open(folder).unwrap_err();
        assert!(matches!(error, BundleError::Manifest { .. }), "{error}");
    }
}
