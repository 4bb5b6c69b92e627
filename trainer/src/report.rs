//! What a user sees of a run: lines on the console, a progress bar, `metrics.jsonl`, curves.
//!
//! Only this module and the command line print. Results go to standard output, progress and
//! complaints to standard error.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use candle_core::Var;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::tensorboard::{self, EventFile};

/// Of this process, among those that train together.
static RANK: AtomicUsize = AtomicUsize::new(0);

/// Makes a process with a rank above 0 silent but for complaints, which name it.
pub fn speak_as(rank: usize) {
    RANK.store(rank, Ordering::Relaxed);
}

fn is_silent() -> bool {
    RANK.load(Ordering::Relaxed) > 0
}

/// A line (or table) of output. A reader that went away (`| head`) is no reason to stop.
pub fn say(text: &str) {
    if is_silent() {
        return;
    }
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Why the program stops.
#[expect(clippy::print_stderr, reason = "the module that prints")]
pub fn complain(error: &anyhow::Error) {
    let rank = RANK.load(Ordering::Relaxed);
    let whose = if rank > 0 {
        format!("rank {rank}: ")
    } else {
        String::new()
    };
    eprintln!("{whose}error: {}", causes(error));
}

/// An error and its causes, without those that the text before them quotes already.
fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Release and commit, the latter `unknown` when built from a copy without history.
pub const CODE_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("SCANSIDE_COMMIT"));

/// The command as it was typed.
pub fn command_line() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

/// How many parameters train, by part of the network.
pub fn trainable_table(vars: &BTreeMap<String, Var>) -> String {
    let mut parts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (name, var) in vars {
        let part: Vec<&str> = name.split('.').take(2).collect();
        let (n_tensors, n_values) = parts.entry(part.join(".")).or_default();
        *n_tensors += 1;
        *n_values += var.elem_count();
    }
    let total: usize = parts.values().map(|(_, n_values)| n_values).sum();
    let width = parts
        .keys()
        .map(String::len)
        .max()
        .unwrap_or(0)
        .max("trains".len());
    let mut table = format!(
        "{:width$}  {:>7}  {:>10}",
        "trains", "tensors", "parameters"
    );
    for (part, (n_tensors, n_values)) in &parts {
        write!(table, "\n{part:width$}  {n_tensors:>7}  {n_values:>10}")
            .expect("a string takes everything");
    }
    write!(table, "\n{:width$}  {:>7}  {total:>10}", "all", vars.len())
        .expect("a string takes everything");
    table
}

/// One line that shows how far an epoch (or an evaluation) is; hidden where nobody looks.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// `epoch` counts from 0.
    pub fn epoch(epoch: u64, n_epochs: u64, n_batches: u64) -> Self {
        Self::new(&format!("epoch {}/{n_epochs}", epoch + 1), n_batches)
    }

    pub fn images(label: &str, n_images: u64) -> Self {
        Self::new(label, n_images)
    }

    /// `n_done` batches are done, the last with this loss.
    pub fn advance(&self, n_done: u64, loss: f32) {
        self.bar.set_message(format!("loss {loss:.4}"));
        self.bar.set_position(n_done);
    }

    pub fn images_done(&self, n_done: u64) {
        self.bar.set_position(n_done);
    }

    fn new(label: &str, length: u64) -> Self {
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {pos}/{len} {elapsed_precise} (left {eta}) {msg}",
        )
        .expect("the template is well formed")
        .progress_chars("=> ");
        if is_silent() {
            let bar = ProgressBar::hidden();
            return Self { bar };
        }
        let bar = ProgressBar::new(length)
            .with_style(style)
            .with_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_secs(1));
        Self { bar }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `metrics.jsonl`: one object a line, `kind` is `step` or `validation`. Flushed line by line. The
/// same numbers go to TensorBoard's event file, beside their wall time.
pub struct Metrics {
    path: PathBuf,
    file: File,
    events: EventFile,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Step {
        step: u64,
        epoch: u64,
        learning_rate: f64,
        gradient_norm: f64,
        loss: f32,
        #[serde(flatten)]
        parts: BTreeMap<&'a str, f32>,
    },
    Validation {
        step: u64,
        epoch: u64,
        dice: f64,
        best_dice: f64,
    },
}

#[derive(Deserialize)]
struct StepOnly {
    step: u64,
}

/// What a step of the optimizer came to.
pub struct Step<'a> {
    /// Counted from 1.
    pub step: u64,
    pub epoch: u64,
    pub learning_rate: f64,
    pub gradient_norm: f64,
    pub loss: f32,
    pub parts: &'a [(&'static str, f32)],
}

