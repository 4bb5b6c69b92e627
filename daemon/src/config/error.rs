//! Configuration errors in words: file, line, key, and the key that was probably meant.

use std::fmt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// All that is wrong, in the order of the file.
    #[error("{}", joined(.0))]
    Faults(Vec<Fault>),
}

/// One place of the file, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub path: PathBuf,
    pub line: usize,
    pub words: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.words)
    }
}

fn joined(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// A key and what is wrong with its value.
pub(super) type Problem = (&'static str, String);

pub(super) fn located(path: &Path, text: &str, (key, problem): Problem) -> Fault {
    Fault {
        path: path.to_owned(),
        line: line_of(text, key),
        words: format!("`{key}`: {problem}"),
    }
}

/// Section and key at a line.
fn place(text: &str, line: usize) -> (String, String) {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let header = |line: &&&str| line.trim_start().starts_with('[');
    let section = lines.iter().rev().find(header).map_or("", |line| {
        line.split(']')
            .next()
            .unwrap_or("")
            .trim()
            .trim_start_matches('[')
    });
    let key = lines
        .last()
        .and_then(|line| line.split_once('='))
        .map_or("", |(key, _)| key.trim());
    (section.to_owned(), key.to_owned())
}

pub(super) fn join(section: &str, key: &str) -> String {
    match (section, key) {
        ("", key) => key.to_owned(),
        (section, "") => section.to_owned(),
        (section, key) => format!("{section}.{key}"),
    }
}

/// Line of `section.key`, or of the section, or 1.
fn line_of(text: &str, dotted: &str) -> usize {
    let numbers = 1..=text.lines().count();
    let found = |wanted: &str| {
        numbers.clone().find(|&line| {
            let (section, key) = place(text, line);
            let bare = text.lines().nth(line - 1).unwrap_or("").trim_start();
            !bare.starts_with('#') && join(&section, &key) == wanted
        })
    };
    found(dotted)
        .or_else(|| {
            dotted
                .split_once('.')
                .and_then(|(section, _)| found(section))
        })
        .unwrap_or(1)
}

/// The candidate that `word` was probably meant to be: one that begins like it, or one few letters away.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    const BEGINNING_MIN_CHARS: usize = 3;
    let score = |candidate: &str| {
        let shorter = word.len().min(candidate.len());
        let begins = candidate.starts_with(word) || word.starts_with(candidate);
        let distance = distance(word, candidate);
        if begins && shorter >= BEGINNING_MIN_CHARS {
            Some(1)
        } else {
            (distance <= 2 + candidate.len() / 3).then_some(distance)
        }
    };
    let scored = candidates
        .into_iter()
        .filter_map(|candidate| Some((score(candidate)?, candidate)));
    scored.min().map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
