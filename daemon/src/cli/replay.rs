//! `scansided replay`: what the broker acknowledged and a subscriber did not get comes again.

use std::io::Write;
use std::path::PathBuf;

use super::CliError;
use crate::config::Config;
use crate::operate::control::{Answer, Request, ask};
use crate::outbox::{Kept, ReplayAnswer, ReplayRange, ReplaySummary};

#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    #[arg(long)]
    pub config: PathBuf,
    /// The first missing number.
    #[arg(long, value_name = "SEQ")]
    pub from_seq: u64,
    /// The last missing number; the last that is kept, unless given.
    #[arg(long, value_name = "SEQ")]
    pub to_seq: Option<u64>,
    /// Only results of this source, and events about it.
    #[arg(long)]
    pub source: Option<String>,
}

/// Asks for it, beside a running daemon or without one, and says what will come; false when that is
/// nothing.
pub fn replay(args: &ReplayArgs, out: &mut impl Write) -> Result<bool, CliError> {
    let range = ReplayRange {
        from_seq: args.from_seq,
        to_seq: args.to_seq,
        source: args.source.clone(),
    };
    let Answer::Replay(asked) = ask(&Config::read(&args.config)?, &Request::Replay(range))? else {
        return Err(CliError::Answer);
    };
    let (words, good) = match asked {
        ReplayAnswer::Busy { replays_max } => (
            format!(
                "{replays_max} replays are under way, as many as `results.replays_max` allows; \
                 try again when one has ended"
            ),
            false,
        ),
        ReplayAnswer::Promised(summary) => (words(&summary), summary.messages > 0),
    };
    writeln!(out, "{words}")?;
    Ok(good)
}

fn words(summary: &ReplaySummary) -> String {
    let kept = match summary.kept {
        Some(Kept {
            first_seq,
            last_seq,
            ..
        }) => format!("seq {first_seq} to {last_seq} are kept"),
        None => "no result is kept".to_owned(),
    };
    match (summary.first_seq, summary.last_seq) {
        (Some(first), Some(last)) => format!(
            "{} results in {} messages come again, seq {first} to {last}; {kept}",
            summary.results, summary.messages
        ),
        _ => format!("nothing of this is kept; {kept}, see [results] in the configuration"),
    }
}
