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
fn banned_crates_are_in_the_lock_file_through_their_wrappers_only() {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let name = |package: &toml::Value| package["name"].as_str().unwrap().to_owned();
    // A dependency of which there are several versions has its own behind the name.
    let needs = |package: &toml::Value, name: &str| {
        let needed = package.get("dependencies").map(strings);
        let mut needed = needed.into_iter().flatten();
        needed.any(|needed| needed.split(' ').next() == Some(name))
    };
    let deny = deny();
    for ban in deny["bans"]["deny"].as_array().unwrap() {
        let (banned, reason) = (
            ban["crate"].as_str().unwrap(),
            ban["reason"].as_str().unwrap(),
        );
        let wrappers = ban.get("wrappers").map(strings).unwrap_or_default();
        let there = packages.iter().any(|package| name(package) == banned);
        let through = packages.iter().filter(|package| needs(package, banned));
        let through: Vec<String> = through.map(name).collect();
        let allowed = through.iter().all(|name| wrappers.contains(&&**name));
        assert!(
            !there || (allowed && !through.is_empty()),
            "{banned} is in Cargo.lock through {through:?}: {reason}; `cargo tree -i {banned}` says why"
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
