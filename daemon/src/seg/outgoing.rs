//! Where segmentations lie: in the folder of their reader, and in `segmentations/` of the state
//! directory until a PACS has them. A file has its name once it is complete and flushed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config;
use crate::disk;
use crate::disk::rights::FILE_MODE;
use crate::spool::{SpoolError, failed, sync_folder};

/// Patient data: for the user of the daemon and its group, where the reader may be.
const MODE: u32 = 0o640;

#[derive(Debug, Clone)]
pub(super) struct SegmentationFolders {
    /// The folder of the reader, where one is configured.
    directory: Option<PathBuf>,
    /// Present where segmentations are sent.
    outgoing: Option<Outgoing>,
}

#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) waiting: PathBuf,
    pub(super) refused: PathBuf,
    waiting_max_bytes: u64,
    refused_max_bytes: u64,
}

impl SegmentationFolders {
    pub(super) fn open(config: &config::Seg, state: &Path) -> Result<Self, SpoolError> {
        let Some(to) = &config.send_to else {
            return Ok(Self {
                directory: config.directory.clone(),
                outgoing: None,
            });
        };
        let outgoing = Outgoing {
            waiting: state.join("segmentations"),
            refused: state.join("segmentations/refused"),
            waiting_max_bytes: to.waiting_max_bytes,
            refused_max_bytes: to.refused_max_bytes,
        };
        disk::create_folder(&outgoing.refused).map_err(failed("create", &outgoing.refused))?;
        sync_folder(&outgoing.waiting)?;
        sync_folder(state)?;
        for (path, _) in files(&outgoing.waiting, "part")? {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(Self {
            directory: config.directory.clone(),
            outgoing: Some(outgoing),
        })
    }

    pub(super) fn outgoing(&self) -> Option<&Outgoing> {
        self.outgoing.as_ref()
    }

    /// Puts a segmentation where it belongs; again, it changes nothing. Trouble of the reader's folder
    /// is told in words, trouble of the state directory is the daemon's.
    pub(super) fn store(&self, uid: &str, bytes: &[u8]) -> Result<Option<String>, SpoolError> {
        let name = format!("{uid}.dcm");
        if let Some(directory) = &self.directory
            && let Err(error) = write(directory, &name, bytes, MODE)
        {
            return Ok(Some(format!(
                "seg.directory {}: {}; create it, give write access or make room",
                directory.display(),
                error.source
            )));
        }
        if let Some(outgoing) = &self.outgoing {
            write(&outgoing.waiting, &name, bytes, FILE_MODE)?;
            outgoing.limit()?;
        }
        Ok(None)
    }
}

impl Outgoing {
    /// What waits, oldest first.
    pub(super) fn waiting(&self) -> Result<Vec<PathBuf>, SpoolError> {
        let files = files(&self.waiting, "dcm")?;
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }

    /// The PACS has the object: its file is removed.
    pub(super) fn sent(&self, path: &Path) -> Result<(), SpoolError> {
        ignore_not_found(fs::remove_file(path)).map_err(failed("remove from", &self.waiting))?;
        sync_folder(&self.waiting)
    }

    /// The PACS refuses the object: its file is set aside.
    pub(super) fn refuse(&self, path: &Path) -> Result<(), SpoolError> {
        self.set_aside(path)?;
        self.limit()
    }

    fn set_aside(&self, path: &Path) -> Result<(), SpoolError> {
        let to = self.refused.join(path.file_name().unwrap_or_default());
        ignore_not_found(fs::rename(path, to)).map_err(failed("move to", &self.refused))?;
        sync_folder(&self.refused)?;
        sync_folder(&self.waiting)
    }

