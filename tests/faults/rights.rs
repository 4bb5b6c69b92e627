//! Who may read the state directory, whoever made what lies there.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::http;
use crate::script::{self, Answer};
use crate::sender;
use crate::station::{PATIENCE, Process, Station, free_port, png, wait_for};

/// A command under another umask.
fn under(umask: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// Everything below with rights for others, or for the group to more than enter a folder.
fn open_to_others(path: &Path, found: &mut Vec<(PathBuf, u32)>) {
    // Gone since it was listed.
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    let allowed = if metadata.is_dir() { 0o750 } else { 0o600 };
    if metadata.mode() & 0o777 & !allowed != 0 {
        found.push((path.to_owned(), metadata.mode()));
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            open_to_others(&entry.unwrap().path(), found);
        }
    }
}

#[test]
fn nobody_else_reads_the_state_directory_whatever_the_umask() {
    if !sender::dcmtk() {
        return;
    }
    for umask in ["000", "022"] {
        let broker = script::start(|_, _| Answer::Code(0));
        let (door, scp, pacs) = (free_port(), free_port(), free_port());
        let sections = format!(
            "{}{}[seg]\nquiet_s = 1\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {pacs}\n\
             called_ae_title = \"PACS\"\n[models]\nallow_unsigned = true\n",
            http::section(door),
            sender::section(scp)
        );
        let station = Station::new(broker, &sections);
        station.replace_in_config(
            "min_free_bytes = 0",
            "min_free_bytes = 0\nkeep_inputs_days = 1",
        );
        let state = station.path().join("state");
        let by_hand = |arguments: &[&str], code: i32| {
            let output = under(umask, &station.command(arguments)).output().unwrap();
            let words = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {words}");
            let mut found = Vec::new();
            open_to_others(&state, &mut found);
            assert!(found.is_empty(), "{arguments:?} under {umask}: {found:?}");
        };
        // By hand before there is a daemon, beside one, and after one.
        // The PACS is away, which `check` says.
        by_hand(&["check"], 1);
        let bundle = station.path().join("bundle");
        by_hand(
            &["models", "install", "--unsigned", bundle.to_str().unwrap()],
            0,
        );
        let log = fs::File::create(station.path().join("daemon.log")).unwrap();
        let mut run = under(umask, &station.command(&["run"]));
        let mut daemon = Process(run.stderr(log).spawn().unwrap());
        station.wait_for_word("ready");
        let folder = tempfile::tempdir().unwrap();
        let series = sender::one_series(folder.path(), 3);
        for file in &series {
            fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
            station.drop_file(file);
        }
        assert!(sender::deliver(
            scp,
            &sender::phantoms(folder.path(), 1),
            &[]
        ));
        assert_eq!(http::post(door, &png(1)).unwrap().0, 202);
        station.drop_garbage(1);
        station.wait_for_word("segmentations cannot be sent");
        station.wait_until_published();
        wait_for("the quarantine", PATIENCE, || {
            station.said(&["image quarantined"]) == 1
        });
        by_hand(&["models", "list"], 0);
        by_hand(&["ledger", "verify"], 0);
        daemon.signal("-TERM");
        assert!(daemon.0.wait().unwrap().success());
        by_hand(&["quarantine", "retry", "--all"], 0);
        for held in [
            "kept",
            "accepted",
            "segmentations",
            "models",
            "identifiers.key",
        ] {
            assert!(state.join(held).exists(), "{held}");
        }

        // What an earlier version left open.
        let open = Command::new("chmod")
            .args(["-R", "a+rwX"])
            .arg(&state)
            .status();
        assert!(open.unwrap().success());
        let mut daemon = Process(
            under(umask, &station.command(&["run"]))
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        wait_for("an answer", PATIENCE, || {
            http::get(door, "/healthz").is_ok()
        });
        by_hand(&["ledger", "show"], 0);
        daemon.signal("-TERM");
        let mut log = String::new();
        daemon
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        assert_eq!(
            log.matches("they are 0600 and 0750 now").count(),
            1,
            "{log}"
        );
    }
}
