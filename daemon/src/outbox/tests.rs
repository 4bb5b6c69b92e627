use redb::WriteTransaction;
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    Arrival, FORMAT, JOBS, Lease, LeaseRequest, Ledger, META, Message, Outbox, ResultRows,
};
use crate::failure::Reason;
use crate::outbox::job::{Input, LookupKeys, State};
use crate::outbox::slices::{self, Slice};
use crate::seg::tests::slice;

const BOOT: Uuid = Uuid::from_u128(1);
const NEXT_BOOT: Uuid = Uuid::from_u128(2);

fn arrival(file: &str) -> Arrival {
    Arrival {
        source: "inbox".into(),
        file: file.into(),
        received_at: "2026-11-24T00:00:00Z".into(),
        sender: None,
    }
}

fn messages(seq: u64, parts: u8) -> Vec<Message> {
    (0..parts)
        .map(|part| Message {
            topic: format!("t/{seq}"),
            payload: vec![part; 4],
        })
        .collect()
}

fn reason() -> Reason {
    Reason {
        code: "c".into(),
        words: "w".into(),
        remedy: "r".into(),
    }
}

fn event(seq: u64) -> Message {
    Message {
        topic: "event".into(),
        payload: seq.to_string().into_bytes(),
    }
}

fn rows<'a>(lookup_keys: &'a LookupKeys, slice: Option<&'a Slice>) -> ResultRows<'a> {
    ResultRows { lookup_keys, slice }
}

/// An outbox in a folder of its own.
struct Site {
    outbox: Outbox,
    _folder: TempDir,
}

impl Site {
    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    fn open(folder: TempDir) -> Self {
        let outbox = Outbox::open(folder.path()).unwrap();
        assert!(outbox.ledger().unwrap().balances());
        Self {
            outbox,
            _folder: folder,
        }
    }

    /// The file as it is on disk while this process has it open.
    fn copied(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&self.outbox.path, folder.path().join("outbox.redb")).unwrap();
        folder
    }

    /// What a killed process leaves: nothing was closed, and a transaction was under way.
    fn crash(self) -> Self {
        let after_commit = Self::open(self.copied());
        let mut copy = None;
        let transaction = self.outbox.database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert("received", 1_000_000).unwrap();
            let mut jobs = transaction.open_table(JOBS).unwrap();
            // More than the cache of changes holds, so that some of it is in the file.
            let noise = vec![0_u8; 1 << 20];
            for job_number in 1_000..1_032 {
                jobs.insert(job_number, noise.as_slice()).unwrap();
            }
            copy.replace(self.copied());
        }
        let amid = Self::open(copy.unwrap());
        transaction.abort().unwrap();
        for copy in [&after_commit, &amid] {
            assert_eq!(copy.outbox.jobs().unwrap(), self.outbox.jobs().unwrap());
            assert_eq!(copy.outbox.ledger().unwrap(), self.outbox.ledger().unwrap());
            let rows = |outbox: &Outbox| outbox.messages(None, 100).unwrap();
            assert_eq!(rows(&copy.outbox), rows(&self.outbox));
        }
        amid
    }
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing() {
    let site = Site::new();

    let arrivals = [arrival("a"), arrival("b")];
    let job_numbers = site.outbox.accept(&arrivals).unwrap();
    let site = site.crash();
    assert_eq!(site.outbox.jobs().unwrap().len(), 2);

    let lease = site.outbox.lease(job_numbers[0], BOOT, 3).unwrap();
    assert!(matches!(lease, Some(Lease::Work(ref job)) if job.attempts == 1));
    let site = site.crash();
    let lease = site.outbox.lease(job_numbers[0], NEXT_BOOT, 3).unwrap();
    assert!(matches!(lease, Some(Lease::Work(ref job)) if job.attempts == 2));

    let encode = |seq| messages(seq, 3);
    site.outbox
        .append(job_numbers[0], &Input::of(b"x"), encode)
        .unwrap();
    let site = site.crash();
    let queued = site.outbox.messages(None, 10).unwrap();
    assert_eq!(
        queued.iter().map(|row| row.key).collect::<Vec<_>>(),
        [(1, 0), (1, 1), (1, 2)]
    );
    assert_eq!(site.outbox.messages(Some((1, 1)), 10).unwrap().len(), 1);

    let some = site.outbox.acknowledge(&[(1, 0), (1, 2)]).unwrap();
    assert!(some.is_empty());
    let site = site.crash();
    let published = site.outbox.acknowledge(&[(1, 1)]).unwrap();
    assert_eq!(published[0].0, job_numbers[0]);
    let site = site.crash();
    assert_eq!(site.outbox.jobs().unwrap()[0].1.state, State::Published);
    assert!(
        site.outbox.acknowledge(&[(1, 1)]).unwrap().is_empty(),
        "a second PUBACK counts nothing"
    );

    site.outbox.forget(job_numbers[0]);
    let ended = site.outbox.quarantine(job_numbers[1], &reason(), event);
    assert!(ended.unwrap().is_some());
    let site = site.crash();
    assert_eq!(site.outbox.jobs().unwrap().len(), 1);
    site.outbox.reject().unwrap();
    assert_eq!(
        site.crash().outbox.ledger().unwrap(),
        Ledger {
            received: 3,
            published: 1,
            pending: 0,
            quarantined: 1,
            rejected: 1,
            dropped: 0,
            messages: 1
        }
    );
}

