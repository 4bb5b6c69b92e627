//! `deny.toml` without cargo-deny: its lists hold for `Cargo.lock` wherever the tests run.
//! Advisories need the database that only `cargo deny check` downloads.

use serde_json::Value;
use tests::{cargo, read};

fn deny() -> toml::Table {
    read("deny.toml").parse().expect("deny.toml is TOML")
}

fn strings(list: &toml::Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|item| item.as_str().expect("a list of strings"))
        .collect()
}

/// An SPDX expression without nested brackets of both kinds: every `AND` part needs one allowed `OR` part.
fn allowed(expression: &str, list: &[&str]) -> bool {
    expression.replace('/', " OR ").split(" AND ").all(|part| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')');
        part.split(" OR ")
            .any(|licence| list.contains(&licence.trim()))
    })
}

#[test]
fn licences_are_on_the_list() {
    let deny = deny();
    let list = strings(&deny["licenses"]["allow"]);
    let platform = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let metadata = cargo(
        &[
            &["metadata", "--format-version", "1", "--locked"][..],
            &platform,
        ]
        .concat(),
    );
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(
        packages.len() > 100,
        "cargo metadata lists {} packages",
        packages.len()
    );
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("no licence");
        assert!(
            allowed(licence, &list),
            "{} has the licence {licence}: look for another crate, or allow it in deny.toml with a reason",
            package["name"]
        );
    }
}

#[test]
fn banned_crates_are_not_in_the_lock_file() {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let locked: Vec<&str> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    let deny = deny();
    for ban in deny["bans"]["deny"].as_array().unwrap() {
        let (name, reason) = (
            ban["crate"].as_str().unwrap(),
            ban["reason"].as_str().unwrap(),
        );
        assert!(
            !locked.contains(&name),
            "{name} is in Cargo.lock: {reason}; `cargo tree -i {name}` says through what"
        );
    }
}

#[test]
fn expressions_are_understood() {
    let list = ["MIT", "Unicode-3.0"];
    assert!(allowed("Apache-2.0/MIT", &list));
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0", &list));
    assert!(!allowed("(MIT OR Apache-2.0) AND IJG", &list));
    assert!(!allowed("GPL-3.0-only", &list));
}
