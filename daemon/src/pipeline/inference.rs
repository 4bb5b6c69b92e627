//! The thread that segments: one image after the other, from its lease to the rows of its result. While others wait, that
//! commit is also the lease of the next, so a disk that flushes slowly is waited for once an image.

use std::sync::Arc;
use std::thread;

use segmenter::decode::Limits;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::PipelineError;
use crate::failure::Failure;
use crate::models::{Models, Serving, Shadow, ShadowInput};
use crate::outbox::job::{Input, Job, JobNumber, LookupKeys};
use crate::outbox::slices::Slice;
use crate::outbox::{Lease, LeaseRequest, Outbox, ResultRows};
use crate::report::encode::{Encoder, Origin};
use crate::report::privacy::{Key, sop_instance_uid};
use crate::report::{Findings, Report, job_id};
use crate::seg::SegmentedImage;
use crate::segment::decoder::Decoder;
use crate::segment::route::{Router, Target};
use crate::segment::segment;
use crate::spool::quarantine::{self, JobFailure};
use crate::spool::{AcceptError, Spool, name};
use crate::status::Status;

/// Everything the inference thread owns.
pub(super) struct Worker {
    pub(super) outbox: Arc<Outbox>,
    pub(super) spool: Spool,
    pub(super) models: Arc<Models>,
    pub(super) router: Router,
    pub(super) shadow: Option<Shadow>,
    pub(super) limits: Limits,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// Hashes the UIDs under which jobs are found.
    pub(super) key: Key,
    pub(super) status: Arc<Status>,
    pub(super) attempts_max: u32,
    pub(super) fresh: Arc<Notify>,
    /// Whether segmentations of series are made, for which slices are kept.
    pub(super) keeps_slices: bool,
    pub(super) queue: mpsc::Receiver<JobNumber>,
    pub(super) stop: watch::Receiver<bool>,
}

/// A job number and what its lease gave.
type Leased = (JobNumber, Option<Lease>);

pub(super) type Ended = oneshot::Receiver<Result<(), PipelineError>>;

pub(super) fn start(mut worker: Worker) -> Result<Ended, PipelineError> {
    let (done, ended) = oneshot::channel();
    let run = move || {
        let result = worker.run();
        // Another process may open the outbox as soon as it knows that the daemon ended.
        drop(worker);
        // The receiver is gone only when the daemon has ended already.
        let _ = done.send(result);
    };
    thread::Builder::new()
        .name("inference".to_owned())
        .spawn(run)
        .map_err(PipelineError::Thread)?;
    Ok(ended)
}

impl Worker {
    /// Jobs that are still queued when it stops are in the outbox and come back at the next start.
    fn run(&mut self) -> Result<(), PipelineError> {
        while let Some(job_number) = self.queue.blocking_recv() {
            if *self.stop.borrow() {
                break;
            }
            let lease = self
                .outbox
                .lease(job_number, self.encoder.boot, self.attempts_max)
                .map_err(AcceptError::from)?;
            let mut next = Some((job_number, lease));
            // What is leased is worked on: an attempt that counts is one that was made.
            while let Some(leased) = next {
                next = self.work(leased)?;
            }
        }
        Ok(())
    }

    /// Gives the next job if its lease came with the result of this one.
    fn work(&mut self, (job_number, lease): Leased) -> Result<Option<Leased>, PipelineError> {
        match lease {
            None => Ok(None),
            Some(Lease::CrashLoop { attempts }) => {
                let failure = Failure::CrashLoop { attempts };
                // It is found by its bytes alone: reading more of it may be what broke the process.
                let job = self.outbox.job(job_number).map_err(AcceptError::from)?;
                let input = job.map(|job| Input::of_file(&self.spool.input(&job)));
                let lookup_keys = LookupKeys {
                    input: input.and_then(Result::ok),
                    ..LookupKeys::default()
                };
                self.quarantine(job_number, &lookup_keys, &failure)
            }
            Some(Lease::Work(job)) => {
                self.status.image_taken();
                let next = self.infer(job_number, &job);
                self.status.image_done();
                next
            }
        }
    }

