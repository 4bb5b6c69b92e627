//! `scansided quarantine`: what lies there, another try, away with it.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::CliError;
use crate::config::Config;
use crate::operate::control::{Answer, Choice, MoveOutcome, QuarantinedFile, Request, ask};
use crate::outbox::job::JobNumber;

#[derive(Debug, Clone, Subcommand)]
pub enum QuarantineAction {
    /// Print a line for each file: job, when, source, stage, size and reason.
    List {
        #[arg(long)]
        config: PathBuf,
        /// Print a JSON object for each file instead, which also says what to do about it.
        #[arg(long)]
        json: bool,
    },
    /// Put files back to work, with all their attempts.
    Retry(Selection),
    /// Remove files for good; the ledger counts them as dropped.
    Drop(Selection),
}

#[derive(Debug, Clone, clap::Args)]
pub struct Selection {
    #[arg(long)]
    pub config: PathBuf,
    /// Numbers of jobs as `list` prints them (`job` in the log).
    #[arg(value_name = "JOB", required_unless_present = "all")]
    pub jobs: Vec<JobNumber>,
    /// Everything that lies in quarantine.
    #[arg(long, conflicts_with = "jobs")]
    pub all: bool,
}

impl Selection {
    fn choice(&self) -> Choice {
        if self.all {
            Choice::All
        } else {
            Choice::Jobs(self.jobs.clone())
        }
    }
}

/// Does what was asked, beside a running daemon or without one; false when a job is not there.
pub fn quarantine(action: &QuarantineAction, out: &mut impl Write) -> Result<bool, CliError> {
    let (config, request, done) = match action {
        QuarantineAction::List { config, .. } => (config, Request::Quarantined, ""),
        QuarantineAction::Retry(selection) => (
            &selection.config,
            Request::Retry(selection.choice()),
            "is a job again",
        ),
        QuarantineAction::Drop(selection) => (
            &selection.config,
            Request::Drop(selection.choice()),
            "was removed",
        ),
    };
    match ask(&Config::read(config)?, &request)? {
        Answer::Quarantined(items) => {
            let json = matches!(action, QuarantineAction::List { json: true, .. });
            list(&items, json, out)?;
            Ok(true)
        }
        Answer::Moved(moved) => report(&moved, done, out),
        _ => Err(CliError::Answer),
    }
}

fn list(items: &[QuarantinedFile], json: bool, out: &mut impl Write) -> Result<(), CliError> {
    for item in items {
        if json {
            let line = serde_json::to_string(item).expect("an item is plain data");
            writeln!(out, "{line}")?;
            continue;
        }
        let size = item
            .bytes
            .map_or("file gone".to_owned(), |bytes| format!("{bytes} bytes"));
        writeln!(
            out,
            "job {}  {}  {}  {}  {size}  {}: {}",
            item.job, item.quarantined_at, item.source, item.stage, item.code, item.words
        )?;
    }
    if items.is_empty() && !json {
        writeln!(out, "nothing in quarantine")?;
    }
    Ok(())
}

fn report(moved: &MoveOutcome, done: &str, out: &mut impl Write) -> Result<bool, CliError> {
    for job in &moved.done {
        writeln!(out, "job {job} {done}")?;
    }
    for job in &moved.unknown {
        writeln!(
            out,
            "job {job} is not in quarantine; `scansided quarantine list` says what is"
        )?;
    }
    for job in &moved.missing {
        writeln!(
            out,
            "job {job} has no file any more, somebody removed it; send the image again and \
             `scansided quarantine drop` this one"
        )?;
    }
    let good = moved.unknown.is_empty() && moved.missing.is_empty();
    if good && moved.done.is_empty() {
        writeln!(out, "nothing in quarantine")?;
    }
    Ok(good)
}
