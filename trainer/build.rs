//! Tells the trainer which commit it was built from: part of what a run depends on.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=../models");
    // Moves with every commit; absent in a copy without history.
    let log = "../.git/logs/HEAD";
    if Path::new(log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let describe = ["describe", "--always", "--abbrev=12", "--dirty=-modified"];
    let commit = Command::new("git")
        .args(describe)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=SCANSIDE_COMMIT={}", commit.trim());
}
