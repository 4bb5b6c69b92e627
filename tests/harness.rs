//! What the tests of this repository share: where the workspace is and what lies in it, which C library a program needs,
//! and a bundle.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

pub mod glibc;
pub mod sample_bundle;

/// Build outputs, runs and downloads.
const NOT_OURS: [&str; 3] = ["target", "runs", "data"];

/// Folder of the workspace.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package lies in the workspace")
        .to_path_buf()
}

/// Text of a file of the workspace.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files and folders of the workspace, relative to it, with `/`; hidden ones left out.
pub fn paths() -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("a folder can be listed").path();
            let name = path
                .file_name()
                .and_then(OsStr::to_str)
                .expect("names are UTF-8");
            if name.starts_with('.') || (folder == root && NOT_OURS.contains(&name)) {
                continue;
            }
            let relative = path
                .strip_prefix(&root)
                .expect("the walk starts at the root");
            found.push(relative.to_str().expect("names are UTF-8").to_owned());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Files of the workspace with this extension.
pub fn files(extension: &str) -> Vec<String> {
    let fits = |path: &String| {
        Path::new(path)
            .extension()
            .is_some_and(|found| found == extension)
    };
    paths().into_iter().filter(fits).collect()
}

/// What `cargo ARGS` prints.
pub fn cargo(args: &[&str]) -> String {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(args)
        .output()
        .expect("cargo runs the tests");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo {}: {complaint}",
        args.join(" ")
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Names of the crates that a package links, not those that build or test it.
pub fn linked_crates(package: &str, flags: &[&str]) -> BTreeSet<String> {
    let mut args = vec![
        "tree", "--locked", "-e", "normal", "--prefix", "none", "-p", package,
    ];
    args.extend(flags);
    let tree = cargo(&args);
    tree.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}
