//! What was typed, and the commands that only print. Exit codes: 0 done, 1 something failed (said on
//! standard error, or in the printed lines), 2 wrong usage.

mod ledger;
mod history;
mod models;
mod named;
mod quarantine;
mod replay;
mod route;
mod segmentations;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use segmenter::decode::Limits;
use segmenter::{OpenOptions, Segmenter};

use crate::failure::{Failure, chain};
use crate::models::{log_half_precision, use_threads};
use crate::operate::control::AskError;
use crate::outbox::job::boot_id;
use crate::report::encode::{Encoder, Origin, object};
use crate::report::http::{ERROR_SCHEMA, Error};
use crate::report::privacy::Privacy;
use crate::report::schema::Document;
use crate::report::{Findings, Report};
use crate::segment::decoder::Decoder;
use crate::segment::segment;
use crate::{RunError, clock};

pub use ledger::{LedgerAction, ledger};
pub use models::{ModelsAction, models};
pub use quarantine::{QuarantineAction, Selection, quarantine};
pub use replay::{ReplayArgs, replay};
pub use route::{RouteArgs, route};
pub use segmentations::{SegmentationsAction, segmentations};

/// Every image in the inbox becomes masks on MQTT. For research use; not a medical device.
///
/// Exit codes: 0 done, 1 something failed, 2 wrong usage. The log goes to standard error;
/// SCANSIDE_LOG=debug says more.
#[derive(Debug, Parser)]
#[command(name = "scansided", version)]
pub struct Cli {
    /// Write the log as JSON lines.
    #[arg(long, global = true)]
    pub log_json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the inboxes and publish until SIGTERM.
    Run {
        #[arg(long)]
        config: PathBuf,
    },
    /// Segment files and print one JSON line for each: the object that MQTT carries, or an error.
    Segment(SegmentArgs),
    /// Explain what is wrong with a configuration, its folders and its bundle.
    Check {
        #[arg(long)]
        config: PathBuf,
    },
    /// What `check` tries, then the broker's limits and rights, the clock, the disk's speed, the PACS.
    Doctor {
        #[arg(long)]
        config: PathBuf,
    },
    /// The count of everything that came in, and what became of each image.
    Ledger {
        #[command(subcommand)]
        action: LedgerAction,
    },
    /// Files that could not be segmented: what they are, another try, away with them.
    Quarantine {
        #[command(subcommand)]
        action: QuarantineAction,
    },
    /// DICOM Segmentations that the PACS has not taken: what they are, another try.
    Segmentations {
        #[command(subcommand)]
        action: SegmentationsAction,
    },
    /// Bundles: bring one in, let it serve, go back to the one before.
    Models {
        #[command(subcommand)]
        action: ModelsAction,
    },
    /// Explain which rule takes a file, and why.
    Route(RouteArgs),
    /// Send results again that a subscriber missed, as they were; `seq` tells which those are.
    Replay(ReplayArgs),
    /// Print the JSON Schema of a result, or of another message, or all as AsyncAPI.
    Schema {
        #[arg(value_enum, default_value = "result")]
        document: Document,
    },
    /// Broker, phantom images, daemon and subscriber in one process: everything works, see here.
    #[cfg(feature = "demo")]
    Demo(crate::demo::Args),
}

