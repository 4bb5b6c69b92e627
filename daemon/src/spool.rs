//! Durable acceptance and the folders below the state directory.
//!
//! `accepted/<source>/` inputs with a row in the outbox; `quarantine/` inputs that ended with a reason;
//! `kept/` inputs of published results until their time is over. An input is accepted once its row is
//! committed; a file without a row (the process died in between) gets one at the next start.

pub(crate) mod name;
mod part;
mod take;
pub mod quarantine;
pub mod recover;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock;
use crate::disk;
use crate::outbox::job::Job;
use crate::outbox::{Arrival, OutboxError};

use name::{STAMP_DIGITS, nameless, stamp};
pub use part::{Incoming, PartError};
pub use take::InboxFile;
use take::NotMoved;
pub(crate) use take::{broken, claimed};

/// Where inputs lie. All on the file system of the outbox.
#[derive(Debug, Clone)]
pub struct Spool {
    pub accepted: PathBuf,
    pub quarantine: PathBuf,
    kept: PathBuf,
    keep: Duration,
    /// Held while a file goes into quarantine or out of it, see `quarantine`.
    pub(crate) moving: Arc<Mutex<()>>,
}

/// Trouble of the state directory. Without the original name of a file: it may be a patient's.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", nameless(path).display())]
pub struct SpoolError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// Names one failed step of file handling.
pub(crate) fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> SpoolError + use<> {
    let path = path.to_owned();
    move |source| SpoolError {
        action,
        path,
        source,
    }
}

impl Spool {
    pub fn create(state: &Path, keep_days: u32) -> Result<Self, SpoolError> {
        let spool = Self {
            accepted: state.join("accepted"),
            quarantine: state.join("quarantine"),
            kept: state.join("kept"),
            keep: Duration::from_secs(u64::from(keep_days) * 86_400),
            moving: Arc::default(),
        };
        for path in [&spool.accepted, &spool.quarantine, &spool.kept] {
            disk::create_folder(path).map_err(failed("create", path))?;
            let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
            if device(path).map_err(failed("read", path))?
                != device(state).map_err(failed("read", state))?
            {
                let why = "it is on another file system than the state directory";
                return Err(failed("use", path)(io::Error::other(why)));
            }
        }
        // A kill may have come between a folder and the flush of its name.
        for path in [state, &spool.accepted] {
            sync_folder(path)?;
        }
        Ok(spool)
    }

    /// The state directory.
    pub(crate) fn state(&self) -> &Path {
        self.accepted.parent().unwrap_or(Path::new("."))
    }

    pub fn input(&self, job: &Job) -> PathBuf {
        self.accepted.join(&job.source).join(&job.file)
    }

    /// Takes files out of an inbox: flush, move, flush both folders. The rows are still missing.
    /// What has to be copied leaves `min_free_bytes` on the disk; without room the rest stays.
    pub fn claim(
        &self,
        source: &str,
        files: &[InboxFile],
        min_free_bytes: u64,
    ) -> Result<ClaimedFiles, SpoolError> {
        let folder = self.accepted.join(source);
        disk::create_folder(&folder).map_err(failed("create", &folder))?;
        let mut claimed = ClaimedFiles::default();
        let mut folders = HashSet::new();
        for file in files {
            let name = take::spooled_name(&file.path);
            match take::take(file, &folder.join(&name), min_free_bytes) {
                Ok(()) => {
                    folders.extend(file.path.parent());
                    claimed.arrivals.push(Arrival {
                        source: source.to_owned(),
                        file: name,
                        received_at: clock::now(),
                        sender: None,
                    });
                }
                Err(NotMoved::Gone | NotMoved::Changed) => {}
                Err(NotMoved::NoRoom) => {
                    claimed.no_room = true;
                    break;
                }
                Err(NotMoved::Inbox(why, error)) => claimed.left.push(Left {
                    path: file.path.clone(),
                    why,
                    error,
                }),
                Err(NotMoved::Spool(error)) => return Err(error),
            }
        }
        sync_folder(&folder)?;
        claimed.left.extend(flush(folders));
        Ok(claimed)
    }

