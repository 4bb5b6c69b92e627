//! The state directory's file system: free space, folders that outlast a power cut, and who may read what lies there.

pub(crate) mod mounts;
pub(crate) mod rights;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Once;

use rights::FOLDER_MODE;

/// Bytes an ordinary user may still write; `None` when the system does not say.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    // Asked at every sweep.
    static SAID: Once = Once::new();
    let stat = rustix::fs::statvfs(path)
        .inspect_err(|error| {
            SAID.call_once(|| tracing::warn!(%error, "free disk space is unknown"));
        })
        .ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Files that can still be made; 0 where the file system sets no limit.
pub(crate) fn free_files(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|stat| stat.f_favail)
}

/// Whether the disk is below its watermark; unknown counts as room.
pub(crate) fn below(path: &Path, watermark_bytes: u64) -> bool {
    free_bytes(path).is_some_and(|free| free < watermark_bytes)
}

/// Makes a folder of the state directory and those above it. Its name is on the disk then: what is flushed in a folder
/// whose own name is not is lost with it.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    create_outermost(path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    rights::hand_over(&File::open(path)?, parent)
}

/// Makes the state directory itself, which belongs to the user that makes it, not to the owner of the folder above it.
pub(crate) fn create_outermost(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_outermost(parent)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(parent)
}

pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads the folder, then makes and removes a hidden file as the daemon would.
pub(crate) fn writable(folder: &Path) -> Result<(), String> {
    let name = folder.display();
    fs::read_dir(folder)
        .map_err(|error| format!("cannot read {name}: {error}; create it or give read access"))?;
    let probe = folder.join(".scansided-check");
    fs::write(&probe, b"")
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|error| format!("cannot write in {name}: {error}; give this user write access"))
}

/// Stands before each write of a change that a power cut may interrupt. Builds with debug assertions
/// stop before the n-th when a test says so with SCANSIDE_STOP_AT_STEP=n; others do nothing.
pub(crate) fn step() {
    #[cfg(debug_assertions)]
    {
        use std::sync::LazyLock;
        use std::sync::atomic::{AtomicU64, Ordering};
        static STEPS: AtomicU64 = AtomicU64::new(0);
        static STOP: LazyLock<Option<u64>> = LazyLock::new(|| {
            let text = std::env::var("SCANSIDE_STOP_AT_STEP").ok()?;
            text.parse().ok()
        });
        if STOP.is_some_and(|stop| STEPS.fetch_add(1, Ordering::Relaxed) + 1 == stop) {
            std::process::abort();
        }
    }
}
