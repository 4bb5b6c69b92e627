//! The views of the training images, and what the teacher makes of them.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use nets::Mode;
use nets::mask_decoder::Tokens;
use nets::prompt_encoder::Prompts;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::augment::{Frame, augment};
use crate::config::Config;
use crate::dataset::Dataset;
use crate::model::{Model, resized};
use crate::output_cache::{Key, OutputCache};
use crate::report::Progress;
use crate::train::INTERRUPTED;

/// Every training image as it is (view 0) and augmented (the others), by index.
pub(super) struct Views<'a> {
    pub(super) config: &'a Config,
    pub(super) frames: &'a [Frame],
}

impl Views<'_> {
    pub(super) fn len(&self) -> usize {
        self.frames.len() * self.config.distill.views
    }

    /// A function of (seed, index) alone, so the cached teacher outputs belong to it.
    fn frame(&self, index: usize) -> Frame {
        let frame = &self.frames[index / self.config.distill.views];
        let as_it_is = index.is_multiple_of(self.config.distill.views);
        if as_it_is || !self.config.augmentation.enabled {
            return frame.clone();
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        rng.set_stream(1 + index as u64);
        augment(frame, &self.config.augmentation, &mut rng)
    }

    pub(super) fn images(&self, indices: &[usize]) -> Result<(Tensor, Tensor)> {
        let size = self.config.input.size;
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for &index in indices {
            let frame = self.frame(index);
            pixels.extend(frame.pixels);
            labels.extend(frame.labels.data.iter().map(|&label| u32::from(label)));
        }
        let n = indices.len();
        Ok((
            Tensor::from_vec(pixels, (n, 3, size, size), &Device::Cpu)?,
            Tensor::from_vec(labels, (n, size, size), &Device::Cpu)?,
        ))
    }

    /// Teacher embedding, averaged to the student's grid, and logits at the input size, of every view.
    /// `None` after Ctrl-C: what is done stays.
    pub(super) fn teacher_cache(
        &self,
        run: &Path,
        teacher: &Model,
        teacher_digest: String,
        dataset: &Dataset,
    ) -> Result<Option<OutputCache>> {
        let size = self.config.input.size;
        let grid = size / 16;
        let preparation = serde_json::to_string(&(self.config.input, &self.config.augmentation))?;
        let key = Key {
            weights_digest: teacher_digest,
            data_fingerprint: dataset.fingerprint.clone(),
            preparation_digest: hex::encode(Sha256::digest(preparation)),
            seed: self.config.seed,
            n_records: self.len(),
            embedding: [256, grid, grid],
            logits: [self.config.num_cls(), size, size],
        };
        let progress = Progress::images("teacher outputs", self.len() as u64);
        let output = |index: usize| {
            let (image, _) = self.images(&[index])?;
            let image = resized(&image, teacher.input.size)?;
            let embedding = teacher
                .sam
                .embed_without_gradient(&teacher.here(&image)?, Mode::Eval)?;
            let decoded = teacher
                .sam
                .decode(&embedding, Prompts::default(), Tokens::Classes)?;
            Ok((averaged(&embedding, grid)?, resized(&decoded.masks, size)?))
        };
        let mut stopped = false;
        let cache = OutputCache::fill(&run.join("teacher"), key, output, |done| {
            progress.images_done(done as u64);
            stopped = INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed);
            ensure!(!stopped, "interrupted");
            Ok(())
        });
        if stopped { Ok(None) } else { cache.map(Some) }
    }
}

/// (1, C, g, g) to (1, C, side, side): each cell the mean of what it covers, in parts too (64 to 24 at 384 px).
fn averaged(embedding: &Tensor, side: usize) -> Result<Tensor> {
    let (_, _, _, own) = embedding.dims4()?;
    if own <= side {
        return resized(embedding, side);
    }
    let step = own as f64 / side as f64;
    let covers: Vec<f32> = (0..side * own)
        .map(|i| {
            let (cell, column) = ((i / own) as f64, (i % own) as f64);
            let overlap = ((cell + 1.0) * step).min(column + 1.0) - (cell * step).max(column);
            (overlap.max(0.0) / step) as f32
        })
        .collect();
    let rows = Tensor::from_vec(covers, (side, own), embedding.device())?;
    let columns = rows.t()?.contiguous()?;
    Ok(rows
        .broadcast_matmul(&embedding.broadcast_matmul(&columns)?)?
        .contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_the_mean_of_what_it_covers() {
        // Rows of 0, 1, 2 to two: (0 + 0.5) / 1.5 and (0.5 + 2) / 1.5.
        let ramp = Tensor::arange(0f32, 3.0, &Device::Cpu).unwrap();
        let map = ramp
            .reshape((1, 1, 1, 3))
            .unwrap()
            .broadcast_as((1, 1, 3, 3));
        let found = averaged(&map.unwrap(), 2).unwrap().squeeze(0).unwrap();
        let rows = found.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        for row in rows {
            assert!((row[0] - 1.0 / 3.0).abs() < 1e-6 && (row[1] - 5.0 / 3.0).abs() < 1e-6);
        }
        let whole = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap();
        let whole = whole.reshape((1, 1, 4, 4)).unwrap();
        let difference = (averaged(&whole, 2).unwrap() - whole.avg_pool2d(2).unwrap()).unwrap();
        assert!(
            difference
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                < 1e-6
        );
    }
}
