//! Embeddings of a frozen encoder, computed once: with nothing but the decoder training and no augmentation they are
//! the same in every epoch.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use nets::Mode;
use nets::mask_decoder::Tokens;
use nets::prompt_encoder::Prompts;
use sha2::{Digest, Sha256};

use crate::augment::Frame;
use crate::batch::frame;
use crate::config::{Config, Scope};
use crate::dataset::Sample;
use crate::evaluate::evaluate;
use crate::model::{Model, to_logits};
use crate::output_cache::{Key, OutputCache};
use crate::report::Progress;
use crate::run_folder::Identity;
use crate::train::INTERRUPTED;

pub(super) struct Embeddings {
    cache: OutputCache,
    n_training: usize,
}

/// What the embeddings are computed from.
pub(super) struct Inputs<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: &'a Identity,
    pub(super) model: &'a Model,
    pub(super) training: &'a [Frame],
    pub(super) validation: &'a [Sample],
}

impl Embeddings {
    /// Whether they stay the same. In strict mode batch normalization moves, frozen or not.
    pub(super) fn are_fixed(config: &Config) -> bool {
        config.finetune.scope == Scope::Decoder
            && !config.augmentation.enabled
            && !config.strict_reference
    }

    /// Reads or computes those of training and validation images. `None` after Ctrl-C: what is done stays.
    pub(super) fn fill(run: &Path, of: &Inputs<'_>) -> Result<Option<Self>> {
        let Inputs {
            config,
            identity,
            model,
            training,
            validation,
        } = *of;
        let encoder = &model.config.encoder;
        let side = encoder.embedding_size();
        let depends_on = serde_json::to_string(&(config.input, encoder))?;
        let n_records = training.len() + validation.len();
        let key = Key {
            weights_digest: identity.start_digest.clone(),
            data_fingerprint: identity.data_fingerprint.clone(),
            preparation_digest: hex::encode(Sha256::digest(depends_on)),
            seed: config.seed,
            n_records,
            embedding: [encoder.out_chans(), side, side],
            logits: [0; 3],
        };
        let progress = Progress::images("embeddings", n_records as u64);
        let embed = |index: usize| {
            let prepared;
            let frame = if index < training.len() {
                &training[index]
            } else {
                prepared = frame(&validation[index - training.len()], &model.input);
                &prepared
            };
            let shape = (1, 3, frame.size, frame.size);
            let image = Tensor::from_slice(&frame.pixels, shape, &Device::Cpu)?;
            let embedding = model
                .sam
                .embed_without_gradient(&model.here(&image)?, Mode::Eval)?;
            Ok((
                embedding,
                Tensor::zeros(0, candle_core::DType::F32, &Device::Cpu)?,
            ))
        };
        let mut stopped = false;
        let cache = OutputCache::fill(&run.join("embeddings"), key, embed, |done| {
            progress.images_done(done as u64);
            stopped = INTERRUPTED.load(Ordering::Relaxed);
            ensure!(!stopped, "interrupted");
            Ok(())
        });
        if stopped {
            return Ok(None);
        }
        Ok(Some(Self {
            cache: cache?,
            n_training: training.len(),
        }))
    }

    /// Class logits at the decoder's size of training images.
    pub(super) fn low_res_logits(&self, model: &Model, indices: &[usize]) -> Result<Tensor> {
        let (embedding, _) = self.cache.batch(indices)?;
        let decoded = model.sam.decode(
            &model.here(&embedding)?,
            Prompts::default(),
            Tokens::Classes,
        )?;
        Ok(decoded.masks)
    }

    /// Mean foreground Dice at native size.
    pub(super) fn validation_dice(&self, model: &Model, samples: &[Sample]) -> Result<f64> {
        let mut index = self.n_training;
        let report = evaluate(samples, model.config.num_cls, |sample| {
            let logits = self.low_res_logits(model, &[index])?;
            index += 1;
            let placement = model.input.placement(sample.image.rows, sample.image.cols);
            Ok(placement.labels_from_logits(&to_logits(&logits)?))
        })?;
        Ok(report.mean_foreground_dice)
    }
}
