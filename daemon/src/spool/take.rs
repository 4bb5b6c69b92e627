//! Takes one file out of an inbox.
//!
//! On the file system of the state directory that is a rename, unless the file belongs to somebody else and others may
//! read it: a copy is ours to close. For a copy, as from another file system, the file first gets
//! a hidden name in its own folder, a claim: that proves the right to remove it before anything is
//! copied. The claim carries the name in the spool, so what a kill leaves is found by the next sweep
//! and ends in the same place.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::name::{label, new_name};
use super::part::{Part, PartError, full, spool_error};
use super::{SpoolError, sync_folder};
use crate::disk::{self, rights};

/// A file of an inbox as it looked while it stood still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: Option<SystemTime>,
}

/// Why a file is not in the spool.
#[derive(Debug)]
pub(super) enum NotMoved {
    /// Somebody else took it away.
    Gone,
    /// Somebody writes to it.
    Changed,
    NoRoom,
    /// Trouble of this file or of its inbox; the others can be taken.
    Inbox(&'static str, io::Error),
    /// Trouble of the state directory.
    Spool(SpoolError),
}

const CLAIM_PREFIX: &str = ".scansided-claim-";
const BUFFER_BYTES: usize = 256 * 1024;

/// The name in the spool that a left-over claim carries.
pub(crate) fn claimed(name: &str) -> Option<&str> {
    name.strip_prefix(CLAIM_PREFIX)
        .filter(|name| label(name).is_some())
}

pub(super) fn spooled_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    claimed(&name).map_or_else(|| new_name(path), str::to_owned)
}

/// Moves one file to `to` with its bytes flushed. A copy leaves `min_free_bytes` on the disk.
pub(super) fn take(found: &InboxFile, to: &Path, min_free_bytes: u64) -> Result<(), NotMoved> {
    let from = &found.path;
    if to.exists() {
        // A kill came between the copy and the removal of its claim; the copy has its row.
        fs::remove_file(from).map_err(inbox("claim cannot be removed"))?;
        return Err(NotMoved::Gone);
    }
    let open = File::open(from).map_err(inbox("file cannot be read"))?;
    let metadata = open.sync_all().and_then(|()| open.metadata());
    let metadata = metadata.map_err(inbox("file cannot be read"))?;
    found.compare(from)?;
    if rights::is_others(&metadata) {
        return bring_over(found, to, min_free_bytes);
    }
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            bring_over(found, to, min_free_bytes)
        }
        // Both ends are on the disk of the state directory.
        Err(error) if full(&error) || broken(&error) => {
            Err(spool_error("move to", to)(error).into())
        }
        moved => {
            moved.map_err(inbox("file cannot be moved"))?;
            // A file system without rights has nothing to close.
            let _ = rights::close(to);
            Ok(())
        }
    }
}

impl InboxFile {
    fn compare(&self, path: &Path) -> Result<(), NotMoved> {
        let metadata = fs::symlink_metadata(path).map_err(inbox("file cannot be read"))?;
        if metadata.len() == self.bytes && metadata.modified().ok() == self.modified {
            Ok(())
        } else {
            Err(NotMoved::Changed)
        }
    }
}

fn bring_over(found: &InboxFile, to: &Path, min_free_bytes: u64) -> Result<(), NotMoved> {
    let spool_folder = to.parent().unwrap_or(Path::new("."));
    let needed = found.bytes.saturating_add(min_free_bytes);
    if disk::below(spool_folder, needed) {
        return Err(NotMoved::NoRoom);
    }
    let claim = hide(&found.path, to)?;
    if let Err(stay) = copy(found, &claim, to) {
        give_back(&claim, &found.path);
        return Err(stay);
    }
    sync_folder(spool_folder).map_err(NotMoved::Spool)?;
    match fs::remove_file(&claim) {
        // Removed by somebody else: the copy is the image now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            fs::remove_file(to).map_err(spool_error("remove", to))?;
            give_back(&claim, &found.path);
            Err(NotMoved::Inbox("file cannot be removed", error))
        }
        Ok(()) => Ok(()),
    }
}

fn hide(from: &Path, to: &Path) -> Result<PathBuf, NotMoved> {
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    if claimed(&name).is_some() {
        return Ok(from.to_owned());
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let claim = from.with_file_name(format!("{CLAIM_PREFIX}{name}"));
    fs::rename(from, &claim).map_err(inbox("file cannot be renamed"))?;
    Ok(claim)
}

/// The sender may have written another file under the name since; the claim then stays, and so it
/// does where the file system cannot tell. The next sweep finds it.
fn give_back(claim: &Path, original: &Path) {
    let _ = renameat_with(CWD, claim, CWD, original, RenameFlags::NOREPLACE);
}

fn copy(found: &InboxFile, claim: &Path, to: &Path) -> Result<(), NotMoved> {
    let mut source = File::open(claim).map_err(inbox("file cannot be read"))?;
    let mut part = Part::create(to)?;
    if fill(&mut source, &mut part)? != found.bytes {
        return Err(NotMoved::Changed);
    }
    part.flush()?;
    found.compare(claim)?;
    Ok(part.place(to)?)
}

/// Reading and writing apart, because only one of them is trouble of our own disk.
fn fill(source: &mut File, part: &mut Part) -> Result<u64, NotMoved> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total_bytes = 0;
    loop {
        let n_bytes = match source.read(&mut buffer) {
            Ok(0) => return Ok(total_bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(inbox("file cannot be read"))?,
        };
        part.write(&buffer[..n_bytes])?;
        total_bytes += n_bytes as u64;
    }
}

impl From<PartError> for NotMoved {
    fn from(error: PartError) -> Self {
        match error {
            PartError::NoRoom => Self::NoRoom,
            PartError::Spool(error) => Self::Spool(error),
        }
    }
}

fn inbox(why: &'static str) -> impl FnOnce(io::Error) -> NotMoved {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => NotMoved::Gone,
        _ => NotMoved::Inbox(why, error),
    }
}

/// A rename within the disk of the state directory that fails like this says that the disk is bad.
pub(crate) fn broken(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.kind() == io::ErrorKind::ReadOnlyFilesystem || error.raw_os_error() == Some(EIO)
}

#[cfg(test)]
mod tests;
