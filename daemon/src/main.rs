//! `scansided`: parse, log, run, exit code.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use daemon::cli::{self, Cli, Command};
use daemon::operate::{check, doctor};
use daemon::{Config, shutdown};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.log_json, cli.command.log_level());
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{}", cli::words(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<bool> {
    let out = &mut io::stdout();
    match command {
        Command::Run { config } => {
            let config = Config::read(&config)?;
            runtime()?.block_on(async {
                let shutdown = shutdown::requested();
                tracing::info!(
                    version = env!("CARGO_PKG_VERSION"),
                    node = config.node,
                    "scansided"
                );
                daemon::run(config, shutdown).await
            })?;
            Ok(true)
        }
        Command::Segment(args) => Ok(cli::segment_files(&args, out)?),
        Command::Check { config } => Ok(check::check(&config, out)?),
        Command::Doctor { config } => Ok(runtime()?.block_on(doctor::doctor(&config, out))?),
        Command::Ledger { action } => Ok(cli::ledger(&action, out)?),
        Command::Quarantine { action } => Ok(cli::quarantine(&action, out)?),
        Command::Segmentations { action } => Ok(cli::segmentations(&action, out)?),
        Command::Models { action } => Ok(cli::models(&action, out)?),
        Command::Route(args) => Ok(cli::route(&args, out)?),
        Command::Replay(args) => Ok(cli::replay(&args, out)?),
        Command::Schema { document } => {
            io::Write::write_all(out, document.text().as_bytes())?;
            Ok(true)
        }
        #[cfg(feature = "demo")]
        Command::Demo(args) => Ok(runtime()?.block_on(daemon::demo::run(args, out))?),
    }
}

/// One thread for the edges; the images have their own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn log(json: bool, level: &str) {
    let filter = EnvFilter::try_from_env("SCANSIDE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},rumqttc=off,tract=warn")));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    if json {
        log.json().init();
    } else {
        log.with_target(false).init();
    }
}
