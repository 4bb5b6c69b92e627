//! What a checkpoint is, by the names and shapes of its tensors.

use std::collections::BTreeSet;
use std::fmt;

use nets::adapter::AdapterConfig;
use nets::lora::{LoraConfig, LoraRows};

use crate::config::Encoder;
use crate::run_folder::State;

/// Whose encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which {
    Known(Encoder),
    DecoderOnly,
    /// Why it is none of the known ones.
    Unknown(String),
}

pub(super) struct Description {
    pub(super) which: Which,
    pub(super) lora: Option<LoraConfig>,
    pub(super) adapter: Option<AdapterConfig>,
    /// Rows of the decoder's mask tokens: one for a single mask and one a class.
    mask_tokens: Option<usize>,
}

impl Description {
    pub(super) fn of(state: &State) -> Self {
        let mask_tokens = dims(state, "mask_decoder.mask_tokens.weight");
        Self {
            which: which(state),
            lora: lora(state),
            adapter: adapter(state),
            mask_tokens: mask_tokens.and_then(|dims| dims.first().copied()),
        }
    }

    /// Classes, background included; SAM's own three heads where the file has none.
    pub(super) fn num_cls(&self) -> usize {
        self.mask_tokens
            .map_or(3, |rows| rows.saturating_sub(1))
            .max(1)
    }

    /// How it was fine-tuned.
    pub(super) fn method(&self) -> String {
        let mut ways = Vec::new();
        if let Some(lora) = &self.lora {
            let decoder = lora.decoder.then(|| "the decoder".to_owned());
            let places: Vec<String> = layers(&lora.encoder_layers)
                .into_iter()
                .chain(decoder)
                .collect();
            ways.push(format!(
                "LoRA of rank {} in {}",
                lora.rank,
                places.join(" and ")
            ));
        }
        if let Some(adapter) = &self.adapter {
            let depth = adapter.decoder_depth;
            let decoder = (depth > 0).then(|| format!("the decoder's first {depth}"));
            let places: Vec<String> = layers(&adapter.encoder_layers)
                .into_iter()
                .chain(decoder)
                .collect();
            ways.push(format!("adapters in {}", places.join(" and ")));
        }
        if ways.is_empty() {
            return "no LoRA, no adapters: as published, or fine-tuned vanilla".to_owned();
        }
        ways.join("; ")
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let which = match &self.which {
            Which::Known(Encoder::LiteMedsam) => {
                "lite_medsam: TinyViT behind 1 x 1 convolutions, 256 px".to_owned()
            }
            Which::Known(Encoder::VitT) => {
                "vit_t: TinyViT behind two 3 x 3 convolutions, as in MobileSAM".to_owned()
            }
            Which::Known(encoder) => format!("{}: plain ViT, 1024 px", encoder.name()),
            Which::DecoderOnly => "no image encoder, decoder only".to_owned(),
            Which::Unknown(why) => format!("unknown: {why}"),
        };
        writeln!(f, "network     {which}")?;
        writeln!(f, "fine-tuned  {}", self.method())?;
        match self.mask_tokens {
            None => write!(f, "classes     no mask tokens, so no classes"),
            Some(4) => write!(
                f,
                "classes     3: SAM's own heads in a published file, otherwise background and 2 more"
            ),
            Some(rows) => write!(
                f,
                "classes     {}, background included",
                rows.saturating_sub(1)
            ),
        }
    }
}

/// Whether the tensor belongs to an update.
pub(super) fn is_lora(name: &str) -> bool {
    [".linear_a_", ".linear_b_", ".w_a.", ".w_b."]
        .iter()
        .any(|part| name.contains(part))
}

fn dims(state: &State, name: &str) -> Option<Vec<usize>> {
    state.get(name).map(|tensor| tensor.dims().to_vec())
}

