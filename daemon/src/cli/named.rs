//! The files that `scansided segment` was given: those that were named, and all below a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::CliError;

/// Files of a folder are sorted, so that two runs print the same lines. Hidden ones are left out: file managers
/// make them.
pub(super) fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        below(path, &mut files)?;
        if files.len() == before {
            return Err(CliError::EmptyFolder { path: path.clone() });
        }
    }
    Ok(files)
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|child| Ok(child?.path()))
            .collect()
    };
    let mut children = read().map_err(|source| CliError::Read {
        path: folder.to_owned(),
        source,
    })?;
    children.sort();
    for path in children {
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_file() {
            files.push(path);
        } else if path.is_dir() && !path.is_symlink() {
            // A link could lead back up.
            below(&path, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_all_files_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["b/2.25.9.1", "b/2.25.9", "a.dcm", ".DS_Store", "b/._a.dcm"] {
            fs::create_dir_all(root.join("b")).unwrap();
            fs::write(root.join(name), "").unwrap();
        }
        let alone = root.join("missing.dcm");
        let found = files(&[alone.clone(), root.to_owned()]).unwrap();
        let wanted = ["a.dcm", "b/2.25.9", "b/2.25.9.1"].map(|name| root.join(name));
        assert_eq!(found, [&[alone][..], &wanted].concat());
        let empty = tempfile::tempdir().unwrap();
        let error = files(&[empty.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no file"), "{error}");
    }
}
