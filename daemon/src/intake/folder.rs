//! An inbox folder: files that stand still are claimed by rename and accepted.
//!
//! inotify only shortens the wait: it is blind on network file systems, so the folder is also swept
//! every `poll_interval_ms`. Hidden files, `*.part` and `*.tmp` belong to a copy under way; only our
//! own claims that a kill left are taken up again.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};

use super::{Intake, Watermark};
use crate::config;
use crate::outbox::job::JobNumber;
use crate::shutdown::stopped;
use crate::spool::quarantine;
use crate::spool::{AcceptError, ClaimedFiles, InboxFile, Left, claimed};

/// Files accepted in one commit.
const BATCH: usize = 64;

/// The only reason for which the metrics count a file that was not taken.
pub(crate) const TOO_LARGE: &str = "too_large";

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error("the task of a sweep did not end: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Watches until `stop` or until the inference thread is gone.
pub async fn run(
    config: config::Folder,
    intake: Intake,
    mut stop: watch::Receiver<bool>,
) -> Result<(), FolderError> {
    let changed = Arc::new(Notify::new());
    let _watcher = watch_folder(&config, Arc::clone(&changed));
    let interval = Duration::from_millis(config.poll_interval_ms);
    let stable = Duration::from_millis(config.stable_ms);
    let mut inbox = Inbox::new(config);
    loop {
        let shared = intake.clone();
        let (back, accepted) = tokio::task::spawn_blocking(move || {
            let accepted = inbox.accept(&shared);
            (inbox, accepted)
        })
        .await?;
        inbox = back;
        for job_number in accepted? {
            tokio::select! {
                sent = intake.job_numbers.send(job_number) => if sent.is_err() { return Ok(()) },
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
    let hear = move |event: notify::Result<notify::Event>| {
        if event.as_ref().map_or(true, worth_a_sweep) {
            changed.notify_one();
        }
    };
    let watcher = notify::recommended_watcher(hear).and_then(|mut w| {
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
            // The kind only: an error of notify names paths.
            tracing::warn!(source = config.name, error = ?error.kind,
                "inotify does not work here, polling only");
        })
        .ok()
}

/// Looking through a folder opens it; without this every sweep would cause the next one.
fn worth_a_sweep(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// What was seen of one inbox so far.
#[derive(Debug)]
pub struct Inbox {
    config: config::Folder,
    seen: HashMap<PathBuf, SeenFile>,
    warned: HashMap<PathBuf, &'static str>,
    out_of_reach: bool,
    watermark: Watermark,
}

#[derive(Debug, Clone)]
struct SeenFile {
    file: InboxFile,
    since: Instant,
}

impl Inbox {
    pub fn new(config: config::Folder) -> Self {
        Self {
            config,
            seen: HashMap::new(),
            warned: HashMap::new(),
            out_of_reach: false,
            watermark: Watermark::default(),
        }
    }

    fn growing(&self) -> bool {
        !self.seen.is_empty()
    }

    /// One sweep: refuses what is too large, accepts what stands still, up to a batch.
    pub fn accept(&mut self, intake: &Intake) -> Result<Vec<JobNumber>, AcceptError> {
        let ready = self.sweep(Instant::now());
        if intake.is_disk_low() {
            self.watermark.set(intake, true);
            return Ok(Vec::new());
        }
        let limit = self.config.file_max_bytes;
        let (ready, oversized): (Vec<_>, Vec<_>) =
            ready.into_iter().partition(|file| file.bytes <= limit);
        if !oversized.is_empty() {
            for _ in &oversized {
                intake.status.metrics.refused(&self.config.name, TOO_LARGE);
            }
            let left = quarantine::refuse(&intake.spool, &intake.outbox, &oversized, &self.config)?;
            self.warn_of(left);
        }
        let mut claimed = ClaimedFiles::default();
        if !ready.is_empty() {
            let name = &self.config.name;
            claimed = intake.spool.claim(name, &ready, intake.min_free_bytes)?;
        }
        // What was left stands still for a while again before the next attempt; for room every
        // sweep asks, so that the state lasts as long as the trouble.
        if !claimed.no_room {
            for file in ready.iter().chain(&oversized) {
                self.seen.remove(&file.path);
            }
        }
        self.watermark.set(intake, claimed.no_room);
        self.warn_of(claimed.left);
        if claimed.arrivals.is_empty() {
            return Ok(Vec::new());
        }
        Ok(intake.accept(&self.config.name, &claimed.arrivals)?)
    }

    /// Files that stood still for `stable_ms` as of `now`, oldest first.
    fn sweep(&mut self, now: Instant) -> Vec<InboxFile> {
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
        let mut seen_files = HashMap::with_capacity(found.len());
        let mut ready = Vec::new();
        for file in found {
            let unchanged = self
                .seen
                .get(&file.path)
                .filter(|before| before.file == file);
            let since = unchanged.map_or(now, |before| before.since);
            if now.duration_since(since) >= stable && (unchanged.is_some() || stable.is_zero()) {
                ready.push(file.clone());
            }
            seen_files.insert(file.path.clone(), SeenFile { file, since });
        }
        self.seen = seen_files;
        self.warned
            .retain(|path, _| fs::symlink_metadata(path).is_ok());
        // What could not be taken before comes last, or a batch of it would block all others.
        ready.sort_by_cached_key(|file| {
            let warned = self.warned.contains_key(&file.path);
            (warned, file.modified, file.path.clone())
        });
        ready.truncate(BATCH);
        ready
    }

    fn walk(&mut self, folder: &Path, depth: usize, found: &mut Vec<InboxFile>) -> io::Result<()> {
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
                found.push(InboxFile {
                    path,
                    bytes: metadata.len(),
                    modified: metadata.modified().ok(),
                });
            } else if kind.is_dir() && depth < self.config.depth_max {
                // One folder without rights does not hide the others.
                if self.walk(&path, depth + 1, found).is_err() {
                    self.warn(path, "folder cannot be read", None);
                }
            } else if kind.is_dir() {
                self.warn(path, "folder is deeper than `depth_max`", None);
            } else {
                self.warn(
                    path,
                    "not a regular file (link, pipe, socket or device)",
                    None,
                );
            }
        }
        Ok(())
    }

    fn warn_of(&mut self, left: Vec<Left>) {
        for Left { path, why, error } in left {
            self.warn(path, why, Some(&error));
        }
    }

    /// Says once for each path what is left alone and why. No path: file names may hold the
    /// patient's name.
    fn warn(&mut self, path: PathBuf, why: &'static str, error: Option<&io::Error>) {
        if self.warned.insert(path, why) != Some(why) {
            let (source, error) = (&self.config.name, error.map(tracing::field::display));
            tracing::warn!(source, why, error, "something in the inbox needs attention");
        }
    }
}

/// Hidden, or named as a copy that is not done.
fn under_way(name: &str) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    let hidden = name.starts_with('.') && claimed(name).is_none();
    hidden || extension.eq_ignore_ascii_case("part") || extension.eq_ignore_ascii_case("tmp")
}

#[cfg(test)]
mod tests;
