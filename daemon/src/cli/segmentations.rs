//! `scansided segmentations`: what the PACS has not taken, and another try.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::CliError;
use crate::config::Config;
use crate::operate::control::{Answer, Request, ask};
use crate::seg::{Retried, RetryChoice};
use crate::status::pacs::Unsent;

#[derive(Debug, Clone, Subcommand)]
pub enum SegmentationsAction {
    /// Print a line for each: its series, when it was made, size, whether it waits or was refused, and why.
    List {
        #[arg(long)]
        config: PathBuf,
        /// Print a JSON object for each instead.
        #[arg(long)]
        json: bool,
    },
    /// Put refused ones back to those that wait, and try all that wait now.
    Retry {
        #[arg(long)]
        config: PathBuf,
        /// `series` as `list` prints it (and its event on MQTT).
        #[arg(value_name = "SERIES", required_unless_present = "all")]
        series: Vec<String>,
        /// Every one that waits or was refused.
        #[arg(long, conflicts_with = "series")]
        all: bool,
    },
}

/// Does what was asked, beside a running daemon or without one; false when a segmentation is not there.
pub fn segmentations(action: &SegmentationsAction, out: &mut impl Write) -> Result<bool, CliError> {
    let (config, request) = match action {
        SegmentationsAction::List { config, .. } => (config, Request::Segmentations),
        SegmentationsAction::Retry {
            config,
            series,
            all,
        } => {
            let wanted = if *all {
                RetryChoice::All
            } else {
                RetryChoice::These(series.clone())
            };
            (config, Request::RetrySegmentations(wanted))
        }
    };
    match ask(&Config::read(config)?, &request)? {
        Answer::Segmentations(all) => {
            let json = matches!(action, SegmentationsAction::List { json: true, .. });
            list(&all, json, out)?;
            Ok(true)
        }
        Answer::Retried(retried) => report(&retried, out),
        _ => Err(CliError::Answer),
    }
}

fn list(all: &[Unsent], json: bool, out: &mut impl Write) -> Result<(), CliError> {
    for one in all {
        if json {
            let line = serde_json::to_string(one).expect("a segmentation is plain data");
            writeln!(out, "{line}")?;
            continue;
        }
        let Unsent {
            series,
            refused,
            made_at,
            age_s,
            bytes,
            why,
        } = one;
        let word = if *refused { "refused" } else { "waits" };
        let why = match (why, refused) {
            (Some(why), _) => why,
            (None, true) => "set aside by `seg.send_to.waiting_max_bytes`, or by hand",
            (None, false) => "not tried yet, or no scansided runs that sends it",
        };
        writeln!(
            out,
            "series {series}  {made_at}  {age_s} s  {bytes} bytes  {word}: {why}"
        )?;
    }
    if all.is_empty() && !json {
        writeln!(
            out,
            "no segmentation waits for a PACS, and none was refused"
        )?;
    }
    Ok(())
}

fn report(retried: &Retried, out: &mut impl Write) -> Result<bool, CliError> {
    for series in &retried.done {
        writeln!(out, "series {series} is tried again")?;
    }
    for series in &retried.unknown {
        writeln!(
            out,
            "series {series} is not here; `scansided segmentations list` says which are"
        )?;
    }
    let good = retried.unknown.is_empty();
    if good && retried.done.is_empty() {
        writeln!(
            out,
            "no segmentation waits for a PACS, and none was refused"
        )?;
    }
    Ok(good)
}
