//! Checkpoints in words: which SAM one is, what fits a network and what would start random; plain
//! safetensors of it, with LoRA folded in on request.

mod describe;
mod fit;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device};
use nets::checkpoint::{self, Checkpoint, Format};
use nets::lora::{self, LoraRows};

use self::describe::{Description, Which};
use crate::cli::{WeightsCommand, WeightsSource};
use crate::config::Encoder;
use crate::model::{HEAD_DIM, PARTS};
use crate::report::{self, CODE_VERSION};
use crate::run_folder::State;

pub fn run(command: &WeightsCommand) -> Result<()> {
    let text = match command {
        WeightsCommand::Inspect {
            source,
            encoder,
            num_cls,
        } => inspect(source, *encoder, num_cls.map(usize::from))?,
        WeightsCommand::Convert { source, out, force } => convert(source, out, *force)?,
        WeightsCommand::Merge {
            source,
            out,
            reference_rows,
            force,
        } => {
            let rows = reference_rows.then_some(LoraRows::Reference);
            merge(source, out, rows, *force)?
        }
    };
    report::say(&text);
    Ok(())
}

/// A checkpoint with a SAM in it.
struct Weights {
    file: PathBuf,
    /// Under upstream's names.
    state: State,
    /// What stood before every name.
    wrapper: String,
    /// The state dict's key in the file.
    key: String,
    other_keys: Vec<String>,
    /// Tensors that are not floating point, and what they are.
    left_out: BTreeMap<String, String>,
}

fn read(source: &WeightsSource) -> Result<Weights> {
    let subject = source.file.as_path();
    let mut file = subject.to_owned();
    if subject.is_dir() {
        file.push("best.safetensors");
        ensure!(
            file.exists(),
            "{} is a folder without best.safetensors: name a checkpoint file, or a run folder that \
             reached its first validation",
            subject.display()
        );
    }
    let Checkpoint {
        state,
        left_out,
        key,
        other_keys,
        ..
    } = checkpoint::read_whole(&file, source.key.as_deref(), &Device::Cpu)?;
    let (mut state, wrapper) = unwrapped(state);
    state.retain(|_, tensor| tensor.dtype() == DType::F32);
    if state.keys().any(|name| name.starts_with("optimizer/")) {
        bail!(
            "{} is a run's last.safetensors, with what training needs to go on: name the run folder, \
             or best.safetensors in it",
            file.display()
        );
    }
    if !state.keys().any(|name| is_of_sam(name)) {
        let names: Vec<&str> = state.keys().take(3).map(String::as_str).collect();
        bail!(
            "{} is no SAM but some other network: it holds {} tensors ({}, ..){}, none under {}; name a \
             checkpoint with upstream's names, as SAM, MobileSAM, MedSAM and finetune-SAM publish them",
            file.display(),
            state.len(),
            names.join(", "),
            if left_out.is_empty() {
                String::new()
            } else {
                format!(" and {}", not_floating(&left_out))
            },
            PARTS.join(" or ")
        );
    }
    Ok(Weights {
        file,
        state,
        wrapper,
        key,
        other_keys,
        left_out,
    })
}

impl Weights {
    /// Where in the file the tensors stood and what of it is not in `state`, each on a line of its own.
    fn remarks(&self) -> String {
        let mut lines = Vec::new();
        if !self.key.is_empty() || !self.other_keys.is_empty() {
            let mut line = match self.key.as_str() {
                "" => "key         none, the tensors stand at the top".to_owned(),
                key => format!("key         {key}"),
            };
            if !self.other_keys.is_empty() {
                let others = first_few(self.other_keys.iter().cloned());
                line = format!("{line}; other state dicts, for --key: {others}");
            }
            lines.push(line);
        }
        if !self.left_out.is_empty() {
            lines.push(format!("left out    {}", not_floating(&self.left_out)));
        }
        let line = |line: &String| format!("\n{line}");
        lines.iter().map(line).collect()
    }
}

