//! `scansided route FILE`: which rule takes an image, and why. Prints values of the file's attributes, for
//! who may see the file.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use segmenter::decode::Limits;

use super::CliError;
use crate::config::{Config, DEFAULT_SLOT};
use crate::segment::route::{Router, Target, target_name};

#[derive(Debug, Clone, clap::Args)]
pub struct RouteArgs {
    #[arg(long)]
    pub config: PathBuf,
    /// The source that it would come from.
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    pub file: PathBuf,
}

/// Prints a line for each rule, its reasons below it, and where the image goes.
pub fn route(args: &RouteArgs, out: &mut impl Write) -> Result<bool, CliError> {
    let config = Config::read(&args.config)?;
    let source = args.source.as_deref();
    if let Some(name) = source.filter(|name| !config.sources().any(|source| source == *name)) {
        return Err(CliError::NoSource {
            name: name.to_owned(),
            known: config.sources().collect::<Vec<_>>().join(", "),
        });
    }
    let bytes = fs::read(&args.file).map_err(|source| CliError::Read {
        path: args.file.clone(),
        source,
    })?;
    let limits = Limits::from(&config.decode);
    let steps = Router::new(&config).explain(&bytes, source, &limits)?;
    let mut taken = None;
    for (number, step) in (1..).zip(steps) {
        let target = target_name(&config, &step.target);
        let verdict = if step.matched {
            "matches"
        } else {
            "does not match"
        };
        let late = if step.matched && taken.is_some() {
            ", but comes too late"
        } else {
            ""
        };
        writeln!(out, "rule {number}, slot {target}: {verdict}{late}")?;
        for words in &step.because {
            writeln!(out, "    {words}")?;
        }
        if step.matched && taken.is_none() {
            taken = Some((number, step.target));
        }
    }
    match taken {
        None => writeln!(
            out,
            "no rule takes it: slot {DEFAULT_SLOT}, that of [model]"
        )?,
        Some((number, Target::Slot(index))) => {
            let name = target_name(&config, &Target::Slot(index));
            writeln!(out, "rule {number} takes it: slot {name}")?;
        }
        Some((number, Target::Nowhere(reason))) => {
            writeln!(out, "rule {number} takes it: quarantine, because {reason}")?;
        }
    }
    Ok(true)
}
