//! What a user sees of input that cannot be segmented and of a box that is set up wrongly.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::sample_bundle;

use files::bad_files;

mod files;

const SCANSIDED: &str = env!("CARGO_BIN_EXE_scansided");

/// Bundle, inbox and configuration; no broker listens on port 1.
fn site(folder: &Path) {
    for name in ["inbox", "bundle"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    sample_bundle::write(&folder.join("bundle"));
    let config = "node = \"box-1\"\n[model]\nbundle = \"bundle\"\n\
         [state]\ndirectory = \"state\"\nmin_free_bytes = 0\n\
         [[folder]]\nname = \"ward\"\ndirectory = \"inbox\"\npoll_interval_ms = 50\nstable_ms = 20\n\
         [mqtt]\nhost = \"127.0.0.1\"\nport = 1\n";
    fs::write(folder.join("daemon.toml"), config).unwrap();
}

fn scansided(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(SCANSIDED)
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap()
}

struct Daemon(Child);

impl Daemon {
    fn start(folder: &Path) -> Self {
        let mut run = Command::new(SCANSIDED);
        run.current_dir(folder)
            .args(["run", "--config", "daemon.toml"])
            .stderr(Stdio::null());
        Self(run.spawn().unwrap())
    }

    fn stop(mut self) {
        let id = self.0.id().to_string();
        let kill = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(kill.success());
        let status = self.0.wait().unwrap();
        assert!(status.success(), "a clean stop exits with 0");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn segment_says_an_error_line_for_each_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    site(folder.path());
    fs::write(folder.path().join("good.png"), sample_bundle::golden_png()).unwrap();
    let files = bad_files();
    let mut arguments = vec!["segment", "--bundle", "bundle"];
    for (name, bytes, ..) in &files {
        fs::write(folder.path().join(name), bytes).unwrap();
        arguments.push(name);
    }
    arguments.extend(["missing.png", "good.png"]);
    let output = scansided(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), arguments.len() - 3, "a line for each file");
    for (line, (name, _, code, words)) in lines.iter().zip(&files) {
        assert_eq!(line["schema"], "error/1");
        assert_eq!(line["file"], *name);
        assert_eq!(line["code"], *code, "{line}");
        assert!(line["words"].as_str().unwrap().contains(words), "{line}");
        assert!(line["remedy"].as_str().unwrap().len() > 10, "{line}");
    }
    assert_eq!(lines[files.len()]["code"], "input_unreadable");
    assert_eq!(
        lines[files.len() + 1]["schema"],
        "result/1",
        "a good file after bad ones"
    );
}

#[test]
fn the_daemon_quarantines_bad_files_with_a_reason_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    site(folder.path());
    let inbox = folder.path().join("inbox");
    let files = bad_files();
    for (name, bytes, ..) in &files {
        fs::write(inbox.join(name), bytes).unwrap();
    }
    fs::write(inbox.join("zz-good.png"), sample_bundle::golden_png()).unwrap();
    let mut daemon = Daemon::start(folder.path());
    let start = Instant::now();
    let mut reasons = BTreeMap::new();
    // The reason comes first and the file follows it.
    while reasons.len() < files.len() || fs::read_dir(&inbox).unwrap().count() > 0 {
        assert!(start.elapsed() < Duration::from_mins(2), "{reasons:?}");
        assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon ended");
        sleep(Duration::from_millis(50));
        let Ok(entries) = fs::read_dir(folder.path().join("state/quarantine")) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".reason.json")
                && path.with_file_name(name).exists()
                && let Ok(reason) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap())
            {
                reasons.insert(name.to_owned(), reason);
            }
        }
    }
    for (name, _, code, words) in &files {
        let (_, reason) = reasons
            .iter()
            .find(|(file, _)| file.ends_with(name))
            .unwrap();
        assert_eq!(reason["code"], *code, "{reason}");
        assert!(
            reason["words"].as_str().unwrap().contains(words),
            "{reason}"
        );
        assert!(reason["remedy"].as_str().unwrap().len() > 10, "{reason}");
    }
    daemon.stop();
    let output = scansided(
        folder.path(),
        &["ledger", "verify", "--config", "daemon.toml"],
    );
    let ledger = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{ledger}");
    assert!(
        ledger.contains("received 7 = published 0 + pending 1 + quarantined 6"),
        "{ledger}"
    );
}

#[test]
fn an_inbox_on_another_disk_keeps_what_is_too_large_and_the_daemon_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    site(folder.path());
    let inbox = tempfile::tempdir_in("/dev/shm").unwrap();
    let directory = format!("directory = \"{}\"", inbox.path().display());
    let limit = format!("{directory}\nfile_max_bytes = 100000");
    replace(folder.path(), "directory = \"inbox\"", &limit);
    fs::write(inbox.path().join("huge.png"), vec![0; 100_001]).unwrap();
    fs::write(
        inbox.path().join("zz-good.png"),
        sample_bundle::golden_png(),
    )
    .unwrap();
    let mut daemon = Daemon::start(folder.path());
    let start = Instant::now();
    while inbox.path().join("zz-good.png").exists() {
        assert!(start.elapsed() < Duration::from_mins(2));
        assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon ended");
        sleep(Duration::from_millis(50));
    }
    let check = scansided(folder.path(), &["check", "--config", "daemon.toml"]);
    let words = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.success(), "{words}");
    assert!(words.contains("in use by a running scansided"), "{words}");
    daemon.stop();
    assert!(inbox.path().join("huge.png").exists());
    let verify = ["ledger", "verify", "--config", "daemon.toml"];
    let ledger = String::from_utf8(scansided(folder.path(), &verify).stdout).unwrap();
    assert!(
        ledger.contains("received 1 = published 0 + pending 1"),
        "{ledger}"
    );
}

