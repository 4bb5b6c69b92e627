//! The candidate of a slot on the images that the active model has done: how far would the masks differ?
//!
//! A thread of the lowest priority, which gets an image after its result is in the outbox and works while
//! no image is in hand. So a result waits for nothing, and at most one frame is under way beside it. What
//! the queue has no room for is not compared and counted as skipped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use std::{io, thread};

use contract::manifest::Class as Meaning;
use contract::mask::Overlap;
use contract::{Image, LabelMap};
use segmenter::Segmenter;
use segmenter::infer::alone;

use super::{Models, Problem, Version};
use crate::failure::chain;
use crate::report::model::{ClassDice, Comparison};
use crate::status::Status;

/// An image and the masks of the active model.
pub struct ShadowInput {
    pub slot: usize,
    /// Of the active model, which may have been replaced since.
    pub digest: String,
    pub frames: Vec<Image>,
    pub labels: Vec<LabelMap>,
}

/// Sends images to the thread.
pub struct Shadow {
    inputs: SyncSender<ShadowInput>,
    models: Arc<Models>,
}

impl Shadow {
    pub fn start(
        models: Arc<Models>,
        status: Arc<Status>,
        queue_max_images: usize,
    ) -> io::Result<Self> {
        let (inputs, queue) = sync_channel(queue_max_images);
        let own = Arc::clone(&models);
        thread::Builder::new()
            .name("shadow".to_owned())
            .spawn(move || alone(|| work(&own, &status, &queue)))?;
        Ok(Self { inputs, models })
    }

    pub fn enqueue(&self, shadow_input: ShadowInput) {
        let slot = shadow_input.slot;
        if let Err(TrySendError::Full(_)) = self.inputs.try_send(shadow_input) {
            self.models.slots[slot].lock().figures.skipped += 1;
        }
    }
}

/// Lowest there is: about a seventieth of a core that something else wants.
const NICE: i32 = 19;

fn work(models: &Models, status: &Status, queue: &Receiver<ShadowInput>) {
    // Linux has a priority for each thread; 0 is the one that asks.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "the shadow run has the priority of everything else");
    }
    let mut loaded: Vec<Option<(Version, Option<Segmenter>)>> = Vec::new();
    loaded.resize_with(models.slots.len(), || None);
    while let Ok(shadow_input) = queue.recv() {
        let slot = shadow_input.slot;
        let Some(version) = models.candidate(slot) else {
            loaded[slot] = None;
            continue;
        };
        if loaded[slot]
            .as_ref()
            .is_none_or(|(known, _)| *known != version)
        {
            let opened = models.store.open(&models.slots[slot].name, &version);
            if let Err(error) = &opened {
                let words = chain(error);
                tracing::warn!(
                    slot = models.slots[slot].name,
                    error = words,
                    "the candidate does not open, nothing is compared"
                );
                models.slots[slot].lock().problem = Some(Problem::new(words));
                models.bump_revision();
            }
            loaded[slot] = Some((version.clone(), opened.ok()));
        }
        let Some((_, Some(candidate))) = &loaded[slot] else {
            continue;
        };
        // Nothing is shared with the closure that could be left half changed.
        let compared = catch_unwind(AssertUnwindSafe(|| {
            compare(candidate, &shadow_input, status)
        }));
        let mut state = models.slots[slot].lock();
        let current = state.serving.model.digest == shadow_input.digest;
        if current && state.candidate.as_ref() == Some(&version) {
            let active = Arc::clone(&state.serving);
            match compared {
                Ok(Some(overlaps)) => state.figures.count(&active.segmenter, candidate, &overlaps),
                _ => state.figures.failed += 1,
            }
        }
    }
}

/// Between two images of a busy queue the thread has none in hand either, for a moment.
fn wait_until_idle(status: &Status) {
    const IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(10);
    const IDLE_CHECKS: u32 = 3;
    let mut n_idle = 0;
    while n_idle < IDLE_CHECKS {
        thread::sleep(IDLE_CHECK_INTERVAL);
        n_idle = if status.is_idle() { n_idle + 1 } else { 0 };
    }
}

/// Pixels of each of the candidate's classes in both, over all frames; none when it could not.
fn compare(
    candidate: &Segmenter,
    shadow_input: &ShadowInput,
    status: &Status,
) -> Option<Vec<(u8, Overlap)>> {
    let classes = candidate.manifest().classes.iter().map(|class| class.id);
    let mut overlaps: Vec<_> = classes.map(|class| (class, Overlap::default())).collect();
    for (frame, labels) in shadow_input.frames.iter().zip(&shadow_input.labels) {
        wait_until_idle(status);
        let (found, _) = candidate.segment(frame).ok()?;
        for (class, sum) in &mut overlaps {
            let overlap = Overlap::of(&found, labels, *class);
            sum.intersection += overlap.intersection;
            sum.predicted += overlap.predicted;
            sum.truth += overlap.truth;
        }
    }
    Some(overlaps)
}

/// Figures since the active model or the candidate changed.
#[derive(Debug, Clone, Default)]
pub(super) struct ComparisonFigures {
    images: u64,
    pub(super) skipped: u64,
    failed: u64,
    /// Of each class label that both have.
    dice: Vec<Class>,
}

#[derive(Debug, Clone)]
struct Class {
    label: String,
    /// Images in which one of the two found it.
    images: u64,
    sum: f64,
    least: f64,
}

impl ComparisonFigures {
    fn count(&mut self, active: &Segmenter, candidate: &Segmenter, overlaps: &[(u8, Overlap)]) {
        self.images += 1;
        let labels = &candidate.manifest().classes;
        for (class, (_, overlap)) in labels.iter().zip(overlaps) {
            // The same id has to mean the same thing.
            let same = |other: &Meaning| other.id == class.id && other.label == class.label;
            let shared = active.manifest().classes.iter().any(same);
            let Some(dice) = overlap.dice().filter(|_| shared) else {
                continue;
            };
            let known = self
                .dice
                .iter_mut()
                .find(|known| known.label == class.label);
            if let Some(known) = known {
                known.images += 1;
                known.sum += dice;
                known.least = known.least.min(dice);
            } else {
                self.dice.push(Class {
                    label: class.label.clone(),
                    images: 1,
                    sum: dice,
                    least: dice,
                });
            }
        }
    }

    pub(super) fn report(&self, candidate: &Version) -> Comparison {
        let round = |dice: f64| (dice * 1e4).round() / 1e4;
        let dice = |class: &Class| ClassDice {
            label: class.label.clone(),
            images: class.images,
            mean: round(class.sum / class.images as f64),
            least: round(class.least),
        };
        Comparison {
            digest: candidate.digest.clone(),
            images: self.images,
            skipped: self.skipped,
            failed: self.failed,
            dice: self.dice.iter().map(dice).collect(),
        }
    }
}
