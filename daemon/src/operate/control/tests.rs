use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::*;
use crate::config;
use crate::outbox::Arrival;

/// A configuration whose quarantine holds jobs 1 to 3, the third without its file.
fn site(folder: &Path) -> Config {
    let text = format!(
        "node = \"box-1\"\n[model]\nbundle = \"b\"\n[state]\ndirectory = \"{}\"\n\
         [[folder]]\nname = \"ward\"\ndirectory = \"inbox\"\n[mqtt]\nhost = \"127.0.0.1\"\n",
        folder.display()
    );
    let config = Config::parse(&text, Path::new("daemon.toml")).unwrap();
    let outbox = Outbox::open(folder).unwrap();
    let spool = Spool::create(folder, 0).unwrap();
    let reason = crate::failure::Failure::CrashLoop { attempts: 3 }.reason();
    for name in ["a-DOE^JANE", "b", "c"] {
        let arrival = Arrival {
            source: "ward".into(),
            file: name.into(),
            received_at: "2026-11-24T00:00:00Z".into(),
            sender: None,
        };
        if name != "c" {
            fs::write(spool.quarantine.join(name), name).unwrap();
        }
        outbox.refuse(&arrival, &reason).unwrap();
    }
    config
}

/// What a daemon answers with; inputs are kept for a day.
fn control(config: &Config) -> Control {
    let state = &config.state.directory;
    Control {
        outbox: Arc::new(Outbox::open(state).unwrap()),
        spool: Spool::create(state, 1).unwrap(),
        limits: config::Quarantine::default(),
        history_max_jobs: 100,
        models: Arc::new(Models::none(config)),
        status: Arc::default(),
        keep_days: 7,
        fresh: Arc::default(),
    }
}

fn jobs(job_numbers: &[JobNumber]) -> Choice {
    Choice::Jobs(job_numbers.to_vec())
}

/// What a user sees, whether or not a daemon has the outbox open.
fn scenario(config: &Config) {
    let Answer::Quarantined(items) = ask(config, &Request::Quarantined).unwrap() else {
        panic!("another answer");
    };
    let seen: Vec<_> = items.iter().map(|item| (item.job, item.bytes)).collect();
    assert_eq!(seen, [(1, Some(10)), (2, Some(1)), (3, None)]);
    assert_eq!(items[0].stage, Stage::Infer);
    let text = serde_json::to_string(&items).unwrap();
    assert!(!text.contains("DOE"), "{text}");
    let Answer::History(Some(history)) = ask(config, &Request::History(1)).unwrap() else {
        panic!("another answer");
    };
    assert!(history.refused && history.reason.is_some());
    assert_eq!(history.input, Some(Input::of(b"a-DOE^JANE")));
    assert_eq!(
        ask(config, &Request::History(9)).unwrap(),
        Answer::History(None)
    );
    let retried = ask(config, &Request::Retry(jobs(&[1, 3, 9]))).unwrap();
    let expected = MoveOutcome {
        done: vec![1],
        unknown: vec![9],
        missing: vec![3],
    };
    assert_eq!(retried, Answer::Moved(expected));
    let dropped = ask(config, &Request::Drop(Choice::All)).unwrap();
    let expected = MoveOutcome {
        done: vec![2, 3],
        ..MoveOutcome::default()
    };
    assert_eq!(dropped, Answer::Moved(expected));
    let Answer::Ledger(ledger) = ask(config, &Request::Ledger).unwrap() else {
        panic!("another answer");
    };
    assert!(ledger.balances());
    assert_eq!((ledger.received, ledger.pending, ledger.dropped), (3, 1, 2));
    let input = config.state.directory.join("accepted/ward/a-DOE^JANE");
    assert!(input.exists());
}

#[test]
fn a_box_without_a_daemon_answers() {
    let folder = tempfile::tempdir().unwrap();
    scenario(&site(folder.path()));
}

#[tokio::test]
async fn a_running_daemon_answers_and_works_on_what_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let config = site(folder.path());
    let control = control(&config);
    // What a killed daemon left.
    fs::write(folder.path().join(SOCKET), b"").unwrap();
    let listener = listen(folder.path());
    let (job_numbers, mut queue) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let daemon = tokio::spawn(run(control, listener, job_numbers, stopped));
    let asking = config.clone();
    tokio::task::spawn_blocking(move || scenario(&asking))
        .await
        .unwrap();
    assert_eq!(queue.recv().await, Some(1));
    stop.send(true).unwrap();
    daemon.await.unwrap().unwrap();
    assert_eq!(queue.recv().await, None, "nothing else");
}

#[tokio::test]
async fn without_a_broker_inputs_expire_and_models_are_judged() {
    let folder = tempfile::tempdir().unwrap();
    let config = site(folder.path());
    let control = control(&config);
    let kept = folder.path().join("kept");
    // Kept since 1970, and since long after this test.
    let names = [1, u64::MAX].map(|at_ns| format!("{at_ns:016x}-0-image.dcm"));
    for name in &names {
        fs::write(kept.join(name), b"").unwrap();
    }
    let status = Arc::clone(&control.status);
    status.set_model_fell_back(true);
    assert_eq!(status.reasons(), ["model_fell_back"]);
    let listener = listen(folder.path());
    let (job_numbers, _queue) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let daemon = tokio::spawn(run(control, listener, job_numbers, stopped));
    // No slot has fallen back, which is found out with the next request.
    let asking = tokio::task::spawn_blocking(move || ask(&config, &Request::Ledger));
    assert!(matches!(asking.await.unwrap(), Ok(Answer::Ledger(_))));
    assert!(status.reasons().is_empty() && !status.is_connected());
    let expired = async {
        while kept.join(&names[0]).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, expired).await.unwrap();
    assert!(kept.join(&names[1]).exists());
    stop.send(true).unwrap();
    daemon.await.unwrap().unwrap();
}

#[test]
fn two_commands_at_a_time_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = site(folder.path());
    let other = Outbox::open(folder.path()).unwrap();
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&config, &Request::Ledger));
        thread::sleep(3 * LOCK_PAUSE);
        drop(other);
        assert!(matches!(asking.join().unwrap(), Ok(Answer::Ledger(_))));
    });
}

#[tokio::test]
async fn a_daemon_waits_for_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let other = Outbox::open(folder.path()).unwrap();
    let give_up = || async {
        tokio::time::sleep(3 * LOCK_PAUSE).await;
        drop(other);
    };
    let (opened, ()) = tokio::join!(open(folder.path()), give_up());
    let opened = opened.unwrap();
    let second = open(folder.path()).await;
    assert!(
        matches!(second, Err(OutboxError::InUse { .. })),
        "for a moment only"
    );
    assert!(opened.ledger().unwrap().balances());
}

#[test]
fn a_daemon_that_does_not_answer_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = site(folder.path());
    let _daemon = Outbox::open(folder.path()).unwrap();
    let words = ask(&config, &Request::Ledger).unwrap_err().to_string();
    assert!(words.contains("does not answer"), "{words}");
    assert!(words.contains("stop it first"), "{words}");
}
