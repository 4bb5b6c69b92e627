//! `scansided ledger`: how many, which, and what became of one.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{CliError, history};
use crate::config::Config;
use crate::operate::control::{Answer, Request, SearchResult, SearchTerms, ask};
use crate::outbox::job::JobNumber;
use crate::outbox::{HistoryFilter, JobHistory, Stage};

#[derive(Debug, Clone, Subcommand)]
pub enum LedgerAction {
    /// Print the counters, or the history of one job.
    Show {
        #[arg(long)]
        config: PathBuf,
        /// Its number (`job` in the log and in results).
        job: Option<JobNumber>,
        /// Print the job as a JSON object.
        #[arg(long, requires = "job")]
        json: bool,
    },
    /// What became of an image: print every job that it was. Exit code 1 when there is none.
    Find {
        #[arg(long)]
        config: PathBuf,
        /// sha256 of its file or the first 8 digits and more, `job_id` of its result, SOP Instance UID, plain or as results
        /// have it, or job number.
        #[arg(value_name = "IMAGE")]
        image: String,
        /// Print each job as a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print a line for each job, the newest first.
    List {
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        which: FilterArgs,
        /// Print each job as a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the equation; exit code 1 when it does not hold.
    Verify {
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Debug, Clone, clap::Args)]
pub struct FilterArgs {
    #[arg(long, value_enum)]
    state: Option<Stage>,
    /// Only images of this source.
    #[arg(long)]
    source: Option<String>,
    /// Only what was accepted then or later, in UTC: 2026-11-24, or 2026-11-24T08:30.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// No more than this.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Prints what was asked for; false when `verify` finds that the ledger does not balance, or when there is no such job.
pub fn ledger(action: &LedgerAction, out: &mut impl Write) -> Result<bool, CliError> {
    match action {
        LedgerAction::Show {
            config,
            job: Some(job),
            json,
        } => show_job(config, *job, *json, out),
        LedgerAction::Show { config, .. } => {
            let line =
                serde_json::to_string(&read_ledger(config)?).expect("a ledger is plain data");
            writeln!(out, "{line}")?;
            Ok(true)
        }
        LedgerAction::Find {
            config,
            image,
            json,
        } => find(config, image, *json, out),
        LedgerAction::List {
            config,
            which,
            json,
        } => list(config, which, *json, out),
        LedgerAction::Verify { config } => {
            let ledger = read_ledger(config)?;
            writeln!(out, "{ledger}")?;
            Ok(ledger.balances())
        }
    }
}

fn read_ledger(config: &Path) -> Result<crate::outbox::Ledger, CliError> {
    match ask(&Config::read(config)?, &Request::Ledger)? {
        Answer::Ledger(ledger) => Ok(ledger),
        _ => Err(CliError::Answer),
    }
}

fn show_job(
    config: &Path,
    job: JobNumber,
    json: bool,
    out: &mut impl Write,
) -> Result<bool, CliError> {
    match ask(&Config::read(config)?, &Request::History(job))? {
        Answer::History(Some(history)) => {
            write_whole(&history, json, out)?;
            Ok(true)
        }
        Answer::History(None) => {
            writeln!(out, "job {job} is unknown: {UNKNOWN_JOB}")?;
            Ok(false)
        }
        _ => Err(CliError::Answer),
    }
}

const UNKNOWN_JOB: &str = "there was none, or it ended more than `state.history_max_jobs` jobs ago; \
                         the log and `scansided quarantine list` have the numbers";

fn write_whole(job: &JobHistory, json: bool, out: &mut impl Write) -> Result<(), CliError> {
    if json {
        let line = serde_json::to_string(job).expect("a history is plain data");
        writeln!(out, "{line}")?;
    } else {
        history::write_history(job, out)?;
    }
    Ok(())
}

fn find(config: &Path, image: &str, json: bool, out: &mut impl Write) -> Result<bool, CliError> {
    if SearchTerms::parse(image).is_none() {
        return Err(CliError::Term(image.to_owned()));
    }
    let request = Request::Find(image.to_owned());
    let Answer::Found(SearchResult { jobs, unread }) = ask(&Config::read(config)?, &request)?
    else {
        return Err(CliError::Answer);
    };
    for job in &jobs {
        write_whole(job, json, out)?;
    }
    if jobs.is_empty() && !json {
        writeln!(out, "no job is known of this image: {UNKNOWN_JOB}")?;
    }
    if unread > 0 && !json {
        writeln!(
            out,
            "{unread} files that wait or were refused are too large to be looked into now; ask again when they are done"
        )?;
    }
    Ok(!jobs.is_empty())
}

fn list(
    config: &Path,
    which: &FilterArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<bool, CliError> {
    let since = which.since.as_deref().map(parse_since).transpose()?;
    let config = Config::read(config)?;
    if let Some(name) = &which.source
        && !config.sources().any(|known| known == name)
    {
        tracing::warn!(
            source = name,
            "the configuration has no source of this name; an earlier one may have had it"
        );
    }
    let filter = HistoryFilter {
        state: which.state,
        source: which.source.clone(),
        since,
        limit: which.limit,
    };
    let Answer::Listed(jobs) = ask(&config, &Request::List(filter))? else {
        return Err(CliError::Answer);
    };
    for job in &jobs {
        if json {
            write_whole(job, true, out)?;
        } else {
            writeln!(out, "{}", history::line(job))?;
        }
    }
    if jobs.is_empty() && !json {
        writeln!(out, "no such job in the last `state.history_max_jobs` ones")?;
    }
    if jobs.len() == which.limit && !json {
        writeln!(out, "no more than {} are listed; see --limit", which.limit)?;
    }
    Ok(true)
}

/// The beginning of a time as the outbox writes them, which sort like text.
fn parse_since(time: &str) -> Result<String, CliError> {
    const FORM: &str = "0000-00-00T00:00:00.000";
    let text = time
        .strip_suffix(['Z', 'z'])
        .unwrap_or(time)
        .replace(' ', "T");
    let fits = |(found, form): (char, char)| match form {
        '0' => found.is_ascii_digit(),
        other => found == other,
    };
    // Whole parts: of the time up to the minute, second or millisecond.
    let whole = [10, 16, 19, 23].contains(&text.len());
    if whole && text.chars().zip(FORM.chars()).all(fits) {
        Ok(text)
    } else {
        Err(CliError::Time(time.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_and_more_of_it_in_utc() {
        for (time, expected) in [
            ("2026-11-24", Some("2026-11-24")),
            ("2026-11-24T08:30", Some("2026-11-24T08:30")),
            ("2026-11-24 08:30:05Z", Some("2026-11-24T08:30:05")),
            ("2026-11-24T08:30:05.123Z", Some("2026-11-24T08:30:05.123")),
            ("2026-11-24T08:30:05+02:00", None),
            ("24.11.2026", None),
            ("2026-11", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse_since(time).ok().as_deref(), expected, "{time}");
        }
    }
}
