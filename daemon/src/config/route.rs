//! `[[route]]`: which bundle an image is for. `route` applies the rules.

use std::collections::BTreeMap;

use segmenter::decode::{Attribute, KeywordError};
use serde::{Deserialize, Serialize};

use super::error::distance;
use super::models::{DEFAULT_SLOT, NO_SLOT};
use super::{Config, Problem};

/// The first rule that an image fulfils takes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Names of sources; every one unless given.
    #[serde(default)]
    pub source: Texts,
    /// DICOM keyword -> patterns, of which one has to fit one of the attribute's values.
    #[serde(default)]
    pub when: BTreeMap<String, Texts>,
    /// Name of a slot, or `none`.
    pub slot: String,
    /// Why images go to quarantine, where `slot` is `none`.
    #[serde(default)]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "use a text or a list of texts")]
pub enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Default for Texts {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Texts {
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// What rules are mostly made of, to guess from.
const COMMON: [&str; 18] = [
    "BodyPartExamined",
    "ImageLaterality",
    "ImageType",
    "Laterality",
    "Manufacturer",
    "ManufacturerModelName",
    "Modality",
    "PatientPosition",
    "ProtocolName",
    "RequestedProcedureDescription",
    "ScanningSequence",
    "SequenceName",
    "SequenceVariant",
    "SeriesDescription",
    "SOPClassUID",
    "StationName",
    "StudyDescription",
    "ViewPosition",
];

const RULES_MAX: usize = 100;

impl Config {
    pub(super) fn validate_routes(&self) -> Result<(), Problem> {
        if self.route.len() > RULES_MAX {
            let problem = format!(
                "{} rules are too many; use {RULES_MAX} or fewer",
                self.route.len()
            );
            return Err(("route", problem));
        }
        for (number, rule) in (1..).zip(&self.route) {
            self.validate_rule(number, rule)?;
            let mut earlier = (1..).zip(&self.route[..number - 1]);
            if let Some((first, _)) = earlier.find(|(_, earlier)| covers(earlier, rule)) {
                let problem = format!(
                    "rule {number} is never reached: rule {first} takes all of its images; put \
                     rule {number} above rule {first}, or remove it"
                );
                return Err(("route", problem));
            }
        }
        Ok(())
    }

    fn validate_rule(&self, number: usize, rule: &Route) -> Result<(), Problem> {
        for name in rule.source.all() {
            if !self.sources().any(|source| source == name) {
                let known: Vec<&str> = self.sources().collect();
                let problem = format!(
                    "rule {number}: no source is called `{name}`; known are {}",
                    known.join(", ")
                );
                return Err(("route.source", problem));
            }
        }
        for (keyword, patterns) in &rule.when {
            Attribute::by_keyword(keyword).map_err(|error| {
                let problem = format!("rule {number}: `{keyword}` {}", advice(keyword, error));
                ("route.when", problem)
            })?;
            let patterns = patterns.all();
            if patterns.is_empty() || patterns.iter().any(|pattern| pattern.trim().is_empty()) {
                let problem = format!(
                    "rule {number}: `{keyword}` has an empty pattern, which nothing fits; write \
                     \"*\" for any value"
                );
                return Err(("route.when", problem));
            }
        }
        let slot = &*rule.slot;
        let slots: Vec<&str> = self.slots().map(|(name, _)| name).collect();
        if slot != NO_SLOT && !slots.contains(&slot) {
            let problem = format!(
                "rule {number}: no slot is called `{slot}`; known are {} and {NO_SLOT}, and \
                 `{DEFAULT_SLOT}` is that of [model]",
                slots.join(", ")
            );
            return Err(("route.slot", problem));
        }
        match &rule.reason {
            Some(reason) if slot == NO_SLOT && !reason.trim().is_empty() => Ok(()),
            None if slot != NO_SLOT => Ok(()),
            Some(_) if slot != NO_SLOT => {
                let problem = format!(
                    "rule {number}: only rules with slot = \"{NO_SLOT}\" have a reason; remove it"
                );
                Err(("route.reason", problem))
            }
            _ => {
                let problem = format!(
                    "rule {number}: with slot = \"{NO_SLOT}\" say why in `reason`; it stands \
                     beside the image in quarantine"
                );
                Err(("route.slot", problem))
            }
        }
    }
}

fn advice(keyword: &str, error: KeywordError) -> String {
    let nearest = COMMON
        .iter()
        .map(|common| (distance(keyword, common), common))
        .min();
    match nearest {
        Some((distance, common)) if error == KeywordError::Unknown && distance <= 3 => {
            format!("is no DICOM keyword; did you mean `{common}`?")
        }
        _ => error.to_string(),
    }
}

/// `*` any characters, `?` one; case does not count.
pub(crate) fn fits(pattern: &str, value: &str) -> bool {
    let lower = |text: &str| text.trim().to_lowercase().chars().collect::<Vec<char>>();
    let (pattern, value) = (lower(pattern), lower(value));
    // The last star, and how much of the value it holds: what follows may be tried further on.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut v) = (0, 0);
    while v < value.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, v));
                p += 1;
            }
            Some(c) if *c == '?' || *c == value[v] => {
                p += 1;
                v += 1;
            }
            _ => {
                let Some((at, held)) = star else { return false };
                star = Some((at, held + 1));
                p = at + 1;
                v = held + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Does `earlier` take every image that `later` would? Not every such case is found, but what is found
/// is one.
fn covers(earlier: &Route, later: &Route) -> bool {
    let (few, many) = (earlier.source.all(), later.source.all());
    let sources =
        few.is_empty() || (!many.is_empty() && many.iter().all(|source| few.contains(source)));
    let conditions = earlier.when.iter().all(|(keyword, wide)| {
        let Some(narrow) = later.when.get(keyword) else {
            return false;
        };
        let inside = |pattern: &String| {
            wide.all().iter().any(|wide| {
                let literal = !pattern.contains(['*', '?']);
                wide.trim() == "*"
                    || wide.eq_ignore_ascii_case(pattern)
                    || (literal && fits(wide, pattern))
            })
        };
        narrow.all().iter().all(inside)
    });
    sources && conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_globs_without_case() {
        for (pattern, value, expected) in [
            ("MR", "mr", true),
            ("MR", "MRA", false),
            ("*cine*", "SAX Cine 3", true),
            ("*cine*", "SAX", false),
            ("s?x*", "SAX", true),
            ("s?x*", "SX", false),
            ("*a*ab", "aaab", true),
            ("*a*ab", "aaba", false),
            ("*", "", true),
            (" HEART ", "heart ", true),
            ("*Ä*", "schräg", true),
        ] {
            assert_eq!(fits(pattern, value), expected, "{pattern} {value}");
        }
    }
}
