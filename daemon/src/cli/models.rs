//! `scansided models`: bring a bundle in, let it serve, go back.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::CliError;
use crate::config::{Config, DEFAULT_SLOT};
use crate::models::{Change, Reply, SlotView, Store};
use crate::operate::control::{Answer, Request, ask};

#[derive(Debug, Clone, Subcommand)]
pub enum ModelsAction {
    /// Bring a bundle in. It serves only once it is promoted.
    Install {
        #[arg(long)]
        config: PathBuf,
        /// Bundle directory or `.tar`, signed with a key of `models.trusted_keys`.
        bundle: PathBuf,
        #[arg(long, default_value = DEFAULT_SLOT)]
        slot: String,
        /// Take it without a signature, where `models.allow_unsigned` lets you.
        #[arg(long)]
        unsigned: bool,
    },
    /// Print what serves, what served before and what is installed.
    List {
        #[arg(long)]
        config: PathBuf,
        /// Print a JSON object for each slot instead.
        #[arg(long)]
        json: bool,
    },
    /// Let an installed version serve, after its golden pair came out right.
    Promote {
        #[arg(long)]
        config: PathBuf,
        /// Its version, or its digest, which may be cut short; the highest counter unless given.
        version: Option<String>,
        #[arg(long, default_value = DEFAULT_SLOT)]
        slot: String,
    },
    /// Go back to what served before.
    Rollback {
        #[arg(long)]
        config: PathBuf,
        #[arg(long, default_value = DEFAULT_SLOT)]
        slot: String,
    },
}

/// Does what was asked, beside a running daemon or without one.
pub fn models(action: &ModelsAction, out: &mut impl Write) -> Result<bool, CliError> {
    let (ModelsAction::Install { config, .. }
    | ModelsAction::List { config, .. }
    | ModelsAction::Promote { config, .. }
    | ModelsAction::Rollback { config, .. }) = action;
    let config = Config::read(config)?;
    let change = match action.clone() {
        ModelsAction::Install {
            bundle,
            slot,
            unsigned,
            ..
        } => {
            let installation = Installation {
                bundle,
                slot,
                unsigned,
            };
            return install(&config, installation, out);
        }
        ModelsAction::List { .. } => Change::List,
        ModelsAction::Promote { version, slot, .. } => Change::Promote { slot, version },
        ModelsAction::Rollback { slot, .. } => Change::Rollback { slot },
    };
    let json = matches!(action, ModelsAction::List { json: true, .. });
    write_reply(&config, change, json, out)
}

struct Installation {
    bundle: PathBuf,
    slot: String,
    unsigned: bool,
}

/// This process copies the bundle: the daemon may not see the place.
fn install(
    config: &Config,
    installation: Installation,
    out: &mut impl Write,
) -> Result<bool, CliError> {
    let Installation {
        bundle,
        slot,
        unsigned,
    } = installation;
    let store = Store::new(config);
    let staged = store.stage(&slot, &bundle, unsigned)?;
    let change = Change::Install {
        slot: slot.clone(),
        staged: staged.clone(),
        unsigned,
    };
    let told = write_reply(config, change, false, out);
    store.unstage(&slot, &staged);
    told
}

fn write_reply(
    config: &Config,
    change: Change,
    json: bool,
    out: &mut impl Write,
) -> Result<bool, CliError> {
    let Answer::Models(reply) = ask(config, &Request::Models(change))? else {
        return Err(CliError::Answer);
    };
    match reply {
        Reply::Refused(words) => return Err(CliError::Refused(words)),
        Reply::Done(words) => writeln!(out, "{words}")?,
        Reply::Slots(slots) => {
            for slot in slots {
                if json {
                    let line = serde_json::to_string(&slot).expect("a slot is plain data");
                    writeln!(out, "{line}")?;
                } else {
                    list(&slot, out)?;
                }
            }
        }
    }
    Ok(true)
}

fn list(slot: &SlotView, out: &mut impl Write) -> Result<(), CliError> {
    writeln!(out, "slot {}", slot.slot)?;
    match &slot.active {
        None => writeln!(
            out,
            "  serves    the configured bundle, from the first start"
        )?,
        Some(active) => {
            let whose = if active.version.configured {
                ", the configured bundle"
            } else {
                ""
            };
            let (version, since) = (&active.version, &active.since);
            writeln!(out, "  serves    {version}, since {since}{whose}")?;
        }
    }
    if let Some(previous) = &slot.previous {
        writeln!(out, "  before    {}", previous.version)?;
    }
    for version in &slot.installed {
        writeln!(out, "  installed {version}")?;
    }
    for folder in &slot.damaged {
        writeln!(out, "  damaged   {folder}")?;
    }
    if let Some(problem) = &slot.problem {
        writeln!(out, "  problem   {problem}")?;
    }
    Ok(())
}