    fn infer(&mut self, job_number: JobNumber, job: &Job) -> Result<Option<Leased>, PipelineError> {
        let wait = name::waited(&job.file);
        let bytes = match std::fs::read(self.spool.input(job)) {
            Ok(bytes) => Arc::new(bytes),
            Err(error) => {
                return self.quarantine(job_number, &LookupKeys::default(), &Failure::Input(error));
            }
        };
        let slot = match self.route(&job.source, &bytes) {
            Ok(slot) => slot,
            Err(failure) => {
                return self.quarantine(job_number, &self.lookup_keys(&bytes), &failure);
            }
        };
        let serving = self.models.serving(slot);
        let mut found = match segment(&serving.segmenter, &mut self.decoder, &bytes) {
            Ok(found) => found,
            Err(failure) => {
                let mut lookup_keys = self.lookup_keys(&bytes);
                let input = lookup_keys.input.as_ref();
                lookup_keys.job_id = input.map(|input| job_id(&input.sha256, &serving.model));
                return self.quarantine(job_number, &lookup_keys, &failure);
            }
        };
        let slice = self.slice((job_number, job), &bytes, &mut found, &serving);
        let shadow_input = self.models.has_candidate(slot).then(|| ShadowInput {
            slot,
            digest: serving.model.digest.clone(),
            frames: std::mem::take(&mut found.frames),
            labels: std::mem::take(&mut found.labels),
        });
        let sop_instance_uid = found.identifiers.sop_instance_uid.as_deref();
        let sop_instance_uid = sop_instance_uid.map(|uid| self.key.hash(uid));
        let origin = Origin {
            job: Some(job_number),
            source: job.source.clone(),
            received_at: job.received_at.clone(),
            wait_ms: wait.as_millis() as f64,
        };
        let report = self.encoder.report(found, &origin, &serving.model);
        let (id, timing) = (report.job_id, report.timing_ms);
        self.status.metrics.inferred(timing.infer / 1000.0);
        let input = Input {
            bytes: bytes.len() as u64,
            sha256: report.image.sha256.clone(),
        };
        let lookup_keys = LookupKeys {
            input: Some(input),
            job_id: Some(id),
            sop_instance_uid,
        };
        let rows = ResultRows {
            lookup_keys: &lookup_keys,
            slice: slice.as_ref(),
        };
        let next = self.append(job_number, report, rows)?;
        self.fresh.notify_one();
        if let (Some(shadow), Some(shadow_input)) = (&self.shadow, shadow_input) {
            shadow.enqueue(shadow_input);
        }
        tracing::info!(
            job = job_number, job_id = %id, decode_ms = timing.decode, preprocess_ms = timing.preprocess,
            infer_ms = timing.infer, postprocess_ms = timing.postprocess,
            encode_ms = timing.encode, "image segmented"
        );
        Ok(next)
    }

    /// What a segmentation of its series will need of the image, where there will be one.
    fn slice(
        &self,
        (job_number, job): (JobNumber, &Job),
        bytes: &[u8],
        found: &mut Findings,
        serving: &Serving,
    ) -> Option<Slice> {
        if !self.keeps_slices {
            return None;
        }
        let image = SegmentedImage {
            bytes,
            findings: found,
            source: &job.source,
        };
        let noted = Slice::note(&image, serving, &self.limits);
        noted.unwrap_or_else(|error| {
            tracing::warn!(job = job_number, code = error.kind(), %error, "an image has no segmentation");
            let words = ["no_segmentation", error.kind()].map(str::to_owned);
            found.warnings.extend(words);
            None
        })
    }

    /// Commits the result, and in the same commit the lease of the next job if one waits.
    fn append(
        &mut self,
        job_number: JobNumber,
        mut report: Report,
        rows: ResultRows<'_>,
    ) -> Result<Option<Leased>, PipelineError> {
        let next = self.next();
        let lease_request = next.map(|job_number| LeaseRequest {
            job_number,
            boot: self.encoder.boot,
            attempts_max: self.attempts_max,
        });
        let lease = self
            .outbox
            .append_with(job_number, rows, lease_request, |seq| {
                report.seq = seq;
                self.encoder.messages(report)
            })
            .map_err(AcceptError::from)?;
        Ok(next.map(|job_number| (job_number, lease)))
    }

    /// The next job number if there is one already.
    fn next(&mut self) -> Option<JobNumber> {
        if *self.stop.borrow() {
            return None;
        }
        self.queue.try_recv().ok()
    }

    /// Number of the slot that the image is for.
    fn route(&self, source: &str, bytes: &[u8]) -> Result<usize, Failure> {
        let choice = self.router.choose(bytes, source, &self.limits)?;
        match (choice.target, choice.rule) {
            (Target::Slot(slot), _) => Ok(slot),
            (Target::Nowhere(reason), rule) => Err(Failure::NotRouted {
                rule: rule.unwrap_or_default(),
                reason,
            }),
        }
    }

    /// The lookup keys of an image that is not segmented. A file that cannot be decoded may still name its object.
    fn lookup_keys(&self, bytes: &[u8]) -> LookupKeys {
        let uid = sop_instance_uid(bytes, &self.limits);
        LookupKeys {
            input: Some(Input::of(bytes)),
            job_id: None,
            sop_instance_uid: uid.map(|uid| self.key.hash(&uid)),
        }
    }

    fn quarantine(
        &self,
        job_number: JobNumber,
        lookup_keys: &LookupKeys,
        failure: &Failure,
    ) -> Result<Option<Leased>, PipelineError> {
        let (outbox, encoder) = (&*self.outbox, &self.encoder);
        outbox
            .record_lookup_keys(job_number, lookup_keys)
            .map_err(AcceptError::from)?;
        let job_id = lookup_keys.job_id;
        quarantine::end(
            &self.spool,
            &JobFailure {
                outbox,
                encoder,
                job_number,
                job_id,
                failure,
            },
        )?;
        self.status.count_quarantined();
        self.fresh.notify_one();
        Ok(None)
    }
}
