//! A file on its way to a shelf, written outside of `accepted/<source>/`: what a kill leaves of it is
//! taken neither for an input nor for an orphan, and the next start removes it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::name::shelf_name;
use super::{ShelfError, Shelves, failed, sync_folder};
use crate::clock;
use crate::disk::{self, rights::create_file};
use crate::outbox::Arrival;
use crate::outbox::job::Sender;

/// Trouble of the state directory while a file is written there.
#[derive(Debug)]
pub enum PartError {
    NoRoom,
    Shelf(ShelfError),
}

/// Dropped before it has its place, it leaves nothing.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    placed: bool,
}

impl Part {
    /// For the shelf name `to`.
    pub(super) fn create(to: &Path) -> Result<Self, PartError> {
        let accepted = to.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let path = accepted.join(format!("{name}.part"));
        let file = create_file(&path).map_err(shelf("write", &path))?;
        Ok(Self {
            file,
            path,
            placed: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        self.file
            .write_all(bytes)
            .map_err(shelf("write", &self.path))
    }

    pub(super) fn flush(&self) -> Result<(), PartError> {
        self.file.sync_all().map_err(shelf("flush", &self.path))
    }

    /// Gives it its name, once it is flushed. The folder is the caller's to flush.
    pub(super) fn place(mut self, to: &Path) -> Result<(), PartError> {
        fs::rename(&self.path, to).map_err(shelf("move to", to))?;
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
    shelf: PathBuf,
    source: String,
    original: String,
    sender: Option<Sender>,
}

impl Shelves {
    /// Begins a file of `source`; `original` is the end of its name on the shelf.
    pub fn receive(&self, source: &str, original: &str) -> Result<Incoming, PartError> {
        let shelf = self.accepted.join(source);
        disk::create_folder(&shelf).map_err(self::shelf("create", &shelf))?;
        let to = shelf.join(shelf_name(Path::new(original)));
        Ok(Incoming {
            part: Part::create(&to)?,
            shelf,
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
        let name = shelf_name(Path::new(&self.original));
        self.part.flush()?;
        self.part.place(&self.shelf.join(&name))?;
        sync_folder(&self.shelf).map_err(PartError::Shelf)?;
        Ok(Arrival {
            source: self.source,
            file: name,
            received_at: clock::now(),
            sender: self.sender,
        })
    }
}

pub(super) fn shelf(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PartError {
    move |error| {
        if full(&error) {
            PartError::NoRoom
        } else {
            PartError::Shelf(failed(action, path)(error))
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
    fn a_file_is_whole_on_its_shelf_or_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let shelves = Shelves::create(folder.path(), 0).unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let mut incoming = shelves.receive("pacs", "object.dcm").unwrap();
        incoming.write(b"half").unwrap();
        let shelf = shelves.accepted.join("pacs");
        assert!(names(&shelf).is_empty());
        drop(incoming);
        assert_eq!(names(&shelves.accepted), ["pacs"]);
        // A kill runs no destructor.
        let mut incoming = shelves.receive("pacs", "object.dcm").unwrap();
        incoming.write(b"half").unwrap();
        std::mem::forget(incoming);
        assert!(recover(&outbox, &shelves).unwrap().is_empty());
        assert_eq!(names(&shelves.accepted), ["pacs"]);

        let mut incoming = shelves.receive("pacs", "object.dcm").unwrap();
        incoming.write(b"pix").unwrap();
        incoming.write(b"els").unwrap();
        let arrival = incoming.place().unwrap();
        assert_eq!(fs::read(shelf.join(&arrival.file)).unwrap(), b"pixels");
        assert!(arrival.file.ends_with("-object.dcm"));
        assert_eq!(outbox.accept(&[arrival]).unwrap(), [1]);
        assert!(recover(&outbox, &shelves).unwrap() == [1]);
    }
}
