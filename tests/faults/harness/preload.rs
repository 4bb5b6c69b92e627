//! Builds `preload.c`, which makes disk and clock of the daemon fail from within its process.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the library into `folder`. Without a compiler the test is skipped with a message, or fails where one is
/// required.
pub(crate) fn build(folder: &Path) -> Option<PathBuf> {
    let library = folder.join("preload.so");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/faults/harness/preload.c"
    );
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
