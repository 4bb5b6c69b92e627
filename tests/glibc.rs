//! Which C library a program needs: `docs/install.md` says it, and this keeps it.

use std::process::Command;

use crate::read;

/// RHEL, Rocky and Alma 9 have it, Debian 12 and Ubuntu 22.04 later ones.
const GLIBC: (u32, u32) = (2, 34);

/// Headers of glibc 2.38 and later have C call `strtol` and its like by these names, so a program that is built beside
/// them needs as much.
const RENAMED: &str = "__isoc23_";

/// Asserts that this program starts with the glibc that `docs/install.md` names.
pub fn assert_starts(program: &str) {
    let listed = Command::new("readelf")
        .args(["--dyn-syms", "--wide", program])
        .output()
        .expect("readelf is where the linker is");
    let listed = String::from_utf8_lossy(&listed.stdout);
    let imported: Vec<(&str, (u32, u32))> = listed.lines().filter_map(import).collect();
    assert!(
        imported
            .iter()
            .any(|(name, _)| *name == "__libc_start_main"),
        "readelf lists no import that every program has:\n{listed}"
    );
    let later: Vec<_> = imported
        .iter()
        .filter(|(name, version)| *version > GLIBC && !name.starts_with(RENAMED))
        .collect();
    assert!(
        later.is_empty(),
        "{program} needs a glibc after {GLIBC:?} for {later:?}: do without, or change docs/install.md"
    );
    let promise = format!("glibc {}.{}", GLIBC.0, GLIBC.1);
    assert!(
        read("docs/install.md").contains(&promise),
        "docs/install.md names no {promise}"
    );
}

/// Name and version out of `12: 0000000000000000 0 FUNC GLOBAL DEFAULT UND hypot@GLIBC_2.35 (5)`.
pub fn import(line: &str) -> Option<(&str, (u32, u32))> {
    let symbol = line
        .split_whitespace()
        .find(|word| word.contains("@GLIBC_"))?;
    let (name, version) = symbol.split_once("@GLIBC_")?;
    let (major, rest) = version.split_once('.')?;
    let minor = rest.split('.').next()?;
    Some((name, (major.parse().ok()?, minor.parse().ok()?)))
}
