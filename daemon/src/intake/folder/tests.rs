use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{BATCH, Inbox, watch_folder, worth_a_sweep};
use crate::config;
use crate::intake::Intake;

struct Fixture {
    folder: tempfile::TempDir,
    inbox: Inbox,
    intake: Intake,
}

fn fixture(stable_ms: u64) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("inbox");
    fs::create_dir(&directory).unwrap();
    let state = folder.path().join("state");
    let config = config::Folder {
        name: "ward".into(),
        directory,
        poll_interval_ms: 10,
        stable_ms,
        depth_max: 1,
        file_max_bytes: 100,
    };
    let (intake, _) = Intake::of(&state, BATCH);
    Fixture {
        folder,
        inbox: Inbox::new(config),
        intake,
    }
}

impl Fixture {
    fn write(&self, name: &str, bytes: usize) {
        let path = self.folder.path().join("inbox").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; bytes]).unwrap();
    }

    fn names(&mut self, now: Instant) -> Vec<String> {
        let ready = self.inbox.sweep(now);
        let mut names: Vec<_> = ready
            .iter()
            .map(|file| {
                file.path
                    .file_name()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_growing_file_is_left_alone() {
    let mut fixture = fixture(500);
    let start = Instant::now();
    let after = |ms| start + Duration::from_millis(ms);
    fixture.write("a.dcm", 10);
    assert!(fixture.names(after(0)).is_empty());
    assert!(fixture.names(after(400)).is_empty());
    fixture.write("a.dcm", 20);
    assert!(
        fixture.names(after(600)).is_empty(),
        "it grew, the time starts again"
    );
    assert!(fixture.names(after(1000)).is_empty());
    assert_eq!(fixture.names(after(1100)), ["a.dcm"]);
}

#[test]
fn only_finished_regular_files_are_taken() {
    let mut fixture = fixture(0);
    for name in [
        "a.png",
        ".hidden",
        "b.part",
        "c.TMP",
        "sub/d.png",
        "sub/deeper/e.png",
    ] {
        fixture.write(name, 1);
    }
    let inbox = fixture.folder.path().join("inbox");
    std::os::unix::fs::symlink("/etc/hostname", inbox.join("link.png")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(inbox.join("socket.png")).unwrap();
    assert_eq!(fixture.names(Instant::now()), ["a.png", "d.png"]);
}

#[test]
fn accepted_files_leave_the_inbox_and_large_ones_are_refused() {
    let mut fixture = fixture(0);
    fixture.write("good.png", 10);
    fixture.write("huge.png", 101);
    // The refused one has a number too.
    assert_eq!(fixture.inbox.accept(&fixture.intake).unwrap(), [2]);
    assert_eq!(
        fs::read_dir(fixture.folder.path().join("inbox"))
            .unwrap()
            .count(),
        0
    );
    let ledger = fixture.intake.outbox.ledger().unwrap();
    assert_eq!(
        (ledger.received, ledger.pending, ledger.rejected),
        (2, 1, 1)
    );
    let mut notes = fs::read_dir(&fixture.intake.spool.quarantine)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        });
    let note = fs::read_to_string(notes.next().unwrap()).unwrap();
    assert!(
        note.contains("the file has 101 bytes, the limit is 100"),
        "{note}"
    );
}

#[test]
fn a_full_disk_leaves_files_in_the_inbox() {
    let mut fixture = fixture(0);
    fixture.intake.min_free_bytes = u64::MAX;
    fixture.write("a.png", 1);
    assert!(fixture.inbox.accept(&fixture.intake).unwrap().is_empty());
    assert!(fixture.folder.path().join("inbox/a.png").exists());
    assert!(fixture.intake.status.reasons().contains(&"disk_low"));
    fixture.intake.min_free_bytes = 0;
    assert_eq!(fixture.inbox.accept(&fixture.intake).unwrap().len(), 1);
    assert!(fixture.intake.status.reasons().is_empty());
}

#[test]
fn disk_low_ends_without_a_file_that_waits() {
    let mut fixture = fixture(0);
    fixture.intake.min_free_bytes = u64::MAX;
    assert!(fixture.inbox.accept(&fixture.intake).unwrap().is_empty());
    assert!(fixture.intake.status.reasons().contains(&"disk_low"));
    fixture.intake.min_free_bytes = 0;
    assert!(fixture.inbox.accept(&fixture.intake).unwrap().is_empty());
    assert!(fixture.intake.status.reasons().is_empty());
}

#[test]
fn an_inbox_without_trouble_leaves_the_state_of_another_alone() {
    let mut fixture = fixture(0);
    fixture.intake.status.set_disk_low(true);
    fixture.inbox.accept(&fixture.intake).unwrap();
    assert!(fixture.intake.status.reasons().contains(&"disk_low"));
}

#[test]
fn disk_low_lasts_while_a_copy_has_no_room() {
    let mut fixture = fixture(20);
    let inbox = tempfile::tempdir_in("/dev/shm").unwrap();
    fixture.inbox.config.directory = inbox.path().to_owned();
    fixture.inbox.config.file_max_bytes = u64::MAX;
    // Sparse, and larger than any disk.
    let file = fs::File::create(inbox.path().join("a.png")).unwrap();
    file.set_len(1 << 50).unwrap();
    let start = Instant::now();
    while fixture.intake.status.reasons().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(fixture.inbox.accept(&fixture.intake).unwrap().is_empty());
    }
    assert!(fixture.inbox.accept(&fixture.intake).unwrap().is_empty());
    assert!(fixture.intake.status.reasons().contains(&"disk_low"));
    file.set_len(10).unwrap();
    while fixture.inbox.accept(&fixture.intake).unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert!(fixture.intake.status.reasons().is_empty());
}

#[test]
fn a_claim_that_a_kill_left_is_accepted() {
    let mut fixture = fixture(0);
    let name = crate::spool::name::new_name(std::path::Path::new("a.png"));
    fixture.write(&format!(".scansided-claim-{name}"), 10);
    fixture.write(".scansided-claim-of another program", 10);
    fixture.write(".scansided-check", 0);
    assert_eq!(fixture.inbox.accept(&fixture.intake).unwrap(), [1]);
    assert_eq!(fixture.intake.outbox.jobs().unwrap()[0].1.file, name);
    let rest = fs::read_dir(fixture.folder.path().join("inbox")).unwrap();
    assert_eq!(rest.count(), 2);
}

#[test]
fn what_cannot_be_taken_does_not_block_the_others() {
    let mut fixture = fixture(0);
    for number in 0..BATCH {
        fixture.write(&format!("{number}.png"), 1);
    }
    fixture.write("z.png", 1);
    let inbox = fixture.folder.path().join("inbox");
    let old = fs::File::open(inbox.join("z.png")).unwrap();
    old.set_modified(std::time::SystemTime::now() + Duration::from_mins(1))
        .unwrap();
    for number in 0..BATCH {
        let path = inbox.join(format!("{number}.png"));
        fixture.inbox.warn(path, "file cannot be moved", None);
    }
    assert!(fixture.names(Instant::now()).contains(&"z.png".to_owned()));
}

#[test]
fn only_what_others_change_is_worth_a_sweep() {
    let event = |kind| worth_a_sweep(&notify::Event::new(kind));
    assert!(!event(EventKind::Access(AccessKind::Open(AccessMode::Any))));
    assert!(!event(EventKind::Access(AccessKind::Close(
        AccessMode::Read
    ))));
    assert!(event(EventKind::Access(AccessKind::Close(
        AccessMode::Write
    ))));
    assert!(event(EventKind::Other), "the queue of inotify overflowed");
}

#[tokio::test]
async fn an_idle_inbox_rests() {
    let mut fixture = fixture(0);
    fixture.write("sub/.hidden", 1);
    let changed = Arc::new(Notify::new());
    let _watcher = watch_folder(&fixture.inbox.config, Arc::clone(&changed)).unwrap();
    fixture.inbox.accept(&fixture.intake).unwrap();
    let heard = timeout(Duration::from_millis(300), changed.notified()).await;
    assert!(heard.is_err(), "a sweep causes the next one");
    fixture.write("sub/a.png", 1);
    timeout(Duration::from_secs(10), changed.notified())
        .await
        .unwrap();
}