fn which(state: &State) -> Which {
    if let Some(kernel) = dims(state, "image_encoder.patch_embed.seq.0.c.weight") {
        let second = state.contains_key("image_encoder.patch_embed.seq.2.c.weight");
        return match (kernel.last(), second) {
            (Some(1), true) => Which::Known(Encoder::LiteMedsam),
            (Some(3), true) => Which::Known(Encoder::VitT),
            (Some(3), false) => Which::Unknown(
                "TinyViT behind one 3 x 3 convolution, as finetune-SAM builds it for 512 px"
                    .to_owned(),
            ),
            _ => Which::Unknown(format!("TinyViT whose first kernel is {kernel:?}")),
        };
    }
    if let Some(embedding) = dims(state, "image_encoder.pos_embed") {
        let blocks: BTreeSet<usize> = state
            .keys()
            .filter(|name| name.starts_with("image_encoder.blocks."))
            .filter_map(|name| encoder_layer(name))
            .collect();
        let channels = embedding.last().copied().unwrap_or(0);
        return match (channels, blocks.len()) {
            (768, 12) => Which::Known(Encoder::VitB),
            (1024, 24) => Which::Known(Encoder::VitL),
            (1280, 32) => Which::Known(Encoder::VitH),
            (channels, depth) => Which::Unknown(format!(
                "a ViT with {channels} channels and {depth} blocks; vit_b has 768 and 12, vit_l 1024 \
                 and 24, vit_h 1280 and 32"
            )),
        };
    }
    if state.keys().any(|name| name.starts_with("image_encoder.")) {
        return Which::Unknown("the image encoder is neither SAM's ViT nor TinyViT".to_owned());
    }
    if state.keys().any(|name| name.starts_with("vision_encoder.")) {
        let why = "Hugging Face's names; fetch the file that the authors of the network published";
        return Which::Unknown(why.to_owned());
    }
    Which::DecoderOnly
}

/// As `finetune.encoder_layers` counts: blocks of a ViT, from 0; `layers.1` of a TinyViT is 0.
fn encoder_layer(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("image_encoder.")?;
    let number = |rest: &str| rest.split('.').next()?.parse::<usize>().ok();
    match rest.strip_prefix("layers.") {
        Some(rest) => number(rest)?.checked_sub(1),
        None => number(rest.strip_prefix("blocks.")?),
    }
}

/// Layers of the encoder with a tensor that `is` one of those looked for.
fn encoder_layers(state: &State, is: impl Fn(&str) -> bool) -> Vec<usize> {
    let found: BTreeSet<usize> = state
        .keys()
        .filter(|name| is(name))
        .filter_map(|name| encoder_layer(name))
        .collect();
    found.into_iter().collect()
}

fn lora(state: &State) -> Option<LoraConfig> {
    // A is (rank, inputs).
    let is_a = |name: &str| name.contains(".linear_a_") || name.contains(".w_a.");
    let (_, a) = state.iter().find(|(name, _)| is_a(name))?;
    Some(LoraConfig {
        rank: a.dims().first().copied().unwrap_or(0),
        encoder_layers: encoder_layers(state, is_lora),
        decoder: state
            .keys()
            .any(|name| name.starts_with("mask_decoder.") && is_lora(name)),
        // Has no influence on names and shapes.
        rows: LoraRows::PerHead,
    })
}

fn adapter(state: &State) -> Option<AdapterConfig> {
    let is_adapter = |name: &str| name.contains("Adapter.");
    state.keys().find(|name| is_adapter(name))?;
    let decoder_depth = state
        .keys()
        .filter(|name| is_adapter(name))
        .filter_map(|name| name.strip_prefix("mask_decoder.transformer.layers."))
        .filter_map(|rest| rest.split('.').next()?.parse::<usize>().ok())
        .map(|layer| layer.saturating_add(1))
        .max();
    Some(AdapterConfig {
        encoder_layers: encoder_layers(state, is_adapter),
        decoder_depth: decoder_depth.unwrap_or(0),
    })
}