    /// Removes or keeps the input of a published job.
    pub fn release_input(&self, job: &Job) -> Result<(), SpoolError> {
        let input = self.input(job);
        let gone = if self.keep.is_zero() {
            fs::remove_file(&input)
        } else {
            let rest = job.file.get(STAMP_DIGITS..).unwrap_or(&job.file);
            fs::rename(&input, self.kept.join(format!("{}{rest}", stamp())))
        };
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &input)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes kept inputs whose time is over; their names start with the time of the move.
    pub fn expire(&self) -> Result<(), SpoolError> {
        let now = Duration::from_millis(clock::unix_ms(clock::for_expiry()));
        let limit = now.saturating_sub(self.keep).as_nanos() as u64;
        for entry in fs::read_dir(&self.kept).map_err(failed("read", &self.kept))? {
            let entry = entry.map_err(failed("read", &self.kept))?;
            let name = entry.file_name();
            let stamp = name.to_str().and_then(|name| name.get(..STAMP_DIGITS));
            let since = stamp.and_then(|stamp| u64::from_str_radix(stamp, 16).ok());
            if since.is_some_and(|since| since < limit) {
                fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

/// What came out of an inbox, and what did not.
#[derive(Debug, Default)]
pub struct ClaimedFiles {
    pub arrivals: Vec<Arrival>,
    pub left: Vec<Left>,
    /// Files were left because a copy would take the disk below its watermark.
    pub no_room: bool,
}

/// Something in an inbox that does not work.
#[derive(Debug)]
pub struct Left {
    pub path: PathBuf,
    pub why: &'static str,
    pub error: io::Error,
}

/// Flushes folders of an inbox. A sender may have removed its own when they were empty.
fn flush<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Vec<Left> {
    let mut left = Vec::new();
    for folder in folders {
        let Err(SpoolError { source: error, .. }) = sync_folder(folder) else {
            continue;
        };
        if error.kind() != io::ErrorKind::NotFound {
            left.push(Left {
                path: folder.to_owned(),
                why: "folder cannot be flushed; after a power cut images may come twice",
                error,
            });
        }
    }
    left
}

pub(crate) fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    disk::sync_folder(folder).map_err(failed("flush", folder))
}

#[cfg(test)]
mod tests {
    use super::name::new_name;
    use super::*;
    use crate::outbox::job::State;

    #[test]
    fn a_folder_that_its_sender_removed_is_no_trouble() {
        let folder = tempfile::tempdir().unwrap();
        assert!(flush([folder.path(), &folder.path().join("gone")]).is_empty());
        // procfs cannot flush.
        assert_eq!(flush([Path::new("/proc")]).len(), 1);
    }

    #[test]
    fn kept_inputs_expire_after_their_publication() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(folder.path(), 1).unwrap();
        fs::write(spool.kept.join(format!("{:016x}-0-old", 1)), b"").unwrap();
        // Accepted long ago, published now.
        let job = Job {
            source: "ward".into(),
            file: format!("{:016x}-0-slow", 1),
            received_at: clock::now(),
            attempts: 1,
            state: State::Published,
        };
        fs::create_dir(spool.accepted.join("ward")).unwrap();
        fs::write(spool.input(&job), b"").unwrap();
        spool.release_input(&job).unwrap();
        spool.expire().unwrap();
        let kept: Vec<_> = fs::read_dir(&spool.kept).unwrap().flatten().collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].file_name().to_str().unwrap().ends_with("-0-slow"));
    }

    #[test]
    fn errors_do_not_name_patients() {
        let name = new_name(Path::new("DOE^JANE.dcm"));
        let path = Path::new("/state/accepted/ward").join(&name);
        for path in [path.clone(), path.with_file_name(format!("{name}.part"))] {
            let text = failed("move", &path)(io::Error::other("no")).to_string();
            assert!(
                text.starts_with("cannot move /state/accepted/ward/"),
                "{text}"
            );
            assert!(text.contains(&name[..STAMP_DIGITS]), "{text}");
            assert!(!text.contains("DOE"), "{text}");
        }
        assert_eq!(nameless(Path::new("/state/kept")), Path::new("/state/kept"));
    }
}
