//! Who may read the state directory: files are their user's alone, folders may be entered by its group besides, because
//! inboxes may lie beside them. Whatever the umask is: commands by hand have another one than the service.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

pub(crate) const FILE_MODE: u32 = 0o600;
pub(crate) const FOLDER_MODE: u32 = 0o750;

/// What [`tighten`] looks at. Files of others may lie beside it: a bundle, certificates.
const OURS: [&str; 10] = [
    "outbox.redb",
    "outbox.redb.part",
    "control.sock",
    "identifiers.key",
    "identifiers.key.part",
    "accepted",
    "quarantine",
    "kept",
    "models",
    "segmentations",
];

/// Opens a file of the state directory for writing, without what it held.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    open(options.create(true).truncate(true), path)
}

/// Opens a file of the state directory that is not there yet.
pub(crate) fn create_new_file(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().create_new(true), path)
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.write(true).mode(FILE_MODE).open(path)?;
    hand_over(&file, path.parent().unwrap_or(Path::new(".")))?;
    Ok(file)
}

/// What root makes by hand belongs to whom the folder belongs to: the daemon has to read it.
pub(super) fn hand_over(made: &File, folder: &Path) -> io::Result<()> {
    let (own, owner) = (made.metadata()?, fs::metadata(folder)?);
    if own.uid() == 0 && owner.uid() != 0 {
        let given = fchown(made, Some(owner.uid()), Some(owner.gid()));
        // A root that may not give files away, as in some containers, works with its own.
        let refused = [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput];
        given.or_else(|error| {
            if refused.contains(&error.kind()) {
                Ok(())
            } else {
                Err(error)
            }
        })?;
    }
    Ok(())
}

/// Takes the rights of others away from a file that came by a rename. Its owner alone can do that.
pub(crate) fn close(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    // A link of another name, or to another place, shares its rights with what is not ours.
    if !metadata.is_file() || metadata.nlink() > 1 {
        return Ok(());
    }
    let mode = metadata.mode();
    fs::set_permissions(path, Permissions::from_mode(closed(mode, false)))
}

/// Whether a file has rights for others that this process cannot take away.
pub(crate) fn is_others(metadata: &fs::Metadata) -> bool {
    let user = rustix::process::geteuid();
    !user.is_root() && metadata.uid() != user.as_raw() && metadata.mode() & 0o077 != 0
}

fn closed(mode: u32, is_folder: bool) -> u32 {
    let allowed = if is_folder { FOLDER_MODE } else { FILE_MODE };
    mode & 0o7777 & !(0o777 & !allowed)
}

/// How many had rights that they should not have, and how many of them still have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tightened {
    done: u64,
    left: u64,
}

/// Closes what an earlier version, or a hand, left open to others. Said in one line.
pub(crate) fn tighten(state: &Path) {
    let Tightened { done, left } = walk_state(state);
    if done > 0 {
        tracing::info!(
            entries = done,
            "files and folders of the state directory could be read by others; they are 0600 and 0750 now"
        );
    }
    if left > 0 {
        tracing::warn!(
            entries = left,
            state = %state.display(),
            "files or folders of the state directory can be read by others and belong to somebody else; \
             give them to the daemon's user (chown)"
        );
    }
}

fn walk_state(state: &Path) -> Tightened {
    let mut tightened = Tightened::default();
    let sticky = fs::metadata(state).is_ok_and(|folder| folder.mode() & 0o1000 != 0);
    // A folder like /tmp is everybody's: only what is ours in it is closed.
    if !sticky {
        tightened.one(state);
    }
    for name in OURS {
        tightened.walk(&state.join(name));
    }
    tightened
}

impl Tightened {
    /// From the top: in a closed folder no other user can exchange what is closed next.
    fn walk(&mut self, path: &Path) {
        if !self.one(path) {
            return;
        }
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            self.walk(&entry.path());
        }
    }

    /// Whether it is a folder. A link stays as it is.
    fn one(&mut self, path: &Path) -> bool {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return false;
        };
        if metadata.is_symlink() {
            return false;
        }
        let (mode, is_folder) = (metadata.mode() & 0o7777, metadata.is_dir());
        let closed = closed(mode, is_folder);
        if closed != mode {
            match fs::set_permissions(path, Permissions::from_mode(closed)) {
                Ok(()) => self.done += 1,
                Err(_) => self.left += 1,
            }
        }
        is_folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_was_open_to_others_is_closed_and_what_is_not_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let put = |name: &str, mode: u32, is_folder: bool| {
            let path = state.join(name);
            if is_folder {
                fs::create_dir_all(&path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, b"x").unwrap();
            }
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        put("accepted/ward/image", 0o666, false);
        put("accepted/ward", 0o2777, true);
        put("identifiers.key", 0o640, false);
        put("outbox.redb", 0o600, false);
        put("kept", 0o700, true);
        put("bundle/model.onnx", 0o644, false);
        let outside = folder.path().join("bundle/model.onnx");
        std::os::unix::fs::symlink(&outside, state.join("kept/link")).unwrap();
        fs::set_permissions(state, Permissions::from_mode(0o755)).unwrap();

        // The folder itself, `accepted`, `accepted/ward` and two files; `accepted` is 0755 under most masks.
        let tightened = walk_state(state);
        assert!(tightened.done >= 4 && tightened.left == 0, "{tightened:?}");
        for (name, expected) in [
            ("", 0o750),
            ("accepted/ward", 0o2750),
            ("accepted/ward/image", 0o600),
            ("identifiers.key", 0o600),
            ("outbox.redb", 0o600),
            ("kept", 0o700),
            ("bundle/model.onnx", 0o644),
        ] {
            let path = if name.is_empty() {
                state.to_owned()
            } else {
                state.join(name)
            };
            assert_eq!(mode(&path), expected, "{name}");
        }
        assert_eq!(walk_state(state), Tightened::default(), "once");
    }

    #[test]
    fn a_file_of_the_state_directory_is_its_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create_new_file(&path).unwrap();
        assert!(create_new_file(&path).is_err());
        assert_eq!(mode(&path), FILE_MODE);
        let renamed = folder.path().join("renamed");
        fs::write(&renamed, b"x").unwrap();
        fs::set_permissions(&renamed, Permissions::from_mode(0o664)).unwrap();
        close(&renamed).unwrap();
        assert_eq!(mode(&renamed), FILE_MODE);
    }

    /// Root runs a command beside a daemon that has a user of its own.
    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_folder() {
        const USER: u32 = 54_321;
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give files away; this was NOT tested");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).unwrap();
        let owner = |path: &Path| {
            fs::metadata(path)
                .map(|made| (made.uid(), made.gid()))
                .unwrap()
        };
        let path = folder.path().join("file");
        create_file(&path).unwrap();
        assert_eq!(owner(&path), (USER, USER));
        let inner = folder.path().join("inner");
        crate::disk::create_folder(&inner).unwrap();
        assert_eq!((owner(&inner), mode(&inner)), ((USER, USER), FOLDER_MODE));
        let state = folder.path().join("state");
        crate::disk::create_outermost(&state).unwrap();
        assert_eq!((owner(&state), mode(&state)), ((0, 0), FOLDER_MODE));
    }
}