impl Metrics {
    /// Opens the files of a run folder to go on after optimizer step `step` (0: from the start). Lines
    /// of later steps are from after the checkpoint and will be written again; a torn last line goes too.
    pub fn open(run: &Path, step: u64) -> Result<Self> {
        let path = &run.join("metrics.jsonl");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let keep = kept_bytes(&text, step).with_context(|| path.display().to_string())?;
        file.set_len(keep as u64)
            .with_context(|| format!("cannot shorten {}", path.display()))?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            events: EventFile::create(&run.join("log"), step)?,
        })
    }

    /// After a step of the optimizer.
    pub fn step(&mut self, step: &Step) -> Result<()> {
        let tags: Vec<String> = step
            .parts
            .iter()
            .map(|(part, _)| tensorboard::loss_tag(part))
            .collect();
        let values = step.parts.iter().map(|&(_, value)| value);
        let scalars = [
            ("info/lr", step.learning_rate as f32),
            ("info/total_loss", step.loss),
        ];
        self.events.scalars(
            step.step,
            scalars
                .into_iter()
                .chain(tags.iter().map(String::as_str).zip(values)),
        )?;
        self.append(&Line::Step {
            step: step.step,
            epoch: step.epoch,
            learning_rate: step.learning_rate,
            gradient_norm: step.gradient_norm,
            loss: step.loss,
            parts: step.parts.iter().copied().collect(),
        })
    }

    /// After `epoch` epochs.
    pub fn validation(&mut self, step: u64, epoch: u64, dice: f64, best_dice: f64) -> Result<()> {
        say(&format!(
            "epoch {epoch}: foreground Dice on validation {dice:.4}, best so far {best_dice:.4}"
        ));
        self.events.scalars(step, [("eval/dice", dice as f32)])?;
        self.append(&Line::Validation {
            step,
            epoch,
            dice,
            best_dice,
        })
    }

    fn append(&mut self, line: &Line<'_>) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Length of the leading lines that are whole and of steps up to `step`.
fn kept_bytes(text: &[u8], step: u64) -> Result<usize> {
    let mut keep = 0;
    for (number, line) in (1..).zip(text.split_inclusive(|&byte| byte == b'\n')) {
        if !line.ends_with(b"\n") {
            break;
        }
        let parsed: Result<StepOnly, _> = serde_json::from_slice(line);
        let torn_at_the_end = parsed.is_err() && keep + line.len() == text.len();
        if torn_at_the_end {
            break;
        }
        let parsed = parsed
            .with_context(|| format!("line {number} is no metrics line: move the file away"))?;
        if parsed.step > step {
            break;
        }
        keep += line.len();
    }
    Ok(keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_steps(run: &Path, from: u64, to: u64) {
        std::fs::create_dir_all(run).unwrap();
        let mut metrics = Metrics::open(run, from).unwrap();
        for step in from + 1..=to {
            metrics
                .step(&Step {
                    step,
                    epoch: 0,
                    learning_rate: 1e-3,
                    gradient_norm: 0.5,
                    loss: 1.0 / step as f32,
                    parts: &[("dice", 0.25)],
                })
                .unwrap();
        }
    }

    #[test]
    fn a_resumed_file_equals_an_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, resumed) = (folder.path().join("a"), folder.path().join("b"));
        write_steps(&whole, 0, 9);
        write_steps(&resumed, 0, 6);
        // The checkpoint is of step 4, and the last line was cut by a power failure.
        let lines = |run: &Path| std::fs::read(run.join("metrics.jsonl")).unwrap();
        let mut torn = lines(&resumed);
        torn.extend(b"{\"kind\":\"st");
        std::fs::write(resumed.join("metrics.jsonl"), torn).unwrap();
        write_steps(&resumed, 4, 9);
        assert_eq!(lines(&resumed), lines(&whole));
    }

    #[test]
    fn a_foreign_file_is_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "not ours\nnot ours\n").unwrap();
        let Err(error) = Metrics::open(folder.path(), 3) else {
            panic!("opened")
        };
        assert!(
            format!("{error:#}").contains("line 1 is no metrics line"),
            "{error:#}"
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "not ours\nnot ours\n"
        );
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("not found")
            .context("a.csv: not found; check the path")
            .context("in list a");
        assert_eq!(
            causes(&error),
            "in list a: a.csv: not found; check the path"
        );
    }

    #[test]
    fn a_line_holds_the_parts_of_the_loss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        write_steps(folder.path(), 0, 1);
        let line: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(line["kind"], "step");
        assert_eq!(line["dice"], 0.25);
    }
}