fn layers(found: &[usize]) -> Option<String> {
    (!found.is_empty()).then(|| format!("the encoder's {}", numbered(found)))
}

/// `layer 0`, `layers 0 to 2`, `layers 0, 1, 10, 11`; of ascending numbers.
fn numbered(found: &[usize]) -> String {
    match found {
        [one] => format!("layer {one}"),
        [first, .., last] if last - first == found.len() - 1 => format!("layers {first} to {last}"),
        _ => {
            let numbers: Vec<String> = found.iter().map(ToString::to_string).collect();
            format!("layers {}", numbers.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{state, vit};
    use super::*;

    #[test]
    fn every_sam_is_recognized() {
        struct Case {
            state: State,
            words: &'static str,
        }
        let tiny = |kernel| {
            state(&[
                (
                    "image_encoder.patch_embed.seq.0.c.weight",
                    &[32, 3, kernel, kernel],
                ),
                (
                    "image_encoder.patch_embed.seq.2.c.weight",
                    &[64, 32, kernel, kernel],
                ),
            ])
        };
        let one = |name, dims: &'static [usize]| state(&[(name, dims)]);
        for Case { state, words } in [
            Case {
                state: vit(768, 12),
                words: "vit_b: plain ViT",
            },
            Case {
                state: vit(1024, 24),
                words: "vit_l: plain ViT",
            },
            Case {
                state: vit(1280, 32),
                words: "vit_h: plain ViT",
            },
            Case {
                state: vit(768, 11),
                words: "unknown: a ViT with 768 channels and 11 blocks",
            },
            Case {
                state: tiny(3),
                words: "vit_t: TinyViT",
            },
            Case {
                state: tiny(1),
                words: "lite_medsam: TinyViT",
            },
            Case {
                state: tiny(5),
                words: "unknown: TinyViT whose first kernel",
            },
            Case {
                state: one("image_encoder.patch_embed.seq.0.c.weight", &[64, 3, 3, 3]),
                words: "for 512 px",
            },
            Case {
                state: one("image_encoder.trunk.pos_embed", &[1, 144, 7, 7]),
                words: "neither SAM's ViT nor TinyViT",
            },
            Case {
                state: one("mask_decoder.mask_tokens.weight", &[4, 256]),
                words: "no image encoder, decoder only",
            },
        ] {
            let text = Description::of(&state).to_string();
            assert!(text.contains(words), "`{words}` is not in:\n{text}");
        }
    }

    #[test]
    fn fine_tuning_is_told_by_names() {
        let lora = state(&[
            (
                "image_encoder.layers.1.blocks.0.attn.qkv.linear_a_q.weight",
                &[8, 128],
            ),
            (
                "image_encoder.layers.3.blocks.1.attn.qkv.linear_b_v.weight",
                &[320, 8],
            ),
            (
                "mask_decoder.transformer.layers.0.self_attn.q_proj.w_a.weight",
                &[8, 256],
            ),
            ("mask_decoder.mask_tokens.weight", &[3, 256]),
        ]);
        let lora = Description::of(&lora);
        assert_eq!(
            lora.method(),
            "LoRA of rank 8 in the encoder's layers 0, 2 and the decoder"
        );
        assert_eq!(lora.num_cls(), 2);

        let blocks =
            [0, 1, 10, 11].map(|i| format!("image_encoder.blocks.{i}.Space_Adapter.D_fc1.bias"));
        let mut adapter = vit(768, 12);
        adapter.extend(state(
            &blocks
                .each_ref()
                .map(|name| (name.as_str(), [192].as_slice())),
        ));
        adapter.extend(state(&[(
            "mask_decoder.transformer.layers.1.Adapter.D_fc1.bias",
            &[64],
        )]));
        assert_eq!(
            Description::of(&adapter).method(),
            "adapters in the encoder's layers 0, 1, 10, 11 and the decoder's first 2"
        );
    }
}