#[test]
fn the_ledger_shows_one_moment() {
    let site = Site::new();
    // Enough rows that counting them takes longer than a commit.
    site.outbox.accept(&vec![arrival("a"); 2000]).unwrap();
    let outbox = &site.outbox;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..60 {
                outbox.accept(&[arrival("b")]).unwrap();
            }
        });
        while !writing.is_finished() {
            let ledger = outbox.ledger().unwrap();
            assert!(ledger.balances(), "{ledger:?}");
        }
    });
}

#[test]
fn a_job_is_leased_once_in_a_boot_and_ends_after_its_attempts() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(directory.path()).unwrap();
    let job_number = outbox.accept(&[arrival("a")]).unwrap()[0];
    for attempt in 1..=3 {
        let boot = Uuid::from_u128(attempt);
        assert!(matches!(
            outbox.lease(job_number, boot, 3).unwrap(),
            Some(Lease::Work(_))
        ));
        assert_eq!(
            outbox.lease(job_number, boot, 3).unwrap(),
            None,
            "it is in hand already"
        );
    }
    let lease = outbox.lease(job_number, Uuid::from_u128(4), 3).unwrap();
    assert_eq!(lease, Some(Lease::CrashLoop { attempts: 3 }));
    assert_eq!(
        outbox.lease(job_number + 1, BOOT, 3).unwrap(),
        None,
        "an unknown job number"
    );
}

#[test]
fn a_result_and_the_next_lease_are_one_commit() {
    let site = Site::new();
    let arrivals = ["a", "b", "c"].map(arrival);
    let job_numbers = site.outbox.accept(&arrivals).unwrap();
    site.outbox.lease(job_numbers[0], BOOT, 3).unwrap();
    let lease_request = |job_number| {
        Some(LeaseRequest {
            job_number,
            boot: BOOT,
            attempts_max: 3,
        })
    };
    let append = |site: &Site, job_number, next| {
        let (lookup_keys, encode) = (LookupKeys::default(), |seq| messages(seq, 1));
        let appended = site
            .outbox
            .append_with(job_number, rows(&lookup_keys, None), next, encode);
        appended.unwrap()
    };
    let state = |site: &Site, job_number| site.outbox.job(job_number).unwrap().unwrap().state;
    let lease = append(&site, job_numbers[0], lease_request(job_numbers[1]));
    assert!(matches!(lease, Some(Lease::Work(ref job)) if job.attempts == 1));
    let site = site.crash();
    assert_eq!(state(&site, job_numbers[0]), State::Inferred { seq: 1 });
    assert_eq!(state(&site, job_numbers[1]), State::Leased { boot: BOOT });

    // A job that was taken away meanwhile does not take the lease of the next one along.
    site.outbox
        .quarantine(job_numbers[1], &reason(), event)
        .unwrap();
    let lease = append(&site, job_numbers[1], lease_request(job_numbers[2]));
    assert!(matches!(lease, Some(Lease::Work(_))));
    assert_eq!(append(&site, job_numbers[2], None), None);
    assert_eq!(
        append(&site, job_numbers[2], lease_request(job_numbers[2])),
        None
    );
}

#[test]
fn quarantine_takes_the_messages_of_its_job_along() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(directory.path()).unwrap();
    let job_numbers = outbox.accept(&[arrival("a"), arrival("b")]).unwrap();
    for job_number in &job_numbers {
        outbox.lease(*job_number, BOOT, 3).unwrap();
        outbox
            .append(*job_number, &Input::of(b"x"), |seq| messages(seq, 2))
            .unwrap();
    }
    outbox
        .quarantine(job_numbers[0], &reason(), event)
        .unwrap()
        .unwrap();
    assert!(
        outbox
            .quarantine(job_numbers[0], &reason(), event)
            .unwrap()
            .is_none()
    );
    let keys: Vec<_> = outbox
        .messages(None, 10)
        .unwrap()
        .iter()
        .map(|row| row.key)
        .collect();
    assert_eq!(keys, [(2, 0), (2, 1), (3, 0)]);
    let ledger = outbox.ledger().unwrap();
    assert_eq!((ledger.quarantined, ledger.pending), (1, 1));
}

