//! Which bundle serves in each slot. The inference thread takes what serves anew for each image, so a
//! swap falls between two images and holds up none; an image that is under way keeps the old one
//! until it is done.

mod change;
mod error;
mod record;
mod shadow;
mod store;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segmenter::Segmenter;
use segmenter::infer::{half_precision, set_threads};

use crate::clock;
use crate::config::{self, Config};
use crate::failure::chain;
use crate::report::Model;
use crate::report::encode::object;
use crate::report::model::{self, Problem, SlotModel};

pub use change::{Change, Reply, SlotView, perform};
pub use error::ModelsError;
pub use record::{Deployment, HighestCounter, Record, Version};
pub use shadow::{Shadow, ShadowInput};
pub use store::Store;

use shadow::ComparisonFigures;

/// A loaded bundle, and the model as messages name it.
pub struct Serving {
    pub segmenter: Segmenter,
    pub model: Model,
}

impl Serving {
    fn new(segmenter: Segmenter) -> Arc<Self> {
        let model = (&segmenter).into();
        Arc::new(Self { segmenter, model })
    }
}

/// Everything that serves, by the number of its slot: that of `[model]` is 0.
pub struct Models {
    pub store: Store,
    slots: Vec<Slot>,
    compares_candidates: bool,
    /// Grows when there is something to publish.
    revision: AtomicU64,
}

struct Slot {
    name: String,
    /// Below the node's root.
    topic: &'static str,
    state: Mutex<State>,
}

struct State {
    serving: Arc<Serving>,
    /// What served before, since the start: a rollback need not load it.
    before: Option<Arc<Serving>>,
    record: Record,
    candidate: Option<Version>,
    problem: Option<Problem>,
    /// The record's version does not open; what served before does its work.
    fell_back: bool,
    figures: ComparisonFigures,
}

impl Problem {
    fn new(words: String) -> Self {
        Self {
            at: clock::now(),
            words,
        }
    }
}

/// Sets the number of threads that multiply, for all models; one thread does where they cannot be started.
pub(crate) fn use_threads(threads: usize) {
    match set_threads(threads) {
        Ok(threads) => tracing::debug!(threads, "threads that multiply"),
        Err(error) => tracing::warn!(%error, threads, "threads cannot be started; one multiplies"),
    }
}

/// Logs whether this CPU has half precision, where it is asked for.
pub(crate) fn log_half_precision(wanted: bool) {
    match half_precision() {
        _ if !wanted => {}
        Some(format) => tracing::info!(format, "layers in f32 multiply in half precision"),
        None => tracing::warn!("this CPU has no instructions for half precision: f32 it is"),
    }
}

impl Models {
    /// Opens what serves in each slot. Blocking, for as long as the golden pairs take.
    pub fn open(config: &Config) -> Result<Self, ModelsError> {
        use_threads(config.models.threads);
        log_half_precision(config.models.half_precision);
        let store = Store::new(config);
        let mut slots = Vec::new();
        for name in store.slots() {
            let state = State::open(&store, name)?;
            slots.push(Slot {
                name: name.to_owned(),
                // As many as the configuration names, once in a process.
                topic: Box::leak(format!("model/{name}").into_boxed_str()),
                state: Mutex::new(state),
            });
        }
        Ok(Self {
            store,
            slots,
            compares_candidates: config.models.shadow == config::Shadow::Candidate,
            revision: AtomicU64::new(1),
        })
    }

    /// Has no slots; for tests that need none.
    #[cfg(test)]
    pub(crate) fn none(config: &Config) -> Self {
        Self {
            store: Store::new(config),
            slots: Vec::new(),
            compares_candidates: false,
            revision: AtomicU64::new(1),
        }
    }

    /// Reads the disk again once the outbox is open and no other process writes: a command may have changed what
    /// serves since `open`, and what it left is cleared away.
    pub fn take_over(&self) -> Result<(), ModelsError> {
        for slot in &self.slots {
            self.store.recover(&slot.name)?;
            let mut state = slot.lock();
            if self.store.record(&slot.name)? != state.record {
                *state = State::open(&self.store, &slot.name)?;
            }
            state.record_configured(&self.store, &slot.name)?;
            let digest = &state.serving.model.digest;
            tracing::info!(
                slot = slot.name,
                model = state.serving.model.name,
                version = state.serving.model.version,
                digest,
                "model serves"
            );
        }
        Ok(())
    }

    /// What serves now; taken once for each image.
    pub fn serving(&self, slot: usize) -> Arc<Serving> {
        Arc::clone(&self.slots[slot].lock().serving)
    }

    /// The candidate of a slot and what serves there, where images are compared.
    fn candidate(&self, slot: usize) -> Option<Version> {
        let wanted = self
            .compares_candidates
            .then(|| self.slots[slot].lock().candidate.clone());
        wanted.flatten()
    }

    /// Whether this slot has a candidate to compare with.
    pub fn has_candidate(&self, slot: usize) -> bool {
        self.candidate(slot).is_some()
    }

