//! An inbox folder: files that stand still are claimed by rename and accepted.
//!
//! inotify only shortens the wait: it is blind on network file systems, so the folder is also swept
//! every `poll_interval_ms`. Hidden files, `*.part` and `*.tmp` belong to a copy under way.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc, watch};

use crate::accept::{AcceptError, Shelves, shelf_name};
use crate::config;
use crate::disk;
use crate::failure::Failure;
use crate::job::Ticket;
use crate::outbox::Outbox;
use crate::quarantine;
use crate::shutdown::stopped;
use crate::status::Status;

/// Files accepted in one commit.
const BATCH: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error("the task of a sweep did not end: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What a sweep needs besides the inbox itself.
#[derive(Debug, Clone)]
pub struct Door {
    pub outbox: Arc<Outbox>,
    pub shelves: Shelves,
    pub status: Arc<Status>,
    pub min_free_bytes: u64,
}

/// Watches until `stop` or until the inference thread is gone.
pub async fn run(
    config: config::Folder,
    door: Door,
    tickets: mpsc::Sender<Ticket>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), FolderError> {
    let changed = Arc::new(Notify::new());
    let _watcher = watch_folder(&config, Arc::clone(&changed));
    let interval = Duration::from_millis(config.poll_interval_ms);
    let stable = Duration::from_millis(config.stable_ms);
    let mut inbox = Inbox::new(config);
    loop {
        let door = door.clone();
        let (back, accepted) = tokio::task::spawn_blocking(move || {
            let accepted = inbox.accept(&door);
            (inbox, accepted)
        })
        .await?;
        inbox = back;
        for ticket in accepted? {
            tokio::select! {
                sent = tickets.send(ticket) => if sent.is_err() { return Ok(()) },
                // The rest of the batch is in the outbox and comes back at the next start.
                () = stopped(&mut stop) => return Ok(()),
            }
        }
        // A file that moved lately has to be looked at again once it may stand still.
        let wait = if inbox.growing() {
            interval.min(stable.max(MIN_WAIT))
        } else {
            interval
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed.notified() => tokio::time::sleep(MIN_WAIT).await,
            () = stopped(&mut stop) => return Ok(()),
        }
    }
}

/// Shortest time between two sweeps.
const MIN_WAIT: Duration = Duration::from_millis(50);

fn watch_folder(
    config: &config::Folder,
    changed: Arc<Notify>,
) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |_| changed.notify_one()).and_then(|mut w| {
        let mode = if config.depth_max == 0 {
            RecursiveMode::NonRecursive
        } else {
            RecursiveMode::Recursive
        };
        w.watch(&config.directory, mode)?;
        Ok(w)
    });
    watcher
        .inspect_err(|error| {
            tracing::warn!(source = config.name, %error, "inotify does not work here, polling only");
        })
        .ok()
}

/// What was seen of one inbox so far.
#[derive(Debug)]
pub struct Inbox {
    config: config::Folder,
    seen: HashMap<PathBuf, Sighting>,
    warned: HashMap<PathBuf, &'static str>,
    out_of_reach: bool,
}

#[derive(Debug, Clone, Copy)]
struct Sighting {
    bytes: u64,
    modified: Option<SystemTime>,
    since: Instant,
}

impl Inbox {
    pub fn new(config: config::Folder) -> Self {
        Self {
            config,
            seen: HashMap::new(),
            warned: HashMap::new(),
            out_of_reach: false,
        }
    }

    fn growing(&self) -> bool {
        !self.seen.is_empty()
    }

    /// One sweep: refuses what is too large, accepts what stands still, up to a batch.
    pub fn accept(&mut self, door: &Door) -> Result<Vec<Ticket>, AcceptError> {
        let ready = self.sweep(Instant::now());
        if ready.is_empty() {
            return Ok(Vec::new());
        }
        if disk::below(&door.shelves.accepted, door.min_free_bytes) {
            door.status.set_disk_low(true);
            return Ok(Vec::new());
        }
        door.status.set_disk_low(false);
        let (ready, refused): (Vec<_>, Vec<_>) = ready
            .into_iter()
            .partition(|(_, bytes)| *bytes <= self.config.file_max_bytes);
        for (path, bytes) in refused {
            let failure = Failure::FileTooLarge {
                bytes,
                limit: self.config.file_max_bytes,
            };
            quarantine::store(&door.shelves, &path, &shelf_name(&path), &failure.reason())?;
            door.outbox.reject()?;
            self.seen.remove(&path);
            tracing::warn!(
                source = self.config.name,
                bytes,
                code = failure.code(),
                "file refused"
            );
        }
        let files: Vec<PathBuf> = ready.into_iter().map(|(path, _)| path).collect();
        let arrivals = door.shelves.claim(&self.config.name, &files)?;
        self.seen.retain(|path, _| !files.contains(path));
        if arrivals.is_empty() {
            return Ok(Vec::new());
        }
        Ok(door.outbox.accept(&arrivals)?)
    }

    /// Files that stood still for `stable_ms` as of `now`, oldest first, with their size.
    fn sweep(&mut self, now: Instant) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let root = self.config.directory.clone();
        match self.walk(&root, 0, &mut found) {
            Ok(()) => self.out_of_reach = false,
            Err(error) => {
                if !self.out_of_reach {
                    tracing::error!(source = self.config.name, %error,
                        "the inbox cannot be read; check that it is there and its rights");
                }
                self.out_of_reach = true;
            }
        }
        let stable = Duration::from_millis(self.config.stable_ms);
        let mut sightings = HashMap::with_capacity(found.len());
        let mut ready = Vec::new();
        for (path, bytes, modified) in found {
            let unchanged = self
                .seen
                .get(&path)
                .filter(|before| before.bytes == bytes && before.modified == modified);
            let since = unchanged.map_or(now, |before| before.since);
            if now.duration_since(since) >= stable && (unchanged.is_some() || stable.is_zero()) {
                ready.push((modified, path.clone(), bytes));
            }
            sightings.insert(
                path,
                Sighting {
                    bytes,
                    modified,
                    since,
                },
            );
        }
        self.seen = sightings;
        self.warned.retain(|path, _| path.exists());
        ready.sort();
        ready.truncate(BATCH);
        ready
            .into_iter()
            .map(|(_, path, bytes)| (path, bytes))
            .collect()
    }

    fn walk(
        &mut self,
        folder: &Path,
        depth: usize,
        found: &mut Vec<(PathBuf, u64, Option<SystemTime>)>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if under_way(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            // Not followed: a link may point anywhere on this machine.
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let kind = metadata.file_type();
            if kind.is_file() {
                found.push((path, metadata.len(), metadata.modified().ok()));
            } else if kind.is_dir() && depth < self.config.depth_max {
                // One folder without rights does not hide the others.
                if self.walk(&path, depth + 1, found).is_err() {
                    self.warn(path, "folder cannot be read");
                }
            } else if kind.is_dir() {
                self.warn(path, "folder is deeper than `depth_max`");
            } else {
                self.warn(path, "not a regular file (link, pipe, socket or device)");
            }
        }
        Ok(())
    }

    /// Says once for each path what is ignored and why.
    fn warn(&mut self, path: PathBuf, why: &'static str) {
        if self.warned.insert(path, why) != Some(why) {
            tracing::warn!(
                source = self.config.name,
                why,
                "an entry of the inbox is ignored"
            );
        }
    }
}

/// Hidden, or named as a copy that is not done.
fn under_way(name: &str) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    name.starts_with('.')
        || extension.eq_ignore_ascii_case("part")
        || extension.eq_ignore_ascii_case("tmp")
}

#[cfg(test)]
mod tests;
