//! `trainer`: parse, log, run, exit code.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use trainer::{cli::Cli, train};

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    // The first Ctrl-C lets the loop save; the second one stops at once.
    let handler = || {
        if train::INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::abort();
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!(%error, "ctrl-c will not save");
    }
    match trainer::run(cli) {
        Ok(code) => code,
        Err(error) => {
            tracing::debug!(?error, "failed");
            trainer::report::complain(&error);
            ExitCode::FAILURE
        }
    }
}
