//! Rules about the repository as a whole. `faults` (daemon and broker) and `reference` (networks)
//! belong to their crates, which know where their binary and features are.

mod documents;
mod licences;
mod packaging;
mod tidy;

use tests::glibc::import;

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
