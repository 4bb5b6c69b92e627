//! The permissions of the state directory, whatever created the files in it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::daemon::Daemon;
use crate::harness::dcmtk;
use crate::harness::http;
use crate::harness::images;
use crate::harness::process::{Process, free_port, wait_for};
use crate::harness::scripted_broker;

/// The command with another umask.
fn with_umask(umask: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// Collects everything below `path` with more rights than 0600 for files and 0750 for folders.
fn find_open(path: &Path, found: &mut Vec<(PathBuf, u32)>) {
    // It may have been removed since it was listed.
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    let allowed = if metadata.is_dir() { 0o750 } else { 0o600 };
    if metadata.mode() & 0o777 & !allowed != 0 {
        found.push((path.to_owned(), metadata.mode()));
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            find_open(&entry.unwrap().path(), found);
        }
    }
}

/// A daemon whose processes all have one umask.
struct DaemonWithUmask<'a> {
    umask: &'a str,
    daemon: Daemon,
    http_port: u16,
    dicom_port: u16,
}

impl<'a> DaemonWithUmask<'a> {
    fn new(umask: &'a str) -> Self {
        let broker = scripted_broker::start_accepting();
        let (http_port, dicom_port, pacs_port) = (free_port(), free_port(), free_port());
        let sections = format!(
            "{}{}[seg]\nquiet_s = 1\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {pacs_port}\n\
             called_ae_title = \"PACS\"\n[models]\nallow_unsigned = true\n",
            http::config_section(http_port),
            dcmtk::config_section(dicom_port)
        );
        let daemon = Daemon::new(broker, &sections);
        daemon.replace_in_config(
            "min_free_bytes = 0",
            "min_free_bytes = 0\nkeep_inputs_days = 1",
        );
        Self {
            umask,
            daemon,
            http_port,
            dicom_port,
        }
    }

    fn state(&self) -> PathBuf {
        self.daemon.path().join("state")
    }

    fn start(&self, log: impl Into<Stdio>) -> Process {
        let mut run = with_umask(self.umask, &self.daemon.command(&["run"]));
        Process(run.stderr(log).spawn().unwrap())
    }

    /// Runs a command and asserts its exit code and that it left nothing open.
    fn cli(&self, arguments: &[&str], code: i32) {
        let mut command = with_umask(self.umask, &self.daemon.command(arguments));
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {words}");
        let mut found = Vec::new();
        find_open(&self.state(), &mut found);
        let umask = self.umask;
        assert!(found.is_empty(), "{arguments:?} under {umask}: {found:?}");
    }

    /// Images come from every source, one ends in quarantine, and a segmentation waits for the PACS.
    fn fill(&self) {
        let folder = tempfile::tempdir().unwrap();
        for file in &dcmtk::write_series(folder.path(), 3) {
            fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
            self.daemon.drop_file(file);
        }
        let patients = dcmtk::write_patients(folder.path(), 1);
        assert!(dcmtk::storescu(self.dicom_port, &patients, &[]));
        assert_eq!(http::post(self.http_port, &images::png(1)).unwrap().0, 202);
        self.daemon.drop_garbage(1);
        self.daemon.wait_for_log("segmentations cannot be sent");
        self.daemon.wait_until_published();
        wait_for("the quarantine", || {
            self.daemon.n_log_lines(&["image quarantined"]) == 1
        });
    }

    /// A daemon that finds a state directory with open permissions closes it and logs that.
    fn close_what_an_earlier_version_left_open(&self) {
        let mut chmod = Command::new("chmod");
        chmod.args(["-R", "a+rwX"]).arg(self.state());
        assert!(chmod.status().unwrap().success());
        let mut process = self.start(Stdio::piped());
        wait_for("an answer", || {
            http::get(self.http_port, "/healthz").is_ok()
        });
        self.cli(&["ledger", "show"], 0);
        process.signal("-TERM");
        let mut log = String::new();
        let mut output = process.0.stderr.take().unwrap();
        output.read_to_string(&mut log).unwrap();
        let n_warnings = log.matches("they are 0600 and 0750 now").count();
        assert_eq!(n_warnings, 1, "{log}");
    }
}

#[test]
fn nobody_else_reads_the_state_directory_whatever_the_umask() {
    if !dcmtk::is_installed() {
        return;
    }
    for umask in ["000", "022"] {
        let server = DaemonWithUmask::new(umask);
        // Commands run before there is a daemon, beside one and after one. The PACS is away, which `check` reports.
        server.cli(&["check"], 1);
        let bundle = server.daemon.path().join("bundle");
        let bundle = bundle.to_str().unwrap();
        server.cli(&["models", "install", "--unsigned", bundle], 0);
        let log = fs::File::create(server.daemon.path().join("daemon.log")).unwrap();
        let mut process = server.start(log);
        server.daemon.wait_for_log("ready");
        server.fill();
        server.cli(&["models", "list"], 0);
        server.cli(&["ledger", "verify"], 0);
        process.signal("-TERM");
        assert!(process.0.wait().unwrap().success());
        server.cli(&["quarantine", "retry", "--all"], 0);
        for name in [
            "kept",
            "accepted",
            "segmentations",
            "models",
            "identifiers.key",
        ] {
            assert!(server.state().join(name).exists(), "{name}");
        }
        server.close_what_an_earlier_version_left_open();
    }
}
