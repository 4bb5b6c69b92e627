//! Text to [`Config`]. The parser stops at the first key that it does not like; here that key is taken out
//! and the rest is read again, so that all wrong keys are named at once.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::Config;
use super::error::{Fault, join, nearest};

/// More than a person corrects at a time.
const FAULTS_MAX: usize = 50;

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, Vec<Fault>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let fault = |span: Option<Range<usize>>, words: String| Fault {
        path: path.to_owned(),
        line: line_at(text, span.map_or(0, |span| span.start)),
        words,
    };
    if !errors.is_empty() {
        let words = |error: &Error| error.message().replace('\n', "; ");
        let faults = errors.iter().take(FAULTS_MAX);
        return Err(faults.map(|e| fault(e.span(), words(e))).collect());
    }
    let mut table = table;
    let mut faults = Vec::new();
    let mut removed = HashSet::new();
    while faults.len() < FAULTS_MAX {
        let error = match Config::deserialize(Deserializer::from(table.clone())) {
            Ok(config) if faults.is_empty() => return Ok(config),
            Ok(_) => break,
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        let place = remove(table.get_mut(), &span).unwrap_or_default();
        let missing = quoted(error.message(), "missing field ");
        let known_already = missing.is_some_and(|key| removed.contains(&join(&place, key)));
        if !known_already {
            let words = words(&error, &place, text.get(span.clone()).unwrap_or_default());
            faults.push(fault(Some(span), words));
        }
        // What is said of the file as a whole ends the search.
        if place.is_empty() {
            break;
        }
        removed.insert(place);
    }
    faults.sort_by_key(|fault| fault.line);
    Err(faults)
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}

/// Takes out the key or the value at `span`, and says where it stood: `section.key`.
fn remove(table: &mut DeTable, span: &Range<usize>) -> Option<String> {
    let here = table
        .iter()
        .find(|(key, value)| key.span() == *span || value.span() == *span)
        .map(|(key, _)| key.clone());
    if let Some(key) = here {
        table.remove(&key);
        return Some(key.get_ref().to_string());
    }
    let key_of = |key: &str, below: String| join(key, &below);
    for (key, value) in table.iter_mut() {
        let below = match value.get_mut() {
            DeValue::Table(table) => remove(table, span),
            DeValue::Array(items) => {
                if items.iter().any(|item| item.span() == *span) {
                    let rest = items.iter().filter(|item| item.span() != *span);
                    *items = rest.cloned().collect();
                    Some(String::new())
                } else {
                    let mut tables = items.iter_mut().filter_map(|item| match item.get_mut() {
                        DeValue::Table(table) => Some(table),
                        _ => None,
                    });
                    tables.find_map(|table| remove(table, span))
                }
            }
            _ => None,
        };
        if let Some(below) = below {
            return Some(key_of(key.get_ref(), below));
        }
    }
    None
}

/// What the parser found, in words. `place` is the key or section, `found` the text that stands there.
fn words(error: &Error, place: &str, found: &str) -> String {
    let message = error.message();
    if let Some(unknown) = quoted(message, "unknown field ") {
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        return match nearest(unknown, known.iter().copied()) {
            Some(nearest) => format!("unknown key `{place}`; did you mean `{nearest}`?"),
            None => format!("unknown key `{place}`; known here: {}", known.join(", ")),
        };
    }
    let words = brackets(message, place, found)
        .or_else(|| quotes(message, found))
        .unwrap_or_else(|| message.replace("missing field", "missing key"));
    let words = words.replace('\n', "; ");
    if place.is_empty() {
        words
    } else {
        format!("`{place}`: {words}")
    }
}

/// What stands in backquotes behind `start`.
fn quoted<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.split('`').nth(1)
}

/// `[dicom]` for `[[dicom]]`, and the other way round.
fn brackets(message: &str, place: &str, found: &str) -> Option<String> {
    if found.starts_with("[[") && message.starts_with("invalid") {
        return Some(format!(
            "there is only one; write [{place}] with one bracket on each side"
        ));
    }
    let single = found.starts_with('[') && message.ends_with("expected a sequence");
    single
        .then(|| format!("there may be several; write [[{place}]] with two brackets on each side"))
}

/// A number or `true` in quotes, or a text without them.
fn quotes(message: &str, found: &str) -> Option<String> {
    let (_, expected) = message
        .strip_prefix("invalid type: ")?
        .rsplit_once("expected ")?;
    let inner = found.trim_matches(['"', '\'']);
    let is_text = inner.len() < found.len();
    let is_number = inner.replace('_', "").parse::<f64>().is_ok();
    match expected {
        "a string" | "path string" if !is_text && !found.starts_with(['[', '{']) => {
            Some(format!("a text stands in quotes; write \"{found}\""))
        }
        "a boolean" if is_text => Some("write true or false, without quotes".to_owned()),
        "a boolean" => Some("write true or false".to_owned()),
        "a sequence" => Some("write a list, in brackets".to_owned()),
        _ if is_text && is_number => Some(format!("write the number without quotes: {inner}")),
        _ if is_text => Some("write a number, without quotes".to_owned()),
        _ => None,
    }
}
