//! What of a checkpoint fits a network.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use nets::adapter::AdapterConfig;
use nets::image_encoder_vit::WindowPadding;
use nets::lora::LoraConfig;
use nets::params::{self, Params};
use nets::sam::{Sam, SamConfig};

use super::describe::Description;
use crate::config::Encoder;
use crate::model::{encoder_config, fit_mask_tokens};
use crate::run_folder::State;

/// More are counted, not named.
const NAMES_MAX: usize = 12;
/// A class is one byte of a label map.
const CLASSES_MAX: usize = 256;

pub(super) struct Fit {
    /// The network.
    title: String,
    loaded: usize,
    /// Rows of the file's mask tokens and of the network's, where some are left.
    cut_tokens: Option<[usize; 2]>,
    random: Groups,
    /// With both shapes.
    other_shape: Groups,
    unused: Groups,
}

/// Tensors under what they have in common.
type Groups = BTreeMap<String, Vec<String>>;

/// Builds the network of `encoder` with the file's LoRA and adapters from `state`.
pub(super) fn fit(
    state: State,
    description: &Description,
    encoder: Encoder,
    num_cls: usize,
) -> Result<Fit> {
    ensure!(
        num_cls <= CLASSES_MAX,
        "it has {num_cls} classes, a label map at most {CLASSES_MAX}: choose with --num-cls"
    );
    // The order of padding has no tensors.
    let network = encoder_config(encoder, encoder.own_size(), WindowPadding::AfterNorm);
    let n_layers = network.tunable_layers();
    let there = |layers: &[usize]| -> Vec<usize> {
        layers.iter().copied().filter(|&it| it < n_layers).collect()
    };
    let config = SamConfig {
        encoder: network,
        num_cls,
        lora: description.lora.as_ref().map(|it| LoraConfig {
            encoder_layers: there(&it.encoder_layers),
            ..it.clone()
        }),
        adapter: description.adapter.as_ref().map(|it| AdapterConfig {
            encoder_layers: there(&it.encoder_layers),
            ..it.clone()
        }),
    };
    let tokens = state
        .get("mask_decoder.mask_tokens.weight")
        .and_then(|it| it.dims().first().copied());
    let state = fit_mask_tokens(state, num_cls)?;
    let params = Params::survey(state.clone());
    Sam::new(&config, &params)?;
    let loaded = params.finish();
    let built = loaded.state_dict()?;
    let mut fit = Fit {
        title: format!("{} with {num_cls} classes", encoder.name()),
        loaded: loaded.report.loaded.len(),
        cut_tokens: tokens
            .filter(|&it| it > num_cls + 1)
            .map(|it| [it, num_cls + 1]),
        random: Groups::new(),
        other_shape: Groups::new(),
        unused: Groups::new(),
    };
    for name in &loaded.report.random {
        let in_file = state
            .get(name)
            .or_else(|| state.get(&params::plain_name(name)));
        match (in_file, built.get(name)) {
            (Some(tensor), Some(network)) => {
                let shapes = format!(
                    "{name} {:?} in the file, {:?} here",
                    tensor.dims(),
                    network.dims()
                );
                fit.other_shape.entry(part(name)).or_default().push(shapes);
            }
            _ => fit.random.entry(part(name)).or_default().push(name.clone()),
        }
    }
    for name in loaded.report.unused {
        fit.unused
            .entry(unused_because(&name, num_cls))
            .or_default()
            .push(name);
    }
    Ok(fit)
}

fn part(name: &str) -> String {
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The part, or why it is right that nothing takes the tensor.
fn unused_because(name: &str, num_cls: usize) -> String {
    let head = name
        .strip_prefix("mask_decoder.output_hypernetworks_mlps.")
        .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    if name.contains(".Depth_Adapter.") {
        "finetune-SAM's Depth_Adapter, unused on purpose: it is for volumes and never trained on slices"
            .to_owned()
    } else if name.starts_with("image_encoder.head.")
        || name.starts_with("image_encoder.norm_head.")
    {
        "TinyViT's classifier, unused on purpose: SAM takes the features before it".to_owned()
    } else if head.is_some_and(|head| head > num_cls) {
        format!("heads beyond {num_cls} classes")
    } else {
        part(name)
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "as {}:\n  {} tensors fit", self.title, self.loaded)?;
        if let Some([rows, taken]) = self.cut_tokens {
            write!(f, ", of {rows} mask tokens the first {taken}")?;
        }
        for (groups, what) in [
            (&self.random, "would start random"),
            (
                &self.other_shape,
                "have another shape and would start random",
            ),
            (&self.unused, "are unused"),
        ] {
            let count: usize = groups.values().map(Vec::len).sum();
            write!(f, "\n  {count} {what}")?;
            for (group, names) in groups {
                write!(f, "\n    {group} ({}):", names.len())?;
                for name in names.iter().take(NAMES_MAX) {
                    write!(f, "\n      {name}")?;
                }
                if names.len() > NAMES_MAX {
                    write!(f, "\n      and {} more", names.len() - NAMES_MAX)?;
                }
            }
        }
        Ok(())
    }
}
