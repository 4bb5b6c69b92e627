//! What became of an image, by whatever its sender or a subscriber knows of it.
//!
//! What was segmented, or ended in quarantine at work, is in the history with its lookup keys. What still waits, or was
//! refused, was not read yet: its file is read now, up to a limit.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use segmenter::decode::Limits;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::outbox::job::{Input, JobNumber};
use crate::outbox::{JobHistory, Outbox, OutboxError, Phase};
use crate::report::privacy::{HASH_DIGITS, Key, sop_instance_uid};
use crate::spool::Spool;

/// Of files that are read for one question.
const READ_MAX_BYTES: u64 = 2 << 30;
/// Of a digest.
const PREFIX_MIN_DIGITS: usize = 8;
const SHA256_DIGITS: usize = 64;
/// PS3.5 section 9.1.
const UID_MAX_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchResult {
    pub jobs: Vec<JobHistory>,
    /// Files that were not read, because there are too many.
    pub unread: u64,
}

/// What a word may mean, all at once: digits may be the number of a job and the beginning of a digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchTerms {
    job: Option<JobNumber>,
    job_id: Option<Uuid>,
    /// Of the file, or its beginning.
    sha256: Option<String>,
    /// As results have it.
    hashed_uid: Option<String>,
    uid: Option<String>,
}

impl SearchTerms {
    /// None for a word that can be nothing of an image.
    pub fn parse(word: &str) -> Option<Self> {
        let word = word.trim().trim_end_matches('\0');
        let lower = word.to_ascii_lowercase();
        let is_hex = lower.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_digest = is_hex && (PREFIX_MIN_DIGITS..=SHA256_DIGITS).contains(&lower.len());
        let is_uid = word.contains('.')
            && word.len() <= UID_MAX_BYTES
            && word
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.');
        // With all of its digits, as `openssl` prints it, or with those of a result.
        let is_hash = is_hex && [HASH_DIGITS, SHA256_DIGITS].contains(&lower.len());
        let terms = Self {
            job: word.parse().ok(),
            job_id: word.contains('-').then(|| word.parse().ok()).flatten(),
            sha256: is_digest.then(|| lower.clone()),
            hashed_uid: is_hash.then(|| lower[..HASH_DIGITS].to_owned()),
            uid: is_uid.then(|| word.to_owned()),
        };
        (terms != Self::default()).then_some(terms)
    }

    /// With the hash of the UID, where there is a key to make one.
    fn hashed(mut self, key: Option<&Key>) -> Self {
        if let (Some(uid), Some(key)) = (&self.uid, key) {
            self.hashed_uid = Some(key.hash(uid));
        }
        self
    }

    fn matches(&self, history: &JobHistory) -> bool {
        let input = history.input.as_ref();
        let hash = history.sop_instance_uid.as_ref();
        self.job == Some(history.job)
            || (self.job_id.is_some() && self.job_id == history.job_id)
            || self
                .sha256
                .as_ref()
                .is_some_and(|start| input.is_some_and(|input| input.sha256.starts_with(start)))
            || (self.hashed_uid.is_some() && self.hashed_uid.as_ref() == hash)
    }
}

/// In the order of acceptance.
pub(super) fn find(
    outbox: &Outbox,
    spool: &Spool,
    word: &str,
) -> Result<SearchResult, OutboxError> {
    let Some(terms) = SearchTerms::parse(word) else {
        return Ok(SearchResult {
            jobs: Vec::new(),
            unread: 0,
        });
    };
    let key = Key::existing(spool.state());
    let key = key.inspect_err(|error| tracing::warn!(%error, "no job is found by a UID"));
    let key = key.ok().flatten();
    let terms = terms.hashed(key.as_ref());
    let mut unknown = Vec::new();
    let mut jobs = outbox.search(|history| {
        if terms.matches(&history) {
            return Some(history);
        }
        let lies_here = !matches!(history.state, Phase::Published | Phase::Dropped);
        if history.input.is_none() && lies_here {
            unknown.push(history);
        }
        None
    })?;
    // A number or an id of a result is no matter of what is in a file.
    let mut unread = 0;
    if !unknown.is_empty() && (terms.sha256.is_some() || terms.hashed_uid.is_some()) {
        let files = files(outbox, spool)?;
        let mut left_bytes = READ_MAX_BYTES;
        for history in unknown {
            let Some(path) = files.get(&history.job) else {
                continue;
            };
            let bytes = fs::metadata(path).map_or(0, |file| file.len());
            if bytes > left_bytes {
                unread += 1;
                continue;
            }
            left_bytes -= bytes;
            // On its way out at this moment, it will be in the history.
            let Some(history) = read_from_file(history, path, key.as_ref()) else {
                continue;
            };
            jobs.extend(terms.matches(&history).then_some(history));
        }
    }
    jobs.sort_by_key(|history| history.job);
    Ok(SearchResult { jobs, unread })
}

