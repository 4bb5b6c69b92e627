//! Which C library a program needs: `docs/install.md` says it, and this keeps it. Part of the daemon's tests and of the trainer's,
//! each with its own program.

use std::process::Command;

/// RHEL, Rocky and Alma 9 have it, Debian 12 and Ubuntu 22.04 later ones.
const GLIBC: (u32, u32) = (2, 34);

/// Headers of glibc 2.38 and later have C call `strtol` and its like by these names, so a program that is built beside
/// them needs as much.
const RENAMED: &str = "__isoc23_";

#[test]
fn the_program_starts_with_the_glibc_that_is_promised() {
    let built = option_env!("CARGO_BIN_EXE_scansided").or(option_env!("CARGO_BIN_EXE_trainer"));
    let program = built.expect("a test of a package with a program");
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
    let page = include_str!("../docs/install.md");
    let promise = format!("glibc {}.{}", GLIBC.0, GLIBC.1);
    assert!(
        page.contains(&promise),
        "docs/install.md names no {promise}"
    );
}

/// Name and version out of `12: 0000000000000000 0 FUNC GLOBAL DEFAULT UND hypot@GLIBC_2.35 (5)`.
fn import(line: &str) -> Option<(&str, (u32, u32))> {
    let symbol = line
        .split_whitespace()
        .find(|word| word.contains("@GLIBC_"))?;
    let (name, version) = symbol.split_once("@GLIBC_")?;
    let (major, rest) = version.split_once('.')?;
    let minor = rest.split('.').next()?;
    Some((name, (major.parse().ok()?, minor.parse().ok()?)))
}

#[test]
fn imports_are_told_from_their_lines() {
    let line = "    12: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND hypot@GLIBC_2.35 (5)";
    assert_eq!(import(line), Some(("hypot", (2, 35))));
    assert_eq!(
        import(&line.replace("2.35", "2.2.5")),
        Some(("hypot", (2, 2)))
    );
    assert_eq!(import(&line.replace("@GLIBC_2.35 (5)", "")), None);
}