fn not_floating(left_out: &BTreeMap<String, String>) -> String {
    let named = left_out
        .iter()
        .map(|(name, kind)| format!("{name} ({kind})"));
    format!(
        "{} that are not floating point: {}",
        left_out.len(),
        first_few(named)
    )
}

fn first_few(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = if names.len() > 6 { ", .." } else { "" };
    names.take(6).collect::<Vec<_>>().join(", ") + more
}

/// The known encoder whose tensors these are.
pub(crate) fn encoder_of(state: &State) -> Option<Encoder> {
    match Description::of(state).which {
        Which::Known(encoder) => Some(encoder),
        Which::DecoderOnly | Which::Unknown(_) => None,
    }
}

fn is_of_sam(name: &str) -> bool {
    PARTS.iter().any(|part| name.starts_with(part))
}

/// Takes off what DataParallel (`module.`) or a model around the SAM put before every name.
fn unwrapped(state: State) -> (State, String) {
    let wrapper = state
        .keys()
        .find_map(|name| {
            PARTS
                .iter()
                .find_map(|part| name.find(part))
                .map(|at| &name[..at])
        })
        .unwrap_or_default()
        .to_owned();
    if wrapper.is_empty() || !state.keys().all(|name| name.starts_with(&wrapper)) {
        return (state, String::new());
    }
    let strip = |(name, tensor): (String, _)| (name[wrapper.len()..].to_owned(), tensor);
    (state.into_iter().map(strip).collect(), wrapper)
}

fn inspect(
    source: &WeightsSource,
    encoder: Option<Encoder>,
    num_cls: Option<usize>,
) -> Result<String> {
    let weights = read(source)?;
    let remarks = weights.remarks();
    let Weights {
        file,
        state,
        wrapper,
        ..
    } = weights;
    let description = Description::of(&state);
    let format = match checkpoint::format(&file)? {
        Format::PyTorchZip => "PyTorch zip",
        Format::Safetensors => "safetensors",
    };
    let n_parameters: usize = state.values().map(candle_core::Tensor::elem_count).sum();
    let names = if wrapper.is_empty() {
        String::new()
    } else {
        format!(
            "\nnames       all begin with {wrapper}, which `trainer weights convert` takes off; training \
             does not find them as they are"
        )
    };
    let text = format!(
        "{}: {format}, {} floating-point tensors, {n_parameters} parameters\n{description}{remarks}{names}",
        file.display(),
        state.len()
    );
    let own = match &description.which {
        Which::Known(own) => Some(*own),
        // All share the decoder, so the smallest will do.
        Which::DecoderOnly => Some(Encoder::VitT),
        Which::Unknown(_) => None,
    };
    let Some(encoder) = encoder.or(own) else {
        return Ok(text + "\n\nadd --encoder to see what would fit one of the known networks");
    };
    let num_cls = num_cls.unwrap_or_else(|| description.num_cls());
    let fit = fit::fit(state, &description, encoder, num_cls)
        .with_context(|| format!("{}: cannot compare it with a SAM", file.display()))?;
    Ok(format!("{text}\n\n{fit}"))
}

fn convert(source: &WeightsSource, out: &Path, force: bool) -> Result<String> {
    may_write(out, force)?;
    let weights = read(source)?;
    write(out, &weights.file, &weights.state, None)?;
    Ok(format!(
        "{}: {} tensors of {}{}",
        out.display(),
        weights.state.len(),
        weights.file.display(),
        weights.remarks()
    ))
}

/// Where LoRA of an encoder was added, if that may be asked.
fn place(which: &Which, rows: LoraRows) -> &'static str {
    match (which, rows) {
        (Which::Known(Encoder::VitT | Encoder::LiteMedsam), LoraRows::PerHead) => {
            ", on each head's q and v (--reference-rows is for finetune-SAM's TinyViT)"
        }
        (Which::Known(Encoder::VitT | Encoder::LiteMedsam), LoraRows::Reference) => {
            ", on the first and last rows of qkv as finetune-SAM does"
        }
        _ => "",
    }
}

