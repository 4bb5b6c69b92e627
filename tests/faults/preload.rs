//! `preload.c`: faults of disk and clock within the daemon.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiled into `folder`; `None`, loudly, where there is no compiler.
pub(crate) fn library(folder: &Path) -> Option<PathBuf> {
    let library = folder.join("preload.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/faults/preload.c");
    let mut command = Command::new("gcc");
    command
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library);
    match command.args([source, "-ldl"]).status() {
        Ok(status) => {
            assert!(status.success());
            Some(library)
        }
        Err(error) => {
            assert!(
                std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
                "gcc is required: {error}"
            );
            eprintln!("SKIPPED: no gcc ({error}); faults of disk and clock are NOT tested");
            None
        }
    }
}