impl Command {
    /// What the log says unless SCANSIDE_LOG is set: the demo's own lines should be seen.
    pub fn log_level(&self) -> &'static str {
        match self {
            #[cfg(feature = "demo")]
            Self::Demo(_) => "warn",
            _ => "info",
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct SegmentArgs {
    /// Bundle directory or `.tar`.
    #[arg(long)]
    pub bundle: PathBuf,
    /// Also write a PNG of each frame with its masks here.
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,
    /// Threads that multiply; 0: as many as the CPU has.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Multiply f32 in 16 bits where the CPU can, as `models.half_precision` does.
    #[arg(long)]
    pub half_precision: bool,
    /// A folder stands for all files below it.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Models(#[from] crate::models::ModelsError),
    /// With the words of who refused.
    #[error("{0}")]
    Refused(String),
    #[error("no source is called `{name}`; the configuration has {known}")]
    NoSource { name: String, known: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no file below the folder {}; name one that has images", path.display())]
    EmptyFolder { path: PathBuf },
    #[error(transparent)]
    Decode(#[from] segmenter::decode::DecodeError),
    #[error(
        "`{0}` is nothing by which an image is found; give a job number, a sha256 or its first 8 digits, a `job_id`, or \
         a SOP Instance UID, plain or hashed"
    )]
    Term(String),
    #[error(
        "`{0}` is no time; write it in UTC, as far as you like: 2026-11-24, 2026-11-24T08:30, 2026-11-24T08:30:00Z"
    )]
    Time(String),
    #[error("the running scansided answers another question; is it of another version?")]
    Answer,
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Prints a line for each file; false when one failed.
pub fn segment_files(args: &SegmentArgs, out: &mut impl Write) -> Result<bool, CliError> {
    use_threads(args.threads);
    log_half_precision(args.half_precision);
    let options = OpenOptions {
        half_precision: args.half_precision,
        ..OpenOptions::default()
    };
    let segmenter =
        Segmenter::open_with(&args.bundle, &options).map_err(|source| RunError::Bundle {
            path: args.bundle.clone(),
            source,
        })?;
    let encoder = Encoder {
        node: "cli".to_owned(),
        boot: boot_id(),
        inline_max_bytes: usize::MAX,
        privacy: Privacy::None,
    };
    if let Some(folder) = &args.overlay {
        fs::create_dir_all(folder).map_err(|source| CliError::Write {
            path: folder.clone(),
            source,
        })?;
    }
    let mut all_good = true;
    for file in &named::files(&args.files)? {
        match segment_file(&segmenter, file) {
            Ok(mut found) => {
                if let Some(folder) = &args.overlay {
                    write_overlays(folder, file, &found, segmenter.manifest())?;
                }
                found.labels.clear();
                let report = report(&encoder, found, &segmenter);
                let line = serde_json::to_string(&report).expect("a report is plain data");
                writeln!(out, "{line}")?;
            }
            Err(failure) => {
                all_good = false;
                let reason = failure.reason();
                let line = object(&Error {
                    schema: ERROR_SCHEMA,
                    file: Some(file.display().to_string()),
                    code: &reason.code,
                    words: &reason.words,
                    remedy: &reason.remedy,
                });
                writeln!(out, "{line}")?;
            }
        }
        out.flush()?;
    }
    Ok(all_good)
}

fn segment_file(segmenter: &Segmenter, file: &Path) -> Result<Findings, Failure> {
    let bytes = fs::read(file).map_err(Failure::Input)?;
    segment(
        segmenter,
        &mut Decoder::new(Limits::STANDARD),
        &Arc::new(bytes),
    )
}

fn report(encoder: &Encoder, found: Findings, segmenter: &Segmenter) -> Report {
    let origin = Origin {
        job: None,
        source: "cli".to_owned(),
        received_at: clock::now(),
        wait_ms: 0.0,
    };
    encoder.report(found, &origin, &segmenter.into())
}

/// `<stem>-<start of the file's digest>[-<frame>].png`.
pub(crate) fn write_overlays(
    folder: &Path,
    file: &Path,
    found: &Findings,
    manifest: &contract::Manifest,
) -> Result<Vec<PathBuf>, CliError> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let digest = &found.sha256[..8];
    let mut paths = Vec::new();
    for (index, (frame, labels)) in found.frames.iter().zip(&found.labels).enumerate() {
        let number = if found.frames.len() > 1 {
            format!("-{index}")
        } else {
            String::new()
        };
        let path = folder.join(format!("{stem}-{digest}{number}.png"));
        let png = segmenter::overlay::overlay_png(frame, labels, &manifest.classes);
        fs::write(&path, png).map_err(|source| CliError::Write {
            path: path.clone(),
            source,
        })?;
        paths.push(path);
    }
    Ok(paths)
}

/// An error with its causes, for people.
pub fn words(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error)
}