    fn limit(&self) -> Result<(), SpoolError> {
        for path in oldest_beyond(&self.waiting, self.waiting_max_bytes)? {
            let key = "seg.send_to.waiting_max_bytes";
            tracing::error!(
                key,
                "segmentations wait above the limit, the oldest is refused"
            );
            self.set_aside(&path)?;
        }
        for path in oldest_beyond(&self.refused, self.refused_max_bytes)? {
            let key = "seg.send_to.refused_max_bytes";
            tracing::error!(
                key,
                "refused segmentations are above the limit, the oldest is removed"
            );
            ignore_not_found(fs::remove_file(&path))
                .map_err(failed("remove from", &self.refused))?;
        }
        Ok(())
    }
}

/// Two threads are at work here: the other one may have done it.
fn ignore_not_found(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The oldest files, as many as are too many; never the last one.
fn oldest_beyond(folder: &Path, max_bytes: u64) -> Result<Vec<PathBuf>, SpoolError> {
    let mut files = files(folder, "dcm")?;
    let mut total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let mut oldest = Vec::new();
    files.pop();
    for (path, bytes) in files {
        if total <= max_bytes {
            break;
        }
        total -= bytes;
        oldest.push(path);
    }
    Ok(oldest)
}

/// Files with this extension and their sizes, oldest first.
fn files(folder: &Path, extension: &str) -> Result<Vec<(PathBuf, u64)>, SpoolError> {
    let mut found: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
    let entries = fs::read_dir(folder).map_err(failed("read", folder))?;
    for entry in entries {
        let path = entry.map_err(failed("read", folder))?.path();
        if path.extension().is_none_or(|name| name != extension) {
            continue;
        }
        // Gone by now: the other thread has sent it.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push((modified, path, metadata.len()));
    }
    found.sort();
    Ok(found
        .into_iter()
        .map(|(_, path, bytes)| (path, bytes))
        .collect())
}

/// Write, flush, rename, flush the folder.
fn write(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), SpoolError> {
    let part = folder.join(format!(".{name}.part"));
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(mode);
    let written = open.open(&part).and_then(|mut file: File| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&part, folder.join(name)));
    if let Err(error) = placed {
        // Only in the way; the next try writes over it.
        let _ = fs::remove_file(&part);
        return Err(failed("write in", folder)(error));
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seg::series;
    use crate::seg::tests::slice;

    fn names(folder: &Path) -> Vec<String> {
        let paths = files(folder, "dcm").unwrap().into_iter();
        let stem =
            |(path, _): (PathBuf, u64)| path.file_stem().unwrap().to_str().unwrap().to_owned();
        paths.map(stem).collect()
    }

    #[test]
    fn what_waits_and_what_is_refused_has_a_limit() {
        let state = tempfile::tempdir().unwrap();
        let mut config: config::Seg =
            toml::from_str("[send_to]\nhost = \"localhost\"\ncalled_ae_title = \"PACS\"").unwrap();
        let made: Vec<(String, Vec<u8>)> = (1..=4)
            .flat_map(|number| series::make(&[slice(number, 1)], "box-1"))
            .map(|made| (made.sop_instance_uid, made.bytes.unwrap()))
            .collect();
        let bytes = made[0].1.len() as u64;
        if let Some(to) = &mut config.send_to {
            to.waiting_max_bytes = 2 * bytes + bytes / 2;
            to.refused_max_bytes = bytes + bytes / 2;
        }
        config.directory = Some(state.path().join("absent"));
        let folders = SegmentationFolders::open(&config, state.path()).unwrap();
        let trouble = folders.store(&made[0].0, &made[0].1).unwrap().unwrap();
        assert!(
            trouble.contains("seg.directory") && trouble.contains("create it"),
            "{trouble}"
        );
        let outgoing = folders.outgoing().unwrap();
        assert_eq!(names(&outgoing.waiting), [""; 0], "not half placed");
        config.directory = None;
        let folders = SegmentationFolders::open(&config, state.path()).unwrap();
        let uid = |index: usize| made[index].0.clone();
        for (uid, bytes) in &made {
            assert_eq!(folders.store(uid, bytes).unwrap(), None);
            // Files of one moment have no order.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(names(&outgoing.waiting), [uid(2), uid(3)]);
        assert_eq!(names(&outgoing.refused), [uid(1)]);
        let first = outgoing.waiting().unwrap().remove(0);
        outgoing.sent(&first).unwrap();
        outgoing.sent(&first).unwrap();
        assert_eq!(names(&outgoing.waiting), [uid(3)]);
    }

    #[test]
    fn what_a_kill_left_half_written_goes() {
        let state = tempfile::tempdir().unwrap();
        let text = "[send_to]\nhost = \"localhost\"\ncalled_ae_title = \"PACS\"";
        let config: config::Seg = toml::from_str(text).unwrap();
        SegmentationFolders::open(&config, state.path()).unwrap();
        let part = state.path().join("segmentations/.2.25.1.dcm.part");
        fs::write(&part, b"half").unwrap();
        SegmentationFolders::open(&config, state.path()).unwrap();
        assert!(!part.exists());
    }
}
