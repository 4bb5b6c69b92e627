//! What is known of the PACS and of what waits for it: how many, since when, why, and which it refused.
//!
//! A segmentation is named by the `series` of its event: the UID of its object is that number, so no UID of the
//! patient's is needed. Why the PACS refused one lies beside it, as `<uid>.reason.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock;
use crate::report::health::Segmentations;

/// A PACS that takes nothing is no longer passing trouble after so many of the longest pauses between two tries.
const PAUSES: u32 = 2;

/// What the sending thread knows of the PACS.
#[derive(Debug, Default)]
pub struct Pacs {
    site: OnceLock<Site>,
    trouble: Mutex<Option<Trouble>>,
    retry: AtomicBool,
}

#[derive(Debug)]
struct Site {
    folder: PathBuf,
    /// Title and address.
    place: String,
    patience: Duration,
}

/// Since when nothing can be sent, and why.
#[derive(Debug, Clone)]
struct Trouble {
    began: Instant,
    since: String,
    why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    /// `series` of its event, or the file's name where it is none of ours.
    pub series: String,
    pub refused: bool,
    pub made_at: String,
    pub age_s: u64,
    pub bytes: u64,
    /// Why it does not get on, as far as it is known here.
    pub why: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) why: String,
    pub(crate) refused_at: String,
}

impl Pacs {
    /// Called once, where segmentations are sent.
    pub(crate) fn configure(&self, state: &Path, place: String, retry_max: Duration) {
        let site = Site {
            folder: folder(state),
            place,
            patience: PAUSES * retry_max,
        };
        // A second call would say the same.
        let _ = self.site.set(site);
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something waits and cannot be sent; the beginning of the trouble stays.
    pub(crate) fn record_trouble(&self, why: &str) {
        let mut trouble = self.trouble();
        let before = trouble.take();
        let (began, since) = match before {
            Some(Trouble { began, since, .. }) => (began, since),
            None => (Instant::now(), clock::now()),
        };
        *trouble = Some(Trouble {
            began,
            since,
            why: why.to_owned(),
        });
    }

    pub(crate) fn record_success(&self) {
        *self.trouble() = None;
    }

    /// Nothing could be sent for longer than a passing trouble lasts.
    pub fn is_away(&self) -> bool {
        let patience = self.site.get().map(|site| site.patience);
        let trouble = self.trouble();
        let began = trouble.as_ref().map(|trouble| trouble.began);
        matches!((patience, began), (Some(patience), Some(began)) if began.elapsed() > patience)
    }

    pub(crate) fn request_retry(&self) {
        self.retry.store(true, Ordering::Relaxed);
    }

    /// Whether another try was asked for since the last call.
    pub(crate) fn take_retry_request(&self) -> bool {
        self.retry.swap(false, Ordering::Relaxed)
    }

    /// None where nothing is sent. Blocking: looks into the folder.
    pub fn counts(&self) -> Option<Segmentations> {
        let site = self.site.get()?;
        let all = list(&site.folder, None);
        let waiting = all.iter().filter(|one| !one.refused);
        Some(Segmentations {
            waiting: waiting.clone().count() as u64,
            waiting_bytes: waiting.clone().map(|one| one.bytes).sum(),
            oldest_waiting_s: waiting.map(|one| one.age_s).max().unwrap_or(0),
            refused: all.iter().filter(|one| one.refused).count() as u64,
        })
    }

    /// In a sentence; none where nothing is sent. Blocking.
    pub fn words(&self) -> Option<String> {
        let site = self.site.get()?;
        let counts = self.counts()?;
        let Segmentations {
            waiting,
            refused,
            oldest_waiting_s,
            ..
        } = counts;
        let mut words = format!("{waiting} wait for {}", site.place);
        if waiting > 0 {
            words.extend([", the oldest for ", &oldest_waiting_s.to_string(), " s"]);
        }
        if refused > 0 {
            let count = refused.to_string();
            words.extend(["; ", &count, " refused, see `scansided segmentations list`"]);
        }
        if let Some(why) = self.why() {
            words.extend(["; ", &why]);
        }
        Some(words)
    }

    /// Why nothing is taken at the moment.
    pub(crate) fn why(&self) -> Option<String> {
        let trouble = self.trouble();
        let Trouble { since, why, .. } = trouble.as_ref()?;
        Some(format!("since {since}: {why}"))
    }
}

pub(crate) fn folder(state: &Path) -> PathBuf {
    state.join("segmentations")
}

pub(crate) fn refused_folder(waiting: &Path) -> PathBuf {
    waiting.join("refused")
}

/// Everything that waits or was refused, the oldest first; nothing where no segmentation was ever to be sent.
pub fn segmentations(state: &Path, why: Option<&str>) -> Vec<Unsent> {
    list(&folder(state), why)
}

pub(crate) fn list(waiting: &Path, why: Option<&str>) -> Vec<Unsent> {
    let mut found = Vec::new();
    for (folder, refused) in [(waiting.to_owned(), false), (refused_folder(waiting), true)] {
        // Not there: nothing was ever sent.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|name| name != "dcm") {
                continue;
            }
            // Sent at this moment, it is gone.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let why = if refused {
                let note = fs::read(note_of(&path)).ok();
                note.and_then(|note| serde_json::from_slice(&note).ok())
                    .map(|note: Note| note.why)
            } else {
                why.map(str::to_owned)
            };
            found.push(Unsent {
                series: name(&path),
                refused,
                made_at: clock::rfc3339(modified),
                // A clock that was set back shows no age.
                age_s: modified.elapsed().unwrap_or_default().as_secs(),
                bytes: metadata.len(),
                why,
            });
        }
    }
    found.sort_by(|a, b| {
        (a.refused, &a.made_at, &a.series).cmp(&(b.refused, &b.made_at, &b.series))
    });
    found
}

/// The UUID that the UID of its object is made of (PS3.5 section B.2).
fn name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let number = stem
        .strip_prefix("2.25.")
        .and_then(|number| number.parse().ok());
    number.map_or_else(
        || stem.into_owned(),
        |number| Uuid::from_u128(number).to_string(),
    )
}

pub(crate) fn note_of(path: &Path) -> PathBuf {
    path.with_extension("reason.json")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One that counts as away after `patience_ms` without success.
    pub(crate) fn pacs(state: &Path, patience_ms: u64) -> Pacs {
        let pacs = Pacs::default();
        pacs.configure(
            state,
            "PACS at pacs:104".into(),
            Duration::from_millis(patience_ms),
        );
        pacs
    }

    #[test]
    fn a_pacs_is_away_after_a_while_and_says_why() {
        let state = tempfile::tempdir().unwrap();
        let pacs = pacs(state.path(), 20);
        assert_eq!(pacs.words().unwrap(), "0 wait for PACS at pacs:104");
        pacs.record_trouble("nobody answers");
        assert!(!pacs.is_away(), "not yet");
        std::thread::sleep(Duration::from_millis(60));
        pacs.record_trouble("it wants TLS");
        assert!(pacs.is_away(), "the trouble is the same");
        let words = pacs.words().unwrap();
        assert!(
            words.contains("; since 2") && words.ends_with(": it wants TLS"),
            "{words}"
        );
        pacs.record_success();
        assert!(!pacs.is_away() && pacs.why().is_none());
    }
}
