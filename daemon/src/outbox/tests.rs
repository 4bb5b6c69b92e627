use std::path::Path;

use uuid::Uuid;

use super::{Arrival, Lease, Ledger, Message, Outbox};
use crate::failure::Reason;
use crate::job::State;

const BOOT: Uuid = Uuid::from_u128(1);
const NEXT_BOOT: Uuid = Uuid::from_u128(2);

fn arrival(file: &str) -> Arrival {
    Arrival {
        source: "inbox".into(),
        file: file.into(),
        received_at: "2026-11-24T00:00:00Z".into(),
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

/// Closes the outbox without a word and opens it again, as a killed process does.
fn crash(outbox: Outbox, directory: &Path) -> Outbox {
    drop(outbox);
    let outbox = Outbox::open(directory).unwrap();
    assert!(outbox.ledger().unwrap().balances());
    outbox
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let outbox = Outbox::open(path).unwrap();

    let tickets = outbox.accept(&[arrival("a"), arrival("b")]).unwrap();
    let outbox = crash(outbox, path);
    assert_eq!(outbox.jobs().unwrap().len(), 2);

    let lease = outbox.lease(tickets[0], BOOT, 3).unwrap();
    assert!(matches!(lease, Some(Lease::Work(ref job)) if job.attempts == 1));
    let outbox = crash(outbox, path);
    let lease = outbox.lease(tickets[0], NEXT_BOOT, 3).unwrap();
    assert!(matches!(lease, Some(Lease::Work(ref job)) if job.attempts == 2));

    outbox.append(tickets[0], |seq| messages(seq, 3)).unwrap();
    let outbox = crash(outbox, path);
    let queued = outbox.messages(None, 10).unwrap();
    assert_eq!(
        queued.iter().map(|row| row.key).collect::<Vec<_>>(),
        [(1, 0), (1, 1), (1, 2)]
    );
    assert_eq!(outbox.messages(Some((1, 1)), 10).unwrap().len(), 1);

    assert!(outbox.acknowledge(&[(1, 0), (1, 2)]).unwrap().is_empty());
    let outbox = crash(outbox, path);
    let published = outbox.acknowledge(&[(1, 1)]).unwrap();
    assert_eq!(published[0].0, tickets[0]);
    let outbox = crash(outbox, path);
    assert_eq!(outbox.jobs().unwrap()[0].1.state, State::Published);
    assert!(
        outbox.acknowledge(&[(1, 1)]).unwrap().is_empty(),
        "a second PUBACK counts nothing"
    );

    outbox.forget(tickets[0]);
    outbox
        .quarantine(tickets[1], &reason(), event)
        .unwrap()
        .unwrap();
    let outbox = crash(outbox, path);
    assert_eq!(outbox.jobs().unwrap().len(), 1);
    outbox.reject().unwrap();
    assert_eq!(
        outbox.ledger().unwrap(),
        Ledger {
            received: 3,
            published: 1,
            pending: 0,
            quarantined: 1,
            rejected: 1,
            messages: 1
        }
    );
}

#[test]
fn a_job_is_leased_once_in_a_boot_and_ends_after_its_attempts() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(directory.path()).unwrap();
    let ticket = outbox.accept(&[arrival("a")]).unwrap()[0];
    for attempt in 1..=3 {
        let boot = Uuid::from_u128(attempt);
        assert!(matches!(
            outbox.lease(ticket, boot, 3).unwrap(),
            Some(Lease::Work(_))
        ));
        assert_eq!(
            outbox.lease(ticket, boot, 3).unwrap(),
            None,
            "it is in hand already"
        );
    }
    let lease = outbox.lease(ticket, Uuid::from_u128(4), 3).unwrap();
    assert_eq!(lease, Some(Lease::CrashLoop { attempts: 3 }));
    assert_eq!(
        outbox.lease(ticket + 1, BOOT, 3).unwrap(),
        None,
        "an unknown ticket"
    );
}

#[test]
fn quarantine_takes_the_messages_of_its_job_along() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(directory.path()).unwrap();
    let tickets = outbox.accept(&[arrival("a"), arrival("b")]).unwrap();
    for ticket in &tickets {
        outbox.lease(*ticket, BOOT, 3).unwrap();
        outbox.append(*ticket, |seq| messages(seq, 2)).unwrap();
    }
    outbox
        .quarantine(tickets[0], &reason(), event)
        .unwrap()
        .unwrap();
    assert!(
        outbox
            .quarantine(tickets[0], &reason(), event)
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
    let ticket = outbox.accept(&[arrival("a")]).unwrap()[0];
    outbox.lease(ticket, BOOT, 3).unwrap();
    outbox.append(ticket, |seq| messages(seq, 1)).unwrap();
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
