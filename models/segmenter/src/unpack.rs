//! A `.tar` of a bundle into a temporary directory, without trusting its entries.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType};
use tempfile::TempDir;

const MAX_ENTRIES: usize = 64;
const MAX_BYTES: u64 = 2 << 30;

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{}: cannot be read as tar: {source}; copy the bundle again", path.display())]
    Archive { path: PathBuf, source: io::Error },
    #[error("a temporary directory cannot be written: {0}; check TMPDIR and its free space")]
    Temporary(io::Error),
    #[error(
        "{}: entry {entry:?} is no plain file inside the bundle; pack regular files with relative names only",
        path.display()
    )]
    Entry { path: PathBuf, entry: String },
    #[error("{}: has more than {MAX_ENTRIES} entries; this is no bundle", path.display())]
    TooManyEntries { path: PathBuf },
    #[error("{}: unpacks to more than {MAX_BYTES} bytes; this is no bundle", path.display())]
    TooLarge { path: PathBuf },
}

/// The unpacked bundle and the directory in it that holds the files: the archive's root, or the one
/// folder that all entries share.
pub fn unpack(path: &Path) -> Result<(TempDir, PathBuf), UnpackError> {
    let broken = |source| UnpackError::Archive {
        path: path.to_path_buf(),
        source,
    };
    let target = tempfile::Builder::new()
        .prefix("scanside-bundle-")
        .tempdir()
        .map_err(UnpackError::Temporary)?;
    let mut archive = Archive::new(File::open(path).map_err(broken)?);
    let mut bytes = 0u64;
    // Raw: extension headers come as entries, instead of being read whole into memory.
    let entries = archive.entries().map_err(broken)?.raw(true);
    for (index, entry) in entries.enumerate() {
        if index >= MAX_ENTRIES {
            return Err(UnpackError::TooManyEntries {
                path: path.to_path_buf(),
            });
        }
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        let refused = || UnpackError::Entry {
            path: path.to_path_buf(),
            entry: name.display().to_string(),
        };
        let plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
        if !name.components().all(plain) {
            return Err(refused());
        }
        let destination = target.path().join(&name);
        match entry.header().entry_type() {
            EntryType::Directory => {
                std::fs::create_dir_all(&destination).map_err(UnpackError::Temporary)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                bytes = bytes.saturating_add(entry.size());
                if bytes > MAX_BYTES {
                    return Err(UnpackError::TooLarge {
                        path: path.to_path_buf(),
                    });
                }
                let parent = destination.parent().ok_or_else(refused)?;
                std::fs::create_dir_all(parent).map_err(UnpackError::Temporary)?;
                // `create_new`: a name that comes twice is refused instead of overwritten.
                let mut file = File::create_new(&destination).map_err(|_| refused())?;
                io::copy(&mut entry, &mut file).map_err(broken)?;
            }
            EntryType::XHeader | EntryType::XGlobalHeader => {}
            _ => return Err(refused()),
        }
    }
    let root = bundle_root(target.path()).map_err(UnpackError::Temporary)?;
    Ok((target, root))
}

fn bundle_root(directory: &Path) -> io::Result<PathBuf> {
    if directory.join(contract::bundle::MANIFEST).exists() {
        return Ok(directory.to_path_buf());
    }
    let entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    Ok(match entries.as_slice() {
        [only] if only.path().is_dir() => only.path(),
        _ => directory.to_path_buf(),
    })
}
