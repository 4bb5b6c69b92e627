//! Folders that must not lie in each other: what lies in an inbox is taken for an image and moved.

use std::path::{Component, Path, PathBuf};

use super::{Config, Problem};

/// The first inbox that shares a folder with the state directory, the bundle or another inbox.
pub(super) fn find(config: &Config) -> Result<(), Problem> {
    const INBOX: &str = "folder.directory";
    let mut others = vec![
        ("state.directory", String::new(), &config.state.directory),
        ("model.bundle", String::new(), &config.model.bundle),
    ];
    for slot in &config.slot {
        let whose = format!(" of slot `{}`", slot.name);
        others.push(("slot.bundle", whose, &slot.bundle));
    }
    let directory = config.seg.iter().filter_map(|seg| seg.directory.as_ref());
    others.extend(directory.map(|path| ("seg.directory", String::new(), path)));
    for folder in &config.folder {
        for (key, whose, path) in &others {
            if overlap(&folder.directory, path) {
                let problem = format!(
                    "{} of folder `{}` and `{key}` {}{whose} lie in each other; give each a folder \
                     of its own, side by side",
                    folder.directory.display(),
                    folder.name,
                    path.display(),
                );
                return Err((INBOX, problem));
            }
        }
        let whose = format!(" of folder `{}`", folder.name);
        others.push((INBOX, whose, &folder.directory));
    }
    Ok(())
}

fn overlap(a: &Path, b: &Path) -> bool {
    let (a, b) = (real(a), real(b));
    a.starts_with(&b) || b.starts_with(&a)
}

/// Without links and dots, as far as the path exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let existing = path.ancestors().find_map(|ancestor| {
        let rest = path.strip_prefix(ancestor).ok()?;
        Some((ancestor.canonicalize().ok()?, rest))
    });
    let (mut real, rest) = existing.unwrap_or((PathBuf::new(), &path));
    for component in rest.components() {
        match component {
            Component::ParentDir => {
                real.pop();
            }
            Component::CurDir => {}
            name => real.push(name),
        }
    }
    real
}