/// `rows`: where a TinyViT's updates lie, if that was said.
fn merge(
    source: &WeightsSource,
    out: &Path,
    rows: Option<LoraRows>,
    force: bool,
) -> Result<String> {
    may_write(out, force)?;
    let weights = read(source)?;
    let remarks = weights.remarks();
    let Weights { file, state, .. } = weights;
    let description = Description::of(&state);
    if description.adapter.is_some() {
        bail!(
            "{} holds adapters ({}): they have a non-linearity inside and cannot be merged into \
             weights; use the file as it is",
            file.display(),
            description.method()
        );
    }
    let Some(updates) = &description.lora else {
        bail!(
            "{} holds no LoRA, its weights are plain already: use it as it is, or make it safetensors \
             with `trainer weights convert`",
            file.display()
        );
    };
    let recorded = recorded_rows(&file)?;
    if let (Some(LoraRows::PerHead), Some(LoraRows::Reference)) = (recorded, rows) {
        bail!(
            "{} was trained with updates on each head's q and v, as sam.json beside it says: leave out \
             --reference-rows",
            file.display()
        );
    }
    let rows = recorded.or(rows).unwrap_or(LoraRows::PerHead);
    let merged = lora::merge(state, rows, HEAD_DIM)
        .map_err(anyhow::Error::from)
        .and_then(
            |merged| match merged.keys().find(|name| describe::is_lora(name)) {
                Some(name) => bail!("nothing to merge {name} with"),
                None => Ok(merged),
            },
        )
        .with_context(|| {
            format!(
                "{}: its LoRA cannot be merged; is the file complete? fetch or save it again",
                file.display()
            )
        })?;
    write(out, &file, &merged, Some(rows))?;
    let place = if updates.encoder_layers.is_empty() {
        ""
    } else {
        place(&description.which, rows)
    };
    Ok(format!(
        "{}: {} tensors; merged {}{place}{remarks}",
        out.display(),
        merged.len(),
        description.method()
    ))
}

/// What `sam.json` says of the LoRA, where `file` is a run's result. Only this one key is read, so that
/// runs of older programs can be merged.
fn recorded_rows(file: &Path) -> Result<Option<LoraRows>> {
    let record = file.with_file_name("sam.json");
    if file
        .file_name()
        .is_none_or(|name| name != "best.safetensors")
        || !record.exists()
    {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&record)
        .with_context(|| format!("cannot read {}", record.display()))?;
    serde_json::from_str::<serde_json::Value>(&text)
        .and_then(|json| serde_json::from_value(json["lora"]["rows"].clone()))
        .map(Some)
        .with_context(|| {
            format!(
                "{} does not say where the LoRA lies: copy best.safetensors out of the folder and \
                 choose with or without --reference-rows",
                record.display()
            )
        })
}

fn may_write(out: &Path, force: bool) -> Result<()> {
    ensure!(
        out.extension().is_some_and(|it| it == "safetensors"),
        "{}: what is written is safetensors, let the name end in .safetensors",
        out.display()
    );
    ensure!(
        force || !out.exists(),
        "{} exists: name another file, or replace it with --force",
        out.display()
    );
    Ok(())
}

fn write(out: &Path, source: &Path, state: &State, rows: Option<LoraRows>) -> Result<()> {
    let mut metadata = HashMap::from([
        (
            "source_digest".to_owned(),
            format!("sha256:{}", checkpoint::digest(source)?),
        ),
        ("code_version".to_owned(), CODE_VERSION.to_owned()),
    ]);
    if let Some(rows) = rows {
        let rows = serde_json::to_value(rows)?;
        metadata.insert(
            "merged_lora_rows".to_owned(),
            rows.as_str().unwrap_or_default().to_owned(),
        );
    }
    Ok(checkpoint::write(out, state, &metadata)?)
}