fn files(outbox: &Outbox, spool: &Spool) -> Result<HashMap<JobNumber, PathBuf>, OutboxError> {
    let waiting = outbox.jobs()?.into_iter();
    let waiting = waiting.map(|(job_number, job)| (job_number, spool.input(&job)));
    let resting = outbox.quarantined()?.into_iter();
    let resting = resting.map(|entry| (entry.job_number, spool.quarantine.join(entry.file)));
    Ok(waiting.chain(resting).collect())
}

fn read_from_file(mut history: JobHistory, path: &Path, key: Option<&Key>) -> Option<JobHistory> {
    history.input = Some(Input::of_file(path).ok()?);
    let limits = Limits::STANDARD;
    let small = history
        .input
        .as_ref()
        .is_some_and(|input| input.bytes <= limits.max_bytes);
    if let (Some(key), true) = (key, small) {
        let uid = sop_instance_uid(&fs::read(path).ok()?, &limits);
        history.sop_instance_uid = uid.map(|uid| key.hash(&uid));
    }
    Some(history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::job::{LookupKeys, Sender};
    use crate::outbox::{Arrival, HistoryFilter, Message, ResultRows, Stage};

    const UID: &str = "1.2.840.99.7";

    /// As C-STORE writes it, without a pixel.
    fn dicom(uid: &str) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        let mut put = |group: u8, element: u8, vr: &[u8; 2], value: &str| {
            let padded = value.len() + value.len() % 2;
            bytes.extend([group, 0, element, 0]);
            bytes.extend(vr);
            bytes.extend((padded as u16).to_le_bytes());
            bytes.extend(value.as_bytes());
            bytes.resize(bytes.len() + value.len() % 2, 0);
        };
        put(2, 0x02, b"UI", "1.2.840.10008.5.1.4.1.1.4");
        put(2, 0x10, b"UI", "1.2.840.10008.1.2.1");
        put(8, 0x16, b"UI", "1.2.840.10008.5.1.4.1.1.4");
        put(8, 0x18, b"UI", uid);
        bytes
    }

    struct Site {
        folder: tempfile::TempDir,
        outbox: Outbox,
        spool: Spool,
        key: Key,
    }

    /// Job 1 waits, 2 is published, 3 in quarantine, 4 dropped.
    fn site() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let spool = Spool::create(folder.path(), 0).unwrap();
        let key = Key::of(folder.path()).unwrap();
        let accepted = spool.accepted.join("ward");
        fs::create_dir(&accepted).unwrap();
        fs::write(accepted.join("1"), dicom(UID)).unwrap();
        let arrival = |number: u64| Arrival {
            source: if number == 3 {
                "ct".into()
            } else {
                "ward".into()
            },
            file: number.to_string(),
            received_at: format!("2026-11-2{number}T00:00:00.000Z"),
            sender: (number == 2).then(|| Sender {
                ae_title: Some("MR1".into()),
                ..Sender::default()
            }),
        };
        outbox.accept(&[1, 2, 3, 4].map(arrival)).unwrap();
        let lookup_keys = |bytes: &[u8]| LookupKeys {
            input: Some(Input::of(bytes)),
            job_id: Some(Uuid::from_u128(bytes.len() as u128)),
            sop_instance_uid: Some(key.hash("1.2.3")),
        };
        let message = |topic: &str| Message {
            topic: topic.into(),
            payload: vec![1],
        };
        let encode = |_| vec![message("result/ward")];
        let two = lookup_keys(b"two");
        let rows = ResultRows {
            lookup_keys: &two,
            slice: None,
        };
        outbox.append_with(2, rows, None, encode).unwrap();
        outbox.acknowledge(&[(1, 0)]).unwrap();
        outbox.forget(2);
        let reason = crate::failure::Failure::CrashLoop { attempts: 3 }.reason();
        for job_number in [3, 4] {
            outbox
                .record_lookup_keys(job_number, &lookup_keys(b"three"))
                .unwrap();
            outbox
                .quarantine(job_number, &reason, |_| message("event"))
                .unwrap();
            outbox.forget(job_number);
        }
        outbox.discard("4").unwrap();
        outbox.forget(4);
        Site {
            folder,
            outbox,
            spool,
            key,
        }
    }

    fn jobs(site: &Site, word: &str) -> Vec<JobNumber> {
        let found = find(&site.outbox, &site.spool, word).unwrap();
        assert_eq!(found.unread, 0);
        found.jobs.iter().map(|history| history.job).collect()
    }

    #[test]
    fn an_image_is_found_by_whatever_is_known_of_it() {
        let site = site();
        let digest = Input::of(b"three").sha256;
        let hash = site.key.hash("1.2.3");
        for (word, expected) in [
            ("3", &[3][..]),
            (&digest, &[3, 4]),
            (&digest[..8], &[3, 4]),
            (&digest.to_uppercase(), &[3, 4]),
            (&digest[..7], &[]),
            (&Input::of(b"two").sha256, &[2]),
            (&Uuid::from_u128(3).to_string(), &[2]),
            ("1.2.3", &[2, 3, 4]),
            (" 1.2.3\0", &[2, 3, 4]),
            (&hash, &[2, 3, 4]),
            (&format!("{hash}{hash}"), &[2, 3, 4]),
            // It waits, and was not read yet.
            (UID, &[1]),
            (&site.key.hash(UID), &[1]),
            (&Input::of(&dicom(UID)).sha256, &[1]),
            ("1.2.4", &[]),
            ("77", &[]),
            ("DOE^JANE", &[]),
        ] {
            assert_eq!(jobs(&site, word), expected, "{word}");
        }
        let known = site.outbox.history(2).unwrap().unwrap();
        assert_eq!(known.sender.unwrap().to_string(), "MR1");
        let text = serde_json::to_string(&site.outbox.history(3).unwrap()).unwrap();
        assert!(!text.contains("1.2.3"), "{text}");
    }

    #[test]
    fn without_the_key_no_plain_uid_is_found() {
        let site = site();
        fs::remove_file(site.folder.path().join("identifiers.key")).unwrap();
        assert!(jobs(&site, "1.2.3").is_empty());
        assert_eq!(jobs(&site, &site.key.hash("1.2.3")), [2, 3, 4]);
    }

    #[test]
    fn jobs_are_listed_newest_first_as_far_as_asked_for() {
        let site = site();
        let all = HistoryFilter {
            state: None,
            source: None,
            since: None,
            limit: 10,
        };
        let list = |filter: &HistoryFilter| -> Vec<JobNumber> {
            let histories = site.outbox.list(filter).unwrap();
            histories.iter().map(|history| history.job).collect()
        };
        assert_eq!(list(&all), [4, 3, 2, 1]);
        assert_eq!(
            list(&HistoryFilter {
                limit: 2,
                ..all.clone()
            }),
            [4, 3]
        );
        for (stage, job) in [
            (Stage::Pending, 1),
            (Stage::Published, 2),
            (Stage::Quarantined, 3),
            (Stage::Dropped, 4),
        ] {
            let state = Some(stage);
            assert_eq!(
                list(&HistoryFilter {
                    state,
                    ..all.clone()
                }),
                [job]
            );
        }
        let source = Some("ct".to_owned());
        assert_eq!(
            list(&HistoryFilter {
                source,
                ..all.clone()
            }),
            [3]
        );
        let since = Some("2026-11-23".to_owned());
        assert_eq!(list(&HistoryFilter { since, ..all }), [4, 3]);
    }

    /// What a version without lookup keys and senders wrote.
    #[test]
    fn a_history_of_an_earlier_version_is_read() {
        let text = r#"{"job":1,"source":"ward","accepted_at":"2026-11-24T00:00:00Z","refused":false,
            "input":{"bytes":2,"sha256":"ab"},"state":"published","since":"","attempts":1,"reason":null,
            "messages":[]}"#;
        let history: JobHistory = serde_json::from_str(text).unwrap();
        assert_eq!(
            (history.sender, history.job_id, history.sop_instance_uid),
            (None, None, None)
        );
    }
}
