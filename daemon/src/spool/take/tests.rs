use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// An inbox on another file system than the spool.
struct Place {
    inbox: tempfile::TempDir,
    state: tempfile::TempDir,
}

fn two_disks() -> Place {
    let inbox = tempfile::tempdir_in("/dev/shm").unwrap();
    let state = tempfile::tempdir().unwrap();
    let device = |folder: &tempfile::TempDir| folder.path().metadata().unwrap().dev();
    assert_ne!(device(&inbox), device(&state), "this test needs two disks");
    fs::create_dir_all(state.path().join("accepted/ward")).unwrap();
    Place { inbox, state }
}

impl Place {
    fn file(&self) -> InboxFile {
        let path = self.inbox.path().join("a.dcm");
        fs::write(&path, b"pixels").unwrap();
        found(&path)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.state.path().join("accepted/ward").join(name)
    }
}

fn found(path: &Path) -> InboxFile {
    let metadata = path.metadata().unwrap();
    InboxFile {
        path: path.to_owned(),
        bytes: metadata.len(),
        modified: metadata.modified().ok(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_of_another_disk_is_copied_and_leaves_its_inbox() {
    let place = two_disks();
    let file = place.file();
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o644)).unwrap();
    let to = place.folder(&spooled_name(&file.path));
    take(&file, &to, 0).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"pixels");
    assert_eq!(to.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(names(place.inbox.path()).is_empty());
    assert_eq!(
        names(&place.state.path().join("accepted")),
        ["ward"],
        "no part"
    );
}

#[test]
fn a_file_that_nobody_can_remove_is_not_copied() {
    let place = two_disks();
    // Not even root renames files in /sys.
    let file = found(Path::new("/sys/kernel/fscaps"));
    let to = place.folder("a");
    assert!(matches!(take(&file, &to, 0), Err(NotMoved::Inbox(..))));
    assert!(names(&place.state.path().join("accepted/ward")).is_empty());
}

#[test]
fn a_copy_without_room_is_not_begun() {
    let place = two_disks();
    let file = place.file();
    let free = disk::free_bytes(place.state.path()).unwrap();
    let to = place.folder("a");
    // Above the watermark, but not after this file.
    let result = take(&file, &to, free.saturating_add(1 << 40));
    assert!(matches!(result, Err(NotMoved::NoRoom)));
    assert_eq!(names(place.inbox.path()), ["a.dcm"]);
}

#[test]
fn a_file_that_changed_since_the_sweep_stays() {
    let place = two_disks();
    let mut file = place.file();
    file.bytes -= 1;
    for to in [place.folder("a"), place.inbox.path().join("same disk")] {
        assert!(matches!(take(&file, &to, 0), Err(NotMoved::Changed)));
    }
    // Seen only after the copy.
    let to = place.folder(&spooled_name(&file.path));
    assert!(matches!(bring_over(&file, &to, 0), Err(NotMoved::Changed)));
    assert_eq!(names(place.inbox.path()), ["a.dcm"], "it has its name back");
    assert_eq!(names(&place.state.path().join("accepted")), ["ward"]);
    assert!(names(&place.state.path().join("accepted/ward")).is_empty());
}

#[test]
fn a_claim_does_not_come_back_over_another_file() {
    let place = two_disks();
    let file = place.file();
    let claim = hide(&file.path, &place.folder(&spooled_name(&file.path))).unwrap();
    fs::write(&file.path, b"another").unwrap();
    give_back(&claim, &file.path);
    assert_eq!(fs::read(&file.path).unwrap(), b"another");
    assert_eq!(fs::read(&claim).unwrap(), b"pixels");
}

#[test]
fn a_claim_left_by_a_kill_keeps_its_place() {
    let place = two_disks();
    let file = place.file();
    let to = place.folder(&spooled_name(&file.path));
    let claim = found(&hide(&file.path, &to).unwrap());
    // The process dies here.
    assert_eq!(place.folder(&spooled_name(&claim.path)), to);
    take(&claim, &to, 0).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"pixels");
    // Or here, before the claim is removed.
    fs::write(&claim.path, b"pixels").unwrap();
    let again = take(&found(&claim.path), &to, 0);
    assert!(
        matches!(again, Err(NotMoved::Gone)),
        "its copy has a row already"
    );
    assert!(names(place.inbox.path()).is_empty());
}
