//! What people ask about segmentations on their way to a PACS: how many wait, since when, why, and which it refused;
//! and what they can do, another try.
//!
//! A segmentation is named by the `series` of its event: the UID of its object is that number, so no UID of the
//! patient's is needed. Why the PACS refused one lies beside it, as `<uid>.reason.json`.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::accept::{ShelfError, failed, sync_folder};
use crate::clock;
use crate::disk::rights::create_file;

/// A PACS that takes nothing is no longer passing trouble after so many of the longest pauses between two tries.
const PAUSES: u32 = 2;

/// The PACS as the sending thread finds it, for who asks.
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
pub struct Counts {
    pub waiting: u64,
    pub waiting_bytes: u64,
    pub oldest_waiting_s: u64,
    pub refused: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    /// `series` of its event, or the file's name where somebody else put it there.
    pub series: String,
    pub refused: bool,
    pub made_at: String,
    pub age_s: u64,
    pub bytes: u64,
    /// Why it does not get on, as far as it is known here.
    pub why: Option<String>,
}

/// Which ones to try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    All,
    These(Vec<String>),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub done: Vec<String>,
    pub unknown: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    why: String,
    refused_at: String,
}

impl Pacs {
    /// Called once, where segmentations are sent.
    pub(super) fn at(&self, state: &Path, place: String, retry_max: Duration) {
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
    pub(super) fn in_trouble(&self, why: &str) {
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

    pub(super) fn takes(&self) {
        *self.trouble() = None;
    }

    /// Nothing could be sent for longer than a passing trouble lasts.
    pub fn is_away(&self) -> bool {
        let patience = self.site.get().map(|site| site.patience);
        let trouble = self.trouble();
        let began = trouble.as_ref().map(|trouble| trouble.began);
        matches!((patience, began), (Some(patience), Some(began)) if began.elapsed() > patience)
    }

    pub(crate) fn try_again(&self) {
        self.retry.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked for another try since the last call.
    pub(super) fn is_asked(&self) -> bool {
        self.retry.swap(false, Ordering::Relaxed)
    }

    /// None where nothing is sent. Blocking: looks into the folder.
    pub fn counts(&self) -> Option<Counts> {
        let site = self.site.get()?;
        let all = list(&site.folder, None);
        let waiting = all.iter().filter(|one| !one.refused);
        Some(Counts {
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
        let Counts {
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

fn folder(state: &Path) -> PathBuf {
    state.join("segmentations")
}

fn refused_folder(waiting: &Path) -> PathBuf {
    waiting.join("refused")
}

/// Everything that waits or was refused, the oldest first; nothing where no segmentation was ever to be sent.
pub fn segmentations(state: &Path, why: Option<&str>) -> Vec<Unsent> {
    list(&folder(state), why)
}

fn list(waiting: &Path, why: Option<&str>) -> Vec<Unsent> {
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

fn note_of(path: &Path) -> PathBuf {
    path.with_extension("reason.json")
}

/// Notes why the PACS will not have it, before it is moved aside. It is for people: what does not succeed is only said
/// in the log.
pub(super) fn note(refused: &Path, path: &Path, why: &str) {
    let note = Note {
        why: why.to_owned(),
        refused_at: clock::now(),
    };
    let text = serde_json::to_vec_pretty(&note).expect("a note is plain data");
    let to = note_of(&refused.join(path.file_name().unwrap_or_default()));
    let written = create_file(&to).and_then(|mut file| file.write_all(&text));
    if let Err(error) = written {
        tracing::warn!(%error, "the reason of a refusal cannot be kept");
    }
    forget_lone_notes(refused);
}

/// A limit, or a hand, may have removed the object.
fn forget_lone_notes(refused: &Path) {
    let entries = fs::read_dir(refused).into_iter().flatten().flatten();
    let names: HashSet<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    for name in &names {
        let object = name
            .strip_suffix(".reason.json")
            .map(|stem| format!("{stem}.dcm"));
        let lone = object.is_some_and(|object| !names.contains(&object));
        // The object of a fresh one is on its way.
        let old = || fs::metadata(refused.join(name)).is_ok_and(|note| is_old(&note));
        if lone && old() {
            // Only in the way.
            let _ = fs::remove_file(refused.join(name));
        }
    }
}

fn is_old(note: &fs::Metadata) -> bool {
    const MOMENT: Duration = Duration::from_mins(1);
    let age = note.modified().ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age > MOMENT)
}

/// Puts refused ones back to those that wait, and names those that waited anyway: all of them are tried at once.
pub fn retry(state: &Path, wanted: &Wanted) -> Result<Retried, ShelfError> {
    let waiting = folder(state);
    let refused = refused_folder(&waiting);
    let mut retried = Retried::default();
    let known = list(&waiting, None);
    let is_known = |asked: &String| known.iter().any(|one| one.series == *asked);
    if let Wanted::These(asked) = wanted {
        retried.unknown = asked
            .iter()
            .filter(|asked| !is_known(asked))
            .cloned()
            .collect();
    }
    for one in known {
        if let Wanted::These(asked) = wanted
            && !asked.contains(&one.series)
        {
            continue;
        }
        if one.refused {
            let file = format!("{}.dcm", file_stem(&one.series));
            let from = refused.join(&file);
            match fs::rename(&from, waiting.join(&file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    retried.unknown.push(one.series);
                    continue;
                }
                moved => moved.map_err(failed("move to", &waiting))?,
            }
            // Only in the way.
            let _ = fs::remove_file(note_of(&from));
        }
        retried.done.push(one.series);
    }
    if !retried.done.is_empty() {
        sync_folder(&waiting)?;
        if refused.is_dir() {
            sync_folder(&refused)?;
        }
    }
    Ok(retried)
}

fn file_stem(series: &str) -> String {
    let id: Option<Uuid> = series.parse().ok();
    id.map_or_else(|| series.to_owned(), |id| format!("2.25.{}", id.as_u128()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> (tempfile::TempDir, PathBuf) {
        let state = tempfile::tempdir().unwrap();
        let refused = state.path().join("segmentations/refused");
        fs::create_dir_all(&refused).unwrap();
        (state, refused)
    }

    fn pacs(state: &Path, patience_ms: u64) -> Pacs {
        let pacs = Pacs::default();
        pacs.at(
            state,
            "PACS at pacs:104".into(),
            Duration::from_millis(patience_ms),
        );
        pacs
    }

    #[test]
    fn what_waits_and_what_was_refused_is_listed_and_tried_again() {
        let (state, refused) = site();
        let id = |number| Uuid::from_u128(number).to_string();
        let waiting = state.path().join("segmentations");
        fs::write(waiting.join("2.25.1.dcm"), b"one").unwrap();
        fs::write(waiting.join(".2.25.9.dcm.part"), b"half").unwrap();
        note(&refused, &waiting.join("2.25.2.dcm"), "its answer is A900H");
        fs::write(refused.join("2.25.2.dcm"), b"three").unwrap();
        fs::write(refused.join("by-hand.dcm"), b"").unwrap();

        let all = segmentations(state.path(), Some("nobody answers"));
        let seen: Vec<_> = all
            .iter()
            .map(|one| (one.series.clone(), one.refused, one.bytes, one.why.clone()))
            .collect();
        let expected = [
            (id(1), false, 3, Some("nobody answers".to_owned())),
            (id(2), true, 5, Some("its answer is A900H".to_owned())),
            ("by-hand".to_owned(), true, 0, None),
        ];
        assert_eq!(seen.len(), 3);
        for one in expected {
            assert!(seen.contains(&one), "{one:?} {seen:?}");
        }
        let counts = pacs(state.path(), 1).counts().unwrap();
        assert_eq!(
            (counts.waiting, counts.waiting_bytes, counts.refused),
            (1, 3, 2)
        );

        let wanted = Wanted::These(vec![id(1), id(2), id(7)]);
        let retried = retry(state.path(), &wanted).unwrap();
        assert_eq!(retried.done, [id(1), id(2)]);
        assert_eq!(retried.unknown, [id(7)]);
        assert!(waiting.join("2.25.2.dcm").exists());
        assert!(!refused.join("2.25.2.reason.json").exists());
        let rest = retry(state.path(), &Wanted::All).unwrap();
        assert_eq!((rest.done.len(), rest.unknown.len()), (3, 0));
        assert_eq!(pacs(state.path(), 1).counts().unwrap().refused, 0);
    }

    #[test]
    fn a_pacs_is_away_after_a_while_and_says_why() {
        let (state, _) = site();
        let pacs = pacs(state.path(), 20);
        assert_eq!(pacs.words().unwrap(), "0 wait for PACS at pacs:104");
        pacs.in_trouble("nobody answers");
        assert!(!pacs.is_away(), "not yet");
        std::thread::sleep(Duration::from_millis(60));
        pacs.in_trouble("it wants TLS");
        assert!(pacs.is_away(), "the trouble is the same");
        let words = pacs.words().unwrap();
        assert!(
            words.contains("; since 2") && words.ends_with(": it wants TLS"),
            "{words}"
        );
        pacs.takes();
        assert!(!pacs.is_away() && pacs.why().is_none());
    }

    #[test]
    fn without_a_pacs_there_is_nothing_to_say() {
        let pacs = Pacs::default();
        pacs.in_trouble("of nobody");
        assert!(!pacs.is_away());
        assert_eq!((pacs.counts(), pacs.words()), (None, None));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(segmentations(folder.path(), None), []);
        assert_eq!(
            retry(folder.path(), &Wanted::All).unwrap(),
            Retried::default()
        );
    }
}
