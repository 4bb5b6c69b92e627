//! The unit that ships: its command line exists, and systemd finds it well locked up.

use std::process::Command;

use clap::Parser;
use tests::{read, root};

const UNIT: &str = "packaging/scansided.service";
/// Of `systemd-analyze security`, in tenths: 1.5 of 10.
const EXPOSURE_MAX: &str = "--threshold=15";

#[test]
fn the_unit_starts_what_the_program_understands() {
    let unit = read(UNIT);
    let commands: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart="))
        .collect();
    assert_eq!(commands.len(), 1, "{commands:?}");
    daemon::cli::Cli::try_parse_from(commands[0].split_whitespace()).unwrap();
    // tests/faults/harness/daemon.rs starts it so.
    assert!(unit.contains("\nEnvironment=MALLOC_ARENA_MAX=1\n"));
    assert!(unit.contains("\nExecReload=/bin/kill -HUP $MAINPID\n"));
    assert!(unit.contains("\nType=notify\n") && unit.contains("\nWatchdogSec="));
}

#[test]
fn systemd_finds_little_exposed() {
    let run = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", EXPOSURE_MAX])
        .arg(root().join(UNIT))
        .output();
    match run {
        Ok(run) => assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stdout)
        ),
        Err(error) => {
            assert!(
                std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
                "systemd-analyze is required: {error}"
            );
            eprintln!("SKIPPED: no systemd-analyze ({error}), so the unit is NOT judged");
        }
    }
}
