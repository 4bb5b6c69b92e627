//! Configuration errors in words: file, line, key, and the key that was probably meant.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}:{line}: unknown key `{key}`{}", path.display(), suggestion(nearest.as_deref(), known))]
    UnknownKey {
        path: PathBuf,
        line: usize,
        key: String,
        nearest: Option<String>,
        known: Vec<String>,
    },
    #[error("{}:{line}: {}{problem}", path.display(), named(key))]
    Value {
        path: PathBuf,
        line: usize,
        key: String,
        problem: String,
    },
}

fn suggestion(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; known here: {}", known.join(", ")),
    }
}

fn named(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!("`{key}`: ")
    }
}

/// What the TOML parser found, with the place named by section and key.
pub(super) fn explain(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let line = 1 + text[..offset].matches('\n').count();
    let message = error.message();
    let (section, key) = place(text, line);
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut words = rest.split('`').skip(1).step_by(2).map(str::to_owned);
        let unknown = words.next().unwrap_or_default();
        let known: Vec<String> = words.collect();
        let nearest = known
            .iter()
            .map(|candidate| (distance(&unknown, candidate), candidate))
            .min()
            .filter(|(distance, candidate)| *distance <= 2 + candidate.len() / 3)
            .map(|(_, candidate)| candidate.clone());
        let key = join(&section, &unknown);
        return ConfigError::UnknownKey {
            path: path.to_owned(),
            line,
            key,
            nearest,
            known,
        };
    }
    // A missing key is reported at its section; the parser's words name the key itself.
    let key = if message.starts_with("missing field") {
        section
    } else {
        join(&section, &key)
    };
    let problem = message
        .replace("missing field", "missing key")
        .replace('\n', "; ");
    ConfigError::Value {
        path: path.to_owned(),
        line,
        key,
        problem,
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

fn join(section: &str, key: &str) -> String {
    match (section, key) {
        ("", key) => key.to_owned(),
        (section, "") => section.to_owned(),
        (section, key) => format!("{section}.{key}"),
    }
}

/// Line of `section.key`, or of the section, or 1.
pub(super) fn line_of(text: &str, dotted: &str) -> usize {
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
