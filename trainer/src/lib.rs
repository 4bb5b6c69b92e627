//! From labelled images to a bundle. Modules in the order of the flow.

pub mod augment;
pub mod batch;
pub mod bundle;
pub mod cli;
pub mod compute;
pub mod config;
pub mod dataset;
pub mod distill;
pub mod estimate;
pub mod eval;
pub mod evaluate;
pub mod export;
pub mod finetune;
mod launch;
pub mod model;
pub mod onnx;
pub mod output_cache;
pub mod parallel;
pub mod quantize;
pub mod report;
pub mod run_folder;
pub mod tensorboard;
pub mod train;
pub mod weights;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::parallel::Group;
use crate::train::Outcome;

/// Runs one command; an interrupted run exits with 130, as a shell expects after Ctrl-C.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let outcome = match cli.command {
        Command::Dataset(command) => {
            dataset::command::run(command)?;
            Outcome::Finished
        }
        Command::Finetune(args) => finetune::run(&args, &join()?)?,
        Command::Distill(args) => distill::run(&args, &join()?)?,
        Command::Export(args) => {
            export::run(&args)?;
            Outcome::Finished
        }
        Command::Bundle(command) => {
            bundle::command::run(&command)?;
            Outcome::Finished
        }
        Command::Weights(command) => {
            weights::run(&command)?;
            Outcome::Finished
        }
        Command::Eval(args) => {
            eval::run(&args)?;
            Outcome::Finished
        }
    };
    Ok(match outcome {
        Outcome::Finished => ExitCode::SUCCESS,
        Outcome::Interrupted => {
            report::say("interrupted and saved: the same command with --resume goes on");
            ExitCode::from(130)
        }
    })
}

/// The processes that train together, of which rank 0 speaks for all.
fn join() -> Result<Group> {
    let group = Group::join()?;
    report::speak_as(group.rank());
    if group.world() > 1 {
        report::say(&format!("{} processes train together", group.world()));
    }
    Ok(group)
}
