//! Imports go one way, files stay short, and a function fits a screen.

use std::collections::BTreeSet;

use super::imports::Crate;
use super::source::{functions, words};
use tests::{files, read};

const CRATES: [(&str, &str); 6] = [
    ("contract", "models/contract/src"),
    ("nets", "models/nets/src"),
    ("phantom", "models/phantom/src"),
    ("segmenter", "models/segmenter/src"),
    ("trainer", "trainer/src"),
    ("daemon", "daemon/src"),
];

type Arrows = BTreeSet<(String, String)>;

fn reaches(arrows: &Arrows, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        if file == to {
            return true;
        }
        if seen.insert(file) {
            let out = arrows.range((file.to_owned(), String::new())..);
            let out = out.take_while(|(start, _)| start == file);
            open.extend(out.map(|(_, end)| end.as_str()));
        }
    }
    false
}

/// No file imports from one that imports, over however many others, from it.
///
/// A module and the modules below it are one thing in several files: what a child takes from its parents is no arrow,
/// what a parent takes from a child is one. So a parent may call its children, who share its types, and neither children
/// of one parent nor modules of different parents may need each other.
#[test]
fn imports_make_no_circle() {
    let mut findings = Vec::new();
    for (package, folder) in CRATES {
        let sources = Crate::read(package, folder);
        let mut arrows = sources.arrows();
        arrows.retain(|(from, to)| !sources.is_above(to, from));
        for (from, to) in &arrows {
            if reaches(&arrows, to, from) {
                findings.push(format!("{from} imports from {to}, which needs it"));
            }
        }
    }
    assert!(
        findings.is_empty(),
        "move what both need to a file of its own:\n{}",
        findings.join("\n")
    );
}

/// From the top. A file imports from its own room, or from rooms on floors below; two rooms on one floor do not know
/// each other.
const FLOORS: [&[&str]; 16] = [
    &["main"],
    &["cli"],
    &["demo"],
    &["lib"],
    &["pipeline"],
    &["operate"],
    &["mqtt", "seg"],
    &["intake"],
    &["models", "segment"],
    &["spool"],
    &["status"],
    &["outbox"],
    &["report"],
    &["tls"],
    &["config"],
    &["backoff", "clock", "dimse", "disk", "failure", "shutdown"],
];

#[test]
fn the_daemon_stands_on_its_floors() {
    let sources = Crate::read("daemon", "daemon/src");
    let floor = |file: &str| {
        let room = sources.room(file);
        let floor = FLOORS.iter().position(|rooms| rooms.contains(&room));
        floor.unwrap_or_else(|| panic!("{file}: FLOORS has no place for `{room}`"))
    };
    let mut findings = Vec::new();
    for (from, to) in &sources.arrows() {
        let inside = sources.room(from) == sources.room(to);
        if !inside && floor(to) <= floor(from) {
            findings.push(format!("{from} imports from {to}"));
        }
    }
    assert!(
        findings.is_empty(),
        "imports go down, floor by floor; move what both need below them:\n{}",
        findings.join("\n")
    );
}

/// Lines before a file's own test module.
fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with("mod tests {"))
        .unwrap_or(lines.len())
}

const FILE_MAX_LINES: usize = 400;
/// A file that follows one network of upstream's reads best beside it.
const NETWORK_FILE_MAX_LINES: usize = 650;

#[test]
fn files_stay_short() {
    let mut findings = Vec::new();
    for path in files("rs") {
        let n_lines = code_lines(&read(&path));
        let network = path.starts_with("models/nets/src/") || path.starts_with("trainer/src/onnx/");
        let limit = if network {
            NETWORK_FILE_MAX_LINES
        } else {
            FILE_MAX_LINES
        };
        if n_lines > limit {
            findings.push(format!(
                "{path}: {n_lines} lines, at most {limit} before `mod tests`"
            ));
        }
    }
    for path in ["daemon/src/main.rs", "trainer/src/main.rs"] {
        let n_lines = read(path).lines().count();
        if n_lines >= 100 {
            findings.push(format!(
                "{path}: {n_lines} lines; main parses, logs, runs, exits"
            ));
        }
    }
    assert!(
        findings.is_empty(),
        "split these by what they do:\n{}",
        findings.join("\n")
    );
}

const FUNCTION_MAX_LINES: usize = 70;

/// Functions that are still to be taken apart. This list only gets shorter.
const KNOWN_LONG: [(&str, &str); 6] = [
    (
        "daemon/src/config/tests.rs",
        "messages_name_line_key_and_remedy",
    ),
    (
        "daemon/src/config/tests.rs",
        "rules_that_cannot_mean_what_they_say_are_named",
    ),
    (
        "models/segmenter/src/decode/kind.rs",
        "classes_are_images_or_they_are_not",
    ),
    (
        "models/segmenter/src/decode/spacing/tests.rs",
        "the_order_of_preference_holds",
    ),
    (
        "models/segmenter/tests/all/damage.rs",
        "an_attribute_that_nobody_needs_costs_nothing",
    ),
    (
        "models/segmenter/tests/all/decode.rs",
        "hopeless_files_get_a_code",
    ),
];

#[test]
fn functions_fit_a_screen() {
    let mut findings = Vec::new();
    let mut unused = KNOWN_LONG.to_vec();
    for path in files("rs") {
        for (name, n_lines) in functions(&words(&read(&path))) {
            if n_lines <= FUNCTION_MAX_LINES {
                continue;
            }
            match unused
                .iter()
                .position(|known| known.0 == path && known.1 == name)
            {
                Some(at) => drop(unused.remove(at)),
                None => findings.push(format!(
                    "{path}: `{name}` has {n_lines} lines, at most {FUNCTION_MAX_LINES}"
                )),
            }
        }
    }
    let unused = unused.into_iter();
    findings.extend(unused.map(|(path, name)| {
        format!("{path}: `{name}` is short or gone: take it out of KNOWN_LONG")
    }));
    assert!(
        findings.is_empty(),
        "take these apart at their own seams:\n{}",
        findings.join("\n")
    );
}

#[test]
fn test_modules_do_not_count() {
    let text = "a\nb\n\n#[cfg(test)]\nmod tests {\n    c\n}\n";
    assert_eq!(code_lines(text), 3);
    let text = "a\n#[cfg(test)]\npub(crate) mod tests {\n    b\n}\n";
    assert_eq!(code_lines(text), 1);
    assert_eq!(code_lines("a\n#[cfg(test)]\nmod testing;\nb\n"), 4);
}
