//! A file on its way into the spool, written outside of `accepted/<source>/`: what a kill leaves of it is
//! taken neither for an input nor for an orphan, and the next start removes it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::name::new_name;
use super::{Spool, SpoolError, failed, sync_folder};
use crate::clock;
use crate::disk::{self, rights::create_file};
use crate::outbox::Arrival;
use crate::outbox::job::Sender;

/// Trouble of the state directory while a file is written there.
#[derive(Debug)]
pub enum PartError {
    NoRoom,
    Spool(SpoolError),
}

/// Dropped before it has its place, it leaves nothing.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    placed: bool,
}

impl Part {
    /// For the name `to`.
    pub(super) fn create(to: &Path) -> Result<Self, PartError> {
        let accepted = to.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let path = accepted.join(format!("{name}.part"));
        let file = create_file(&path).map_err(spool_error("write", &path))?;
        Ok(Self {
            file,
            path,
            placed: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        self.file
            .write_all(bytes)
            .map_err(spool_error("write", &self.path))
    }

    pub(super) fn flush(&self) -> Result<(), PartError> {
        self.file
            .sync_all()
            .map_err(spool_error("flush", &self.path))
    }

    /// Gives it its name, once it is flushed. The folder is the caller's to flush.
    pub(super) fn place(mut self, to: &Path) -> Result<(), PartError> {
        fs::rename(&self.path, to).map_err(spool_error("move to", to))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.placed {
            // Only in the way; the next start tries again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A file that comes over the network. Dropped before it has its place, it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    part: Part,
    folder: PathBuf,
    source: String,
    original: String,
    sender: Option<Sender>,
}

impl Spool {
    /// Begins a file of `source`; `original` is the end of its name in the spool.
    pub fn receive(&self, source: &str, original: &str) -> Result<Incoming, PartError> {
        let folder = self.accepted.join(source);
        disk::create_folder(&folder).map_err(spool_error("create", &folder))?;
        let to = folder.join(new_name(Path::new(original)));
        Ok(Incoming {
            part: Part::create(&to)?,
            folder,
            source: source.to_owned(),
            original: original.to_owned(),
            sender: None,
        })
    }
}

impl Incoming {
    pub fn sent_by(self, sender: Sender) -> Self {
        Self {
            sender: Some(sender),
            ..self
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        self.part.write(bytes)
    }

    /// Flush, rename, flush the folder. The row is still missing.
    pub fn place(self) -> Result<Arrival, PartError> {
        // Named now: the name says when the job began to wait.
        let name = new_name(Path::new(&self.original));
        self.part.flush()?;
        self.part.place(&self.folder.join(&name))?;
        sync_folder(&self.folder).map_err(PartError::Spool)?;
        Ok(Arrival {
            source: self.source,
            file: name,
            received_at: clock::now(),
            sender: self.sender,
        })
    }
}

pub(super) fn spool_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> PartError {
    move |error| {
        if full(&error) {
            PartError::NoRoom
        } else {
            PartError::Spool(failed(action, path)(error))
        }
    }
}

pub(super) fn full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Outbox;
    use crate::spool::recover::recover;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_is_whole_in_the_spool_or_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(folder.path(), 0).unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let mut incoming = spool.receive("pacs", "object.dcm").unwrap();
        incoming.write(b"half").unwrap();
        let folder = spool.accepted.join("pacs");
        assert!(names(&folder).is_empty());
        drop(incoming);
        assert_eq!(names(&spool.accepted), ["pacs"]);
        // A kill runs no destructor.
        let mut incoming = spool.receive("pacs", "object.dcm").unwrap();
        incoming.write(b"half").unwrap();
        std::mem::forget(incoming);
        assert!(recover(&outbox, &spool).unwrap().is_empty());
        assert_eq!(names(&spool.accepted), ["pacs"]);

        let mut incoming = spool.receive("pacs", "object.dcm").unwrap();
        incoming.write(b"pix").unwrap();
        incoming.write(b"els").unwrap();
        let arrival = incoming.place().unwrap();
        assert_eq!(fs::read(folder.join(&arrival.file)).unwrap(), b"pixels");
        assert!(arrival.file.ends_with("-object.dcm"));
        assert_eq!(outbox.accept(&[arrival]).unwrap(), [1]);
        assert!(recover(&outbox, &spool).unwrap() == [1]);
    }
}