#[test]
fn a_kill_in_the_middle_of_a_copy_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    site(folder.path());
    let inbox = tempfile::tempdir_in("/dev/shm").unwrap();
    let directory = format!("directory = \"{}\"", inbox.path().display());
    replace(folder.path(), "directory = \"inbox\"", &directory);
    let names = |below: &Path| -> Vec<String> {
        let entries = fs::read_dir(below).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let under_way = || {
        let inside = names(inbox.path());
        inside.iter().any(|name| name.starts_with(".scansided-"))
    };
    let timeout = Duration::from_mins(2);
    let kills = [0, 5, 20, 80];
    for wait_ms in kills {
        let part = inbox.path().join("image.part");
        fs::write(&part, vec![0; 32 << 20]).unwrap();
        fs::rename(&part, inbox.path().join(format!("{wait_ms}.dcm"))).unwrap();
        let mut daemon = Daemon::start(folder.path());
        let start = Instant::now();
        while !under_way() && !names(inbox.path()).is_empty() {
            assert!(start.elapsed() < timeout);
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(wait_ms));
        daemon.0.kill().unwrap();
    }
    let daemon = Daemon::start(folder.path());
    let quarantine = folder.path().join("state/quarantine");
    let arrived = |wait_ms: &u64| {
        let end = format!("-{wait_ms}.dcm");
        names(&quarantine).iter().any(|name| name.ends_with(&end))
    };
    let start = Instant::now();
    while !kills.iter().all(arrived) || !names(inbox.path()).is_empty() {
        assert!(start.elapsed() < timeout, "{:?}", names(&quarantine));
        sleep(Duration::from_millis(50));
    }
    daemon.stop();
    assert_eq!(names(&folder.path().join("state/accepted")), ["ward"]);
    let verify = ["ledger", "verify", "--config", "daemon.toml"];
    assert!(scansided(folder.path(), &verify).status.success());
}

/// Breaks a good site and gives what `check` prints and what `run` says when it refuses to start.
fn broken(breakage: impl FnOnce(&Path)) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    site(folder.path());
    let before = scansided(folder.path(), &["check", "--config", "daemon.toml"]);
    let words = String::from_utf8(before.stdout).unwrap();
    assert!(before.status.success(), "a good site: {words}");
    breakage(folder.path());
    let check = scansided(folder.path(), &["check", "--config", "daemon.toml"]);
    let said = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(1), "{said}");
    let run = scansided(folder.path(), &["run", "--config", "daemon.toml"]);
    let complaint = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{complaint}");
    (said, complaint)
}

fn replace(folder: &Path, from: &str, to: &str) {
    let path = folder.join("daemon.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn an_inbox_that_nobody_can_write_is_named() {
    // Not even root makes files in /proc.
    type Breakage = fn(&Path);
    let cases: [(&str, Breakage); 3] = [
        ("cannot write in /proc", |folder| {
            replace(folder, "directory = \"inbox\"", "directory = \"/proc\"");
        }),
        ("cannot read", |folder| {
            fs::remove_dir(folder.join("inbox")).unwrap();
            fs::write(folder.join("inbox"), "a file").unwrap();
        }),
        ("cannot read", |folder| {
            fs::remove_dir(folder.join("inbox")).unwrap();
        }),
    ];
    for (words, breakage) in cases {
        let (check, run) = broken(breakage);
        for said in [check, run] {
            assert!(
                said.contains("folder `ward`") && said.contains(words),
                "{said}"
            );
            assert!(said.contains("access"), "no remedy: {said}");
        }
    }
}

#[test]
fn a_flipped_byte_in_any_file_of_the_bundle_is_named() {
    for file in ["model.onnx", "golden.tif"] {
        let (check, run) = broken(|folder| {
            let path = folder.join("bundle").join(file);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        });
        for said in [check, run] {
            assert!(said.contains(file) && said.contains("bundle"), "{said}");
        }
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_key_that_was_meant() {
    let (check, run) = broken(|folder| replace(folder, "stable_ms", "stabel_ms"));
    for said in [check, run] {
        assert!(said.contains("daemon.toml:11"), "{said}");
        assert!(
            said.contains("unknown key") && said.contains("stabel_ms"),
            "{said}"
        );
        assert!(said.contains("did you mean `stable_ms`"), "{said}");
    }
}

#[test]
fn an_inbox_that_holds_the_state_directory_is_refused() {
    let (check, run) = broken(|folder| replace(folder, "= \"inbox\"", "= \".\""));
    for said in [check, run] {
        assert!(said.contains("`folder.directory`"), "{said}");
        assert!(
            said.contains("`state.directory`") && said.contains("side by side"),
            "{said}"
        );
    }
}
