//! What people can do about segmentations on their way to a PACS, another try, and why it refused one.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock;
use crate::disk::rights::create_file;
use crate::spool::{SpoolError, failed, sync_folder};
use crate::status::pacs::{Note, folder, list, note_of, refused_folder};

/// Which ones to try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryChoice {
    All,
    These(Vec<String>),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub done: Vec<String>,
    pub unknown: Vec<String>,
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
    const NOTE_GRACE: Duration = Duration::from_mins(1);
    let age = note.modified().ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age > NOTE_GRACE)
}

/// Puts refused ones back to those that wait, and names those that waited anyway: all of them are tried at once.
pub fn retry(state: &Path, wanted: &RetryChoice) -> Result<Retried, SpoolError> {
    let waiting = folder(state);
    let refused = refused_folder(&waiting);
    let mut retried = Retried::default();
    let known = list(&waiting, None);
    let is_known = |asked: &String| known.iter().any(|one| one.series == *asked);
    if let RetryChoice::These(asked) = wanted {
        retried.unknown = asked
            .iter()
            .filter(|asked| !is_known(asked))
            .cloned()
            .collect();
    }
    for one in known {
        if let RetryChoice::These(asked) = wanted
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
    use std::path::PathBuf;

    use super::*;
    use crate::status::pacs::tests::pacs;
    use crate::status::pacs::{Pacs, segmentations};

    fn site() -> (tempfile::TempDir, PathBuf) {
        let state = tempfile::tempdir().unwrap();
        let refused = state.path().join("segmentations/refused");
        fs::create_dir_all(&refused).unwrap();
        (state, refused)
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

        let wanted = RetryChoice::These(vec![id(1), id(2), id(7)]);
        let retried = retry(state.path(), &wanted).unwrap();
        assert_eq!(retried.done, [id(1), id(2)]);
        assert_eq!(retried.unknown, [id(7)]);
        assert!(waiting.join("2.25.2.dcm").exists());
        assert!(!refused.join("2.25.2.reason.json").exists());
        let rest = retry(state.path(), &RetryChoice::All).unwrap();
        assert_eq!((rest.done.len(), rest.unknown.len()), (3, 0));
        assert_eq!(pacs(state.path(), 1).counts().unwrap().refused, 0);
    }

    #[test]
    fn without_a_pacs_there_is_nothing_to_say() {
        let pacs = Pacs::default();
        pacs.record_trouble("of nobody");
        assert!(!pacs.is_away());
        assert_eq!((pacs.counts(), pacs.words()), (None, None));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(segmentations(folder.path(), None), []);
        assert_eq!(
            retry(folder.path(), &RetryChoice::All).unwrap(),
            Retried::default()
        );
    }
}
