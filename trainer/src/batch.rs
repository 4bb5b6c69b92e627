//! Frames in memory, and epochs of shuffled, augmented batches prepared ahead on one thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{Device, Tensor};
use contract::Image;
use contract::geometry::InputRules;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::augment::{self, Changes, Frame};
use crate::dataset::{Dataset, Entry, LabelRule, Sample};
use crate::train::Share;

/// Batches that wait for the training step.
pub(crate) const AHEAD: usize = 2;

#[derive(Debug)]
pub struct Batch {
    /// (B, 3, S, S) f32.
    pub images: Tensor,
    /// (B, S, S) u32.
    pub labels: Tensor,
    pub names: Vec<String>,
    /// Places in [`Loader::frames`].
    pub indices: Vec<usize>,
}

#[derive(Debug, Clone)]
pub struct LoaderOptions {
    pub input: InputRules,
    pub labels: LabelRule,
    pub augmentation: Option<Changes>,
    pub batch: usize,
    pub seed: u64,
    pub shuffle: bool,
}

#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
}

/// What the preparing thread reads.
#[derive(Debug)]
struct Shared {
    frames: Vec<Frame>,
    /// 8-bit values of the frames, where the reference's augmentations change them.
    scaled: Vec<Image>,
    names: Vec<String>,
    options: LoaderOptions,
}

impl Loader {
    /// Decodes and prepares all images once; they stay in memory.
    pub fn new(dataset: &Dataset, entries: &[&Entry], options: LoaderOptions) -> Result<Self> {
        ensure!(
            !entries.is_empty(),
            "there are no images to load: is the split empty?"
        );
        ensure!(options.batch > 0, "batch is 0: it must be at least 1");
        let samples: Vec<Sample> = entries
            .iter()
            .map(|entry| dataset.load(entry, &options.labels))
            .collect::<Result<_>>()?;
        // A wrong label rule would otherwise train a network that finds nothing.
        ensure!(
            samples
                .iter()
                .any(|sample| sample.labels.data.iter().any(|&label| label > 0)),
            "no image has a foreground pixel with data.target = {}: the label files hold the grey values {:?}, \
             choose among these",
            options.labels,
            dataset.classes
        );
        let frames = samples
            .iter()
            .map(|sample| frame(sample, &options.input))
            .collect();
        let mut scaled = Vec::new();
        if let Some(Changes::Reference) = options.augmentation {
            let images = samples.iter().map(|sample| &sample.image);
            scaled.extend(images.map(|image| options.input.scaled(image).0));
        }
        let names = samples.iter().map(|sample| sample.name.clone()).collect();
        Ok(Self {
            shared: Arc::new(Shared {
                frames,
                scaled,
                names,
                options,
            }),
        })
    }

    /// One frame an entry, as given, not augmented.
    pub fn frames(&self) -> &[Frame] {
        &self.shared.frames
    }

    /// Batches of one epoch; the last one may be smaller.
    pub fn n_batches(&self) -> usize {
        self.shared.frames.len().div_ceil(self.shared.options.batch)
    }

    /// Batches of an epoch, a function of seed, epoch and options alone. Those that are not in `share` are
    /// not prepared.
    pub fn epoch(&self, epoch: u64, share: Share) -> impl Iterator<Item = Result<Batch>> + use<> {
        let (sender, receiver) = sync_channel(AHEAD);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("batches".into())
            .spawn(move || shared.send_epoch(epoch, share, &sender));
        let n_left = self.n_batches().saturating_sub(share.first);
        let n_left = n_left.div_ceil(share.every);
        match thread {
            Ok(thread) => Batches {
                receiver: Some(receiver),
                thread: Some(thread),
                n_left,
            },
            // The first `next` reports it.
            Err(_) => Batches {
                receiver: None,
                thread: None,
                n_left,
            },
        }
    }
}

/// A sample as the network sees it.
pub(crate) fn frame(sample: &Sample, input: &InputRules) -> Frame {
    let (pixels, placement) = input.prepare(&sample.image);
    let labels = placement.labels_to_frame(&sample.labels, input.size);
    Frame {
        size: input.size,
        pixels,
        labels,
        placement,
    }
}

impl Shared {
    fn send_epoch(&self, epoch: u64, share: Share, sender: &SyncSender<Result<Batch>>) {
        let order = self.order(epoch);
        let batches = order.chunks(self.options.batch);
        for indices in batches.skip(share.first).step_by(share.every) {
            if sender.send(self.batch(epoch, indices)).is_err() {
                return;
            }
        }
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.frames.len()).collect();
        if self.options.shuffle {
            order.shuffle(&mut self.stream(epoch, 0));
        }
        order
    }

    fn batch(&self, epoch: u64, indices: &[usize]) -> Result<Batch> {
        let size = self.options.input.size;
        let mut pixels = Vec::with_capacity(indices.len() * 3 * size * size);
        let mut labels = Vec::with_capacity(indices.len() * size * size);
        for &index in indices {
            let frame = &self.frames[index];
            let rng = &mut self.stream(epoch, index as u64 + 1);
            let changed = self.options.augmentation.as_ref().map(|it| match it {
                Changes::Own(rule) => augment::augment(frame, rule, rng),
                Changes::Reference => {
                    let scaled = &self.scaled[index];
                    augment::reference::augment(scaled, frame, &self.options.input, rng)
                }
            });
            let frame = changed.as_ref().unwrap_or(frame);
            pixels.extend_from_slice(&frame.pixels);
            labels.extend(frame.labels.data.iter().map(|&label| u32::from(label)));
        }
        let n = indices.len();
        Ok(Batch {
            images: Tensor::from_vec(pixels, (n, 3, size, size), &Device::Cpu)?,
            labels: Tensor::from_vec(labels, (n, size, size), &Device::Cpu)?,
            names: indices
                .iter()
                .map(|&index| self.names[index].clone())
                .collect(),
            indices: indices.to_vec(),
        })
    }

    /// Each image of each epoch has random numbers of its own, so none depends on those before it.
    fn stream(&self, epoch: u64, place: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream((epoch << 32) | place);
        rng
    }
}

/// Receives from the preparing thread; dropping it ends the thread.
struct Batches {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    n_left: usize,
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.n_left = self.n_left.checked_sub(1)?;
        let Some(receiver) = &self.receiver else {
            return Some(Err(anyhow!(
                "cannot start the thread that prepares batches"
            )));
        };
        // An epoch that ends early would go unnoticed in the loss.
        let batch = receiver
            .recv()
            .context("the thread that prepares batches died");
        Some(batch.flatten())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.n_left, Some(self.n_left))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that prepares batches panicked");
        }
    }
}

#[cfg(test)]
mod tests;
