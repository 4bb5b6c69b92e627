//! Which bundle an image is for: the rules of `[[route]]` in their order, the first that fits takes it,
//! and what no rule takes is for `[model]`.
//!
//! A pattern is a text in which `*` stands for any characters and `?` for one; upper and lower case are
//! the same, and spaces around a value do not count. A condition holds when one of its patterns fits one
//! of the attribute's values; an absent attribute, or a file that is no DICOM, fits none.

use segmenter::decode::{Attribute, DecodeError, Limits, values};

use crate::config::{Config, NO_SLOT, Route, fits};

/// The rules, ready to ask.
#[derive(Debug, Clone)]
pub struct Router {
    rules: Vec<Rule>,
    /// All that a rule asks for, each once.
    attributes: Vec<Attribute>,
}

#[derive(Debug, Clone)]
struct Rule {
    sources: Vec<String>,
    /// Index into `attributes`, and the patterns.
    conditions: Vec<(usize, Vec<String>)>,
    target: Target,
}

/// Where a rule sends its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Number of the slot, in the order of `Config::slots`.
    Slot(usize),
    /// To quarantine, with these words.
    Nowhere(String),
}

/// What became of an image, and which rule did it; none for what all left over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub rule: Option<usize>,
    pub target: Target,
}

/// One rule's part in it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub matched: bool,
    pub target: Target,
    pub because: Vec<String>,
}

impl Router {
    pub fn new(config: &Config) -> Self {
        let mut attributes = Vec::new();
        let mut index_of = |keyword: &String| {
            let attribute = Attribute::by_keyword(keyword).ok()?;
            let known = attributes.iter().position(|known| *known == attribute);
            Some(known.unwrap_or_else(|| {
                attributes.push(attribute);
                attributes.len() - 1
            }))
        };
        let mut rule = |route: &Route| {
            let conditions = route.when.iter().map(|(keyword, patterns)| {
                let index = index_of(keyword).expect("the configuration was validated");
                (index, patterns.all().to_vec())
            });
            let slot = config.slots().position(|(name, _)| name == route.slot);
            Rule {
                sources: route.source.all().to_vec(),
                conditions: conditions.collect(),
                target: match (slot, &route.reason) {
                    (Some(slot), _) => Target::Slot(slot),
                    (None, reason) => Target::Nowhere(reason.clone().unwrap_or_default()),
                },
            }
        };
        let rules = config.route.iter().map(&mut rule).collect();
        Self { rules, attributes }
    }

    /// Reads what the rules ask for and applies them.
    pub fn choose(
        &self,
        bytes: &[u8],
        source: &str,
        limits: &Limits,
    ) -> Result<Choice, DecodeError> {
        let found = self.read(bytes, limits)?;
        let source = Some(source);
        let taken = self.rules.iter().position(|rule| {
            rule.is_for(source)
                && rule
                    .conditions
                    .iter()
                    .all(|condition| holds(condition, &found))
        });
        Ok(Choice {
            rule: taken.map(|index| index + 1),
            target: taken.map_or(Target::Slot(0), |index| self.rules[index].target.clone()),
        })
    }

    /// What each rule says to an image, with the attribute's values.
    pub fn explain(
        &self,
        bytes: &[u8],
        source: Option<&str>,
        limits: &Limits,
    ) -> Result<Vec<Step>, DecodeError> {
        let found = self.read(bytes, limits)?;
        let explain = |rule: &Rule| self.step(rule, source, &found);
        Ok(self.rules.iter().map(explain).collect())
    }

    fn step(&self, rule: &Rule, source: Option<&str>, found: &Values) -> Step {
        let mut matched = rule.is_for(source);
        let mut because = Vec::new();
        if !rule.sources.is_empty() {
            let wanted = rule.sources.join(" or ");
            because.push(match source {
                Some(source) if matched => format!("the source is {source}"),
                Some(source) => format!("the source is {source}, not {wanted}"),
                None => format!("it is for images from {wanted}, and no --source was named"),
            });
        }
        for condition in &rule.conditions {
            let (index, patterns) = condition;
            let keyword = self.attributes[*index].keyword();
            let wanted: Vec<String> = patterns.iter().map(|p| format!("{p:?}")).collect();
            let wanted = wanted.join(" or ");
            let holds = holds(condition, found);
            matched &= holds;
            let values = found.as_ref().map(|found| &found[*index]);
            because.push(match values {
                None => format!("{keyword} has to be {wanted}, and this is no DICOM file"),
                Some(values) if values.is_empty() => {
                    format!("{keyword} is absent, it has to be {wanted}")
                }
                Some(values) => {
                    let values = values.join("\\");
                    let verdict = if holds {
                        "which fits"
                    } else {
                        "which does not fit"
                    };
                    format!("{keyword} is {values:?}, {verdict} {wanted}")
                }
            });
        }
        if because.is_empty() {
            because.push("it takes every image".to_owned());
        }
        Step {
            matched,
            target: rule.target.clone(),
            because,
        }
    }

    fn read(&self, bytes: &[u8], limits: &Limits) -> Result<Values, DecodeError> {
        if self.attributes.is_empty() {
            return Ok(Some(Vec::new()));
        }
        values(bytes, limits, &self.attributes)
    }
}

/// Values of each attribute; none for a file that is no DICOM.
type Values = Option<Vec<Vec<String>>>;

impl Rule {
    fn is_for(&self, source: Option<&str>) -> bool {
        let named = |source| self.sources.iter().any(|name| name == source);
        self.sources.is_empty() || source.is_some_and(named)
    }
}

fn holds((index, patterns): &(usize, Vec<String>), found: &Values) -> bool {
    let values = found.as_ref().map_or(&[][..], |found| &found[*index]);
    values
        .iter()
        .any(|value| patterns.iter().any(|pattern| fits(pattern, value)))
}

/// Names a slot by its number, for people.
pub fn target_name(config: &Config, target: &Target) -> String {
    match target {
        Target::Slot(index) => config
            .slots()
            .nth(*index)
            .map_or(String::new(), |(name, _)| name.to_owned()),
        Target::Nowhere(_) => NO_SLOT.to_owned(),
    }
}
