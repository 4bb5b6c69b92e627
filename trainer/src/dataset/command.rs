//! `trainer dataset`: make and look at lists.

use anyhow::Result;

use super::entry::Split;
use super::index::{self, Options};
use super::split::SplitRule;
use super::{Dataset, phantom, write_list};
use crate::cli::DatasetCommand;
use crate::report;

pub fn run(command: DatasetCommand) -> Result<()> {
    match command {
        DatasetCommand::Index {
            root,
            out,
            train,
            validation,
            test,
            seed,
            plane,
        } => {
            let named = !(train.is_empty() && validation.is_empty() && test.is_empty());
            let split = if named {
                SplitRule::Patients {
                    train,
                    validation,
                    test,
                }
            } else {
                SplitRule::Fractions {
                    validation: 0.15,
                    test: 0.15,
                    seed,
                }
            };
            let dataset = index::index(&root, &Options { split, plane })?;
            write_list(&dataset.entries, &out)?;
            report::say(&describe(&dataset));
        }
        DatasetCommand::Phantom {
            out,
            patients,
            frames,
            seed,
            size,
        } => {
            let options = phantom::Options {
                n_patients: patients,
                n_frames: frames,
                seed,
                size,
            };
            let dataset = phantom::create(&out, &options)?;
            write_list(&dataset.entries, &out.join("list.csv"))?;
            report::say(&describe(&dataset));
        }
        DatasetCommand::Show { list } => report::say(&describe(&Dataset::read(&list)?)),
    }
    Ok(())
}

fn describe(dataset: &Dataset) -> String {
    let mut lines = vec![format!(
        "{} images, label values {:?}, fingerprint {}",
        dataset.entries.len(),
        dataset.classes,
        dataset.fingerprint
    )];
    for split in [Split::Train, Split::Validation, Split::Test] {
        lines.push(format!(
            "{:10} {:5} images of {}",
            split.name(),
            dataset.of(split).len(),
            dataset.patients(split).join(", ")
        ));
    }
    lines.join("\n")
}