#[test]
fn a_replaced_result_keeps_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(directory.path()).unwrap();
    let job_number = outbox.accept(&[arrival("a")]).unwrap()[0];
    outbox.lease(job_number, BOOT, 3).unwrap();
    outbox
        .append(job_number, &Input::of(b"x"), |seq| messages(seq, 1))
        .unwrap();
    outbox.replace((1, 0), &messages(1, 5)).unwrap();
    assert_eq!(outbox.parts(1).unwrap().len(), 5);
    outbox.replace((1, 0), &messages(1, 3)).unwrap();
    assert_eq!(outbox.messages(None, 10).unwrap().len(), 3);
    assert_eq!(
        outbox.acknowledge(&[(1, 0), (1, 1), (1, 2)]).unwrap().len(),
        1
    );
}

#[test]
fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Outbox::open(directory.path()).unwrap();
    let second = Outbox::open(directory.path()).unwrap_err().to_string();
    assert!(second.contains("in use by another scansided"), "{second}");
}

#[test]
fn a_series_is_open_from_its_first_result_to_its_segmentation() {
    let mut site = Site::new();
    let files = ["a", "b", "copy of b"];
    site.outbox.accept(&files.map(arrival)).unwrap();
    let images = [1, 2, 2].map(|number| slice(number, 1));
    let keep = |site: &Site, job_number: u64| {
        let slice = &images[job_number as usize - 1];
        let lookup_keys = LookupKeys::default();
        let outbox = &site.outbox;
        outbox
            .append_with(job_number, rows(&lookup_keys, Some(slice)), None, |seq| {
                messages(seq, 1)
            })
            .unwrap();
        // Again, it is ended already.
        outbox
            .append_with(job_number, rows(&lookup_keys, Some(slice)), None, |seq| {
                messages(seq, 1)
            })
            .unwrap();
    };
    assert_eq!(site.outbox.unfinished().unwrap().len(), 3);
    (1..=3).for_each(|job_number| keep(&site, job_number));
    site = site.crash();
    assert!(site.outbox.unfinished().unwrap().is_empty());
    let open = site.outbox.open_series().unwrap();
    assert_eq!(
        open.into_iter().collect::<Vec<_>>(),
        [("2.25.1001".into(), [1, 3].into())]
    );
    let kept = site.outbox.slices("2.25.1001").unwrap();
    assert_eq!(kept, [images[0].clone(), images[2].clone()]);
    assert!(site.outbox.slices("2.25.100").unwrap().is_empty());
    let events = |site: &Site| site.outbox.messages(None, 10).unwrap().len();
    assert_eq!(events(&site), 3);
    let made = vec![slices::SegmentationRecord {
        id: uuid::Uuid::nil(),
        model: "digest".into(),
    }];
    let closed = slices::ClosedSeries::new(1000, made.clone(), kept.clone());
    let close = |site: &Site| site.outbox.close_series(&kept, &closed, vec![event]);
    close(&site).unwrap();
    assert_eq!(events(&site), 4);
    // A second time, nothing is said.
    close(&site).unwrap();
    assert_eq!(events(&site), 4);
    site = site.crash();
    assert!(site.outbox.open_series().unwrap().is_empty());
    // It stays known for a day.
    let known = site.outbox.closed("2.25.1001").unwrap();
    assert_eq!((known.slices.len(), &known.made), (2, &made));
    let mut other = slice(4, 1);
    other.image.source.series_instance_uid = "2.25.1002".into();
    site.outbox.accept(&[arrival("other")]).unwrap();
    let lookup_keys = LookupKeys::default();
    let keep = rows(&lookup_keys, Some(&other));

    site.outbox
        .append_with(4, keep, None, |seq| messages(seq, 1))
        .unwrap();
    let day_ms = 24 * 60 * 60 * 1000;
    let later = slices::ClosedSeries::new(1001 + day_ms, vec![], vec![other.clone()]);
    site.outbox
        .close_series(&[other], &later, vec![event])
        .unwrap();
    let known = |series| site.outbox.closed(series).unwrap().slices.len();
    assert_eq!((known("2.25.1001"), known("2.25.1002")), (0, 1));
    site.outbox.forget_series(1002 + 2 * day_ms).unwrap();
    assert_eq!(known("2.25.1002"), 0);
}

#[test]
fn an_outbox_of_another_version_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path()).unwrap();
    let change = |transaction: &WriteTransaction| {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT + 1)?;
        Ok(())
    };
    outbox.write(change).unwrap();
    drop(outbox);
    let words = Outbox::open(folder.path()).unwrap_err().to_string();
    assert!(
        words.contains("has format 2, this program reads 1"),
        "{words}"
    );
}