    fn find(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.name == name)
    }

    /// From the next image on another model serves this slot.
    fn serve(&self, slot: &str, next: Arc<Serving>) {
        if let Some(slot) = self.find(slot) {
            let mut state = slot.lock();
            state.before = Some(std::mem::replace(&mut state.serving, next));
            state.fell_back = false;
            state.figures = ComparisonFigures::default();
        }
    }

    /// What served before, if it is still loaded and this version.
    fn before(&self, slot: &str, version: &Version) -> Option<Arc<Serving>> {
        let before = self.find(slot)?.lock().before.clone();
        before.filter(|before| before.model.digest == version.digest)
    }

    /// After a command: what is on the disk now, and what went wrong.
    fn changed(&self, slot: &str, error: Option<&ModelsError>) {
        let Some(slot) = self.find(slot) else { return };
        let mut state = slot.lock();
        match error {
            Some(error) if error.is_of_the_command() => {}
            Some(error) => state.problem = Some(Problem::new(chain(error))),
            None if !state.fell_back => state.problem = None,
            None => {}
        }
        if let Ok(record) = self.store.record(&slot.name) {
            let candidate = self
                .store
                .candidate(&slot.name, &record)
                .unwrap_or_default();
            if candidate != state.candidate {
                state.figures = ComparisonFigures::default();
            }
            state.candidate = candidate;
            state.record = record;
        }
        drop(state);
        self.bump_revision();
    }

    pub fn problem(&self, slot: &str) -> Option<String> {
        let state = self.find(slot)?.lock();
        state.problem.as_ref().map(|problem| problem.words.clone())
    }

    fn bump_revision(&self) {
        self.revision.fetch_add(1, Ordering::Relaxed);
    }

    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Whether a slot serves an older version because its own does not open.
    pub fn fell_back(&self) -> bool {
        self.slots.iter().any(|slot| slot.lock().fell_back)
    }

    fn slot_fell_back(&self, slot: &str) -> bool {
        self.find(slot).is_some_and(|slot| slot.lock().fell_back)
    }

    /// Whether there are figures that change with every image.
    pub fn has_shadow_figures(&self) -> bool {
        self.compares_candidates
    }

    /// Digest of what serves, by slot.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let models = self.serving_models().into_iter();
        models.map(|(slot, model)| (slot, model.digest)).collect()
    }

    /// What serves, by slot.
    pub fn serving_models(&self) -> BTreeMap<String, Model> {
        let model = |slot: &Slot| (slot.name.clone(), slot.lock().serving.model.clone());
        self.slots.iter().map(model).collect()
    }

    /// Topic and payload of the retained message of each slot.
    pub fn messages(&self) -> Vec<(&'static str, Vec<u8>)> {
        let message = |slot: &Slot| {
            let report = slot.lock().report(&slot.name, self.compares_candidates);
            (slot.topic, object(&report).to_string().into_bytes())
        };
        self.slots.iter().map(message).collect()
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(store: &Store, slot: &str) -> Result<Self, ModelsError> {
        let record = store.record(slot)?;
        let mut problem = None;
        let opened = match &record.active {
            Some(active) if !active.version.configured => store.open(slot, &active.version),
            _ => store.open_configured(slot),
        };
        let segmenter = match (opened, record.fallback()) {
            (Ok(segmenter), _) => segmenter,
            (Err(error), None) => return Err(error),
            (Err(error), Some(previous)) => {
                let words = chain(&error);
                tracing::error!(slot, error = words, version = %previous,
                    "the model that should serve does not open, the one before it serves");
                problem = Some(Problem::new(words));
                store.open(slot, previous)?
            }
        };
        Ok(Self {
            serving: Serving::new(segmenter),
            before: None,
            candidate: store.candidate(slot, &record)?,
            record,
            fell_back: problem.is_some(),
            problem,
            figures: ComparisonFigures::default(),
        })
    }

    /// Puts a configured bundle that came without a command into the record.
    fn record_configured(&mut self, store: &Store, slot: &str) -> Result<(), ModelsError> {
        let active = self.record.active.as_ref().map(|stand| &stand.version);
        if active.is_some_and(|version| !version.configured) {
            return Ok(());
        }
        let version = Store::configured_version(&self.serving.segmenter);
        if active == Some(&version) {
            return Ok(());
        }
        // A user who may put an unsigned bundle there may put an older one there as well.
        if store.asks_for_signatures() {
            self.record.check(slot, &version)?;
        }
        self.record.raise(&version);
        self.record.active = Some(Deployment::now(version));
        store.write_record(slot, &self.record)?;
        self.candidate = store.candidate(slot, &self.record)?;
        Ok(())
    }

    fn report(&self, slot: &str, compares_candidates: bool) -> SlotModel {
        let serving = &self.serving.model;
        let active = self.record.active.as_ref();
        let active = active.filter(|stand| stand.version.digest == serving.digest);
        let stand = active.or(self.record.previous.as_ref());
        let candidate = self.candidate.as_ref();
        let shadow = candidate
            .filter(|_| compares_candidates)
            .map(|candidate| self.figures.report(candidate));
        SlotModel {
            schema: model::SCHEMA,
            slot: slot.to_owned(),
            name: serving.name.clone(),
            version: serving.version.clone(),
            digest: serving.digest.clone(),
            precision: serving.precision,
            half_precision: serving.half_precision.clone(),
            counter: self.serving.segmenter.manifest().counter,
            since: stand.map(|stand| stand.since.clone()),
            configured: stand.is_none_or(|stand| stand.version.configured),
            previous: active.and(self.record.previous.clone()),
            candidate: candidate.cloned(),
            highest_counter: self.record.highest.as_ref().map(|mark| mark.counter),
            fell_back: self.fell_back,
            problem: self.problem.clone(),
            shadow,
        }
    }
}
