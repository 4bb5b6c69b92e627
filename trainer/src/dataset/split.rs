//! The split by patient: named lists or seeded fractions.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::entry::Split;

/// Who goes where.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitRule {
    /// Patient ids, or endings of ids that fit one patient only (`101` for `SCD0000101`).
    /// An empty `train` takes everyone who is not named; otherwise those are left out.
    Patients {
        train: Vec<String>,
        validation: Vec<String>,
        test: Vec<String>,
    },
    /// Fractions of the patients, drawn with `seed`; the rest is for training.
    Fractions {
        validation: f64,
        test: f64,
        seed: u64,
    },
}

impl SplitRule {
    /// `patients` sorted, without duplicates.
    pub(super) fn assign(&self, patients: &[String]) -> Result<BTreeMap<String, Split>> {
        match self {
            Self::Patients {
                train,
                validation,
                test,
            } => by_name(patients, [train, validation, test]),
            &Self::Fractions {
                validation,
                test,
                seed,
            } => by_fraction(patients, [validation, test], seed),
        }
    }
}

fn by_name(patients: &[String], lists: [&Vec<String>; 3]) -> Result<BTreeMap<String, Split>> {
    let mut splits = BTreeMap::new();
    for (names, split) in lists
        .iter()
        .zip([Split::Train, Split::Validation, Split::Test])
    {
        for name in *names {
            let patient = find(patients, name)?;
            if let Some(other) = splits.insert(patient.clone(), split)
                && other != split
            {
                bail!(
                    "patient {patient} is in two splits, {} and {}: name it once",
                    other.name(),
                    split.name()
                );
            }
        }
    }
    for patient in patients {
        if lists[0].is_empty() {
            splits.entry(patient.clone()).or_insert(Split::Train);
        } else if !splits.contains_key(patient) {
            tracing::warn!(patient, "patient is in no split and left out");
        }
    }
    Ok(splits)
}

fn find<'a>(patients: &'a [String], name: &str) -> Result<&'a String> {
    if let Some(exact) = patients.iter().find(|patient| *patient == name) {
        return Ok(exact);
    }
    let fitting: Vec<&String> = patients.iter().filter(|id| id.ends_with(name)).collect();
    match fitting.as_slice() {
        [only] => Ok(only),
        [] => bail!(
            "no patient {name:?}: the folder has {}",
            patients.join(", ")
        ),
        several => bail!("{name:?} fits the patients {several:?}: write the whole id"),
    }
}

fn by_fraction(
    patients: &[String],
    [validation, test]: [f64; 2],
    seed: u64,
) -> Result<BTreeMap<String, Split>> {
    ensure!(
        validation >= 0.0 && test >= 0.0 && validation + test < 1.0,
        "fractions are {validation} for validation and {test} for test: \
         together they must leave something to train on"
    );
    let n = patients.len();
    // A fraction that was asked for gets a patient, however few there are.
    let count = |fraction: f64| match fraction {
        0.0 => 0,
        _ => ((n as f64 * fraction).round() as usize).max(1),
    };
    let (n_validation, n_test) = (count(validation), count(test));
    ensure!(
        n_validation + n_test < n,
        "{n} patients are too few for this split"
    );
    let mut drawn: Vec<&String> = patients.iter().collect();
    drawn.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let split_at = |i: usize| match i {
        i if i < n_test => Split::Test,
        i if i < n_test + n_validation => Split::Validation,
        _ => Split::Train,
    };
    Ok(drawn
        .into_iter()
        .enumerate()
        .map(|(i, id)| (id.clone(), split_at(i)))
        .collect())
}
