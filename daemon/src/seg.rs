//! The masks of a whole series as one DICOM Segmentation, for those who work with a PACS.
//!
//! inference thread -> `slices` of the outbox, in the transaction of the result -> [`completion`] says
//! when a series is complete -> [`series`] makes the objects -> [`outgoing`] puts them into the folder and
//! beside the outbox -> rows go, an event comes -> [`send`] delivers what lies beside the outbox.
//!
//! Whatever dies in between, the rows are there, and the same rows give the same object under the same
//! UID: a copy is no other segmentation. A series that is closed stays known for a while (`closed_series`),
//! so that images which come late make a segmentation of the whole. Slices hold patient attributes, which
//! go into the objects and nowhere else.

mod completion;
mod send;
mod series;
mod outgoing;
mod slice;
mod waiting;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use crate::config;
use crate::failure::chain;
use crate::outbox::job::JobNumber;
use crate::outbox::slices::{ClosedSeries, SegmentationRecord, Slice};
use crate::outbox::{Outbox, OutboxError};
use crate::report::encode::Encoder;
use crate::shutdown::stopped;
use crate::spool::SpoolError;
use crate::status::Status;
use crate::tls::credentials::Credentials;
use crate::{clock, disk, tls};
use completion::Completion;
use outgoing::SegmentationFolders;
use series::Segmentation;

pub use slice::SegmentedImage;
pub use waiting::{Retried, RetryChoice, retry};

/// How often series are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often closed series are looked through.
const FORGET_EVERY: Duration = Duration::from_hours(1);

#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("cannot start the thread that sends segmentations: {0}")]
    Thread(std::io::Error),
    #[error("the thread that makes segmentations ended by a panic; see the log above")]
    Panicked,
}

/// What the making of segmentations shares with other tasks.
#[derive(Debug)]
pub struct SeriesContext {
    pub outbox: Arc<Outbox>,
    pub encoder: Encoder,
    /// Woken when an event waits for the broker.
    pub fresh: Arc<Notify>,
    pub credentials: watch::Receiver<Credentials>,
    pub status: Arc<Status>,
}

/// Everything that the making of segmentations needs.
#[derive(Debug)]
pub struct SeriesTask {
    context: SeriesContext,
    config: config::Seg,
    folders: SegmentationFolders,
    state: PathBuf,
    min_free_bytes: u64,
    /// The trouble that was logged last.
    logged: Option<String>,
    /// When closed series were looked through last.
    forgotten_at: Option<Instant>,
}

/// The segmentations to place and to announce, and what stays known of their series.
struct SeriesOutput {
    made: Vec<Segmentation>,
    closed: ClosedSeries,
}

/// Closes complete series until `stop`; what is open then is open at the next start. Without a task
/// nothing happens.
pub async fn run(
    series_task: Option<SeriesTask>,
    releases: mpsc::Receiver<Vec<JobNumber>>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), SeriesError> {
    if let Some(series_task) = series_task {
        return series_task.run(releases, stop).await;
    }
    stopped(&mut stop).await;
    Ok(())
}

impl SeriesTask {
    /// `None` without a section `[seg]`.
    pub fn open(
        config: &config::Config,
        context: SeriesContext,
    ) -> Result<Option<Self>, SeriesError> {
        let Some(seg) = &config.seg else {
            // Late images are joined with none of what was segmented: its patients' attributes go.
            context.outbox.forget_series(u64::MAX)?;
            return Ok(None);
        };
        if let Some(to) = &seg.send_to {
            let retry_max = Duration::from_millis(to.retry_max_ms);
            let pacs = &context.status.pacs;
            pacs.configure(&config.state.directory, pacs_address(to), retry_max);
        }
        Ok(Some(Self {
            context,
            config: seg.clone(),
            folders: SegmentationFolders::open(seg, &config.state.directory)?,
            state: config.state.directory.clone(),
            min_free_bytes: config.state.min_free_bytes,
            logged: None,
            forgotten_at: None,
        }))
    }

    async fn run(
        mut self,
        mut releases: mpsc::Receiver<Vec<JobNumber>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), SeriesError> {
        let wake_sender = match &self.config.send_to {
            Some(to) => {
                let started = send::start(
                    to,
                    &self.folders,
                    self.context.credentials.clone(),
                    &self.context.status,
                );
                Some(started.map_err(SeriesError::Thread)?)
            }
            None => None,
        };
        let mut completion = Completion::new(&self.config);
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = stopped(&mut stop) => return Ok(()),
            }
            while let Ok(job_numbers) = releases.try_recv() {
                completion.released(job_numbers);
            }
            let looked = tokio::task::spawn_blocking(move || {
                let made = self.close_complete(&mut completion);
                (self, completion, made)
            });
            let made;
            (self, completion, made) = looked.await.map_err(|_| SeriesError::Panicked)?;
            if let (true, Some(wake_sender)) = (made?, &wake_sender) {
                // Full: it will look anyway.
                let _ = wake_sender.try_send(());
            }
        }
    }

    /// Whether a segmentation was made.
    fn close_complete(&mut self, completion: &mut Completion) -> Result<bool, SeriesError> {
        if self
            .forgotten_at
            .is_none_or(|at| at.elapsed() > FORGET_EVERY)
        {
            self.context
                .outbox
                .forget_series(clock::unix_ms(clock::for_expiry()))?;
            self.forgotten_at = Some(Instant::now());
        }
        let open = self.context.outbox.open_series()?;
        if open.is_empty() && completion.is_idle() {
            return Ok(false);
        }
        let unfinished = self.context.outbox.unfinished()?;
        let complete = completion.complete(Instant::now(), &open, &unfinished);
        let mut made = false;
        for series in complete {
            made |= self.close(&series)?;
        }
        Ok(made)
    }

    /// Makes, places and announces the segmentations of a series. False when there is no room for
    /// them now: the series stays open and is tried again.
    fn close(&mut self, series: &str) -> Result<bool, SeriesError> {
        if disk::below(&self.state, self.min_free_bytes) {
            self.log_once("the disk is below `min_free_bytes`");
            return Ok(false);
        }
        let fresh = self.context.outbox.slices(series)?;
        let SeriesOutput { made, closed } = self.segment(series, &fresh)?;
        let with_bytes = made
            .iter()
            .filter_map(|made| Some((made, made.bytes.as_ref()?)));
        for (made, bytes) in with_bytes {
            if let Some(trouble) = self.folders.store(&made.sop_instance_uid, bytes)? {
                self.log_once(&trouble);
                return Ok(false);
            }
        }
        self.logged = None;
        let events = made
            .iter()
            .map(|made| |seq| self.context.encoder.series(&made.facts, seq));
        self.context
            .outbox
            .close_series(&fresh, &closed, events.collect())?;
        self.context.fresh.notify_one();
        made.iter().for_each(Segmentation::log);
        Ok(true)
    }

    /// What `fresh` images make together with those of their series that were segmented lately.
    fn segment(&self, series: &str, fresh: &[Slice]) -> Result<SeriesOutput, SeriesError> {
        let before = self.context.outbox.closed(series)?;
        let max = self.config.series_max_images;
        // An endless series must not make an endless segmentation.
        let is_first = before.slices.is_empty();
        let mut whole = series::merge_images(before.slices, fresh);
        let is_full = !is_first && whole.len() > max;
        if is_full {
            whole = series::merge_images(Vec::new(), fresh);
        }
        let mut made = series::make(&whole, &self.context.encoder.node);
        let of = |made: &Segmentation| SegmentationRecord {
            id: made.facts.series,
            model: made.facts.model.digest.clone(),
        };
        let now: Vec<SegmentationRecord> = made.iter().map(of).collect();
        let jobs: BTreeSet<Uuid> = fresh.iter().map(|slice| slice.job_id).collect();
        let known: BTreeSet<Uuid> = before.made.iter().map(|made| made.id).collect();
        // Also a volume that late images only renamed: what it was before is said to be replaced.
        made.retain(|made| {
            !known.contains(&made.facts.series)
                || made.facts.jobs.iter().any(|job| jobs.contains(job))
        });
        for made in &mut made {
            if is_full {
                made.facts.warnings.push("series_in_parts".to_owned());
                continue;
            }
            let replaced = |old: &&SegmentationRecord| {
                old.model == made.facts.model.digest && !now.iter().any(|made| made.id == old.id)
            };
            let old = before.made.iter().filter(replaced).map(|old| old.id);
            made.facts.replaces = old.collect();
        }
        let at_ms = clock::unix_ms(SystemTime::now());
        Ok(SeriesOutput {
            made,
            closed: ClosedSeries::new(at_ms, now, whole),
        })
    }

    /// Warns once of each trouble.
    fn log_once(&mut self, trouble: &str) {
        if self.logged.as_deref() != Some(trouble) {
            tracing::warn!(why = trouble, "segmentations wait");
            self.logged = Some(trouble.to_owned());
        }
    }
}

/// Whether segmentations can be written to this folder and the PACS can be reached, for `check`.
pub fn check(config: &config::Seg) -> Vec<Result<String, String>> {
    let folder = config.directory.as_deref().map(|path: &Path| {
        let written = disk::writable(path).map(|()| format!("seg: {}", path.display()));
        written.map_err(|problem| format!("seg: {problem}"))
    });
    let pacs = config.send_to.as_ref().map(|to| {
        let place = pacs_address(to);
        let association = tls_trust(to)
            .and_then(|tls| send::Association::open(to, tls).map_err(|error| error.to_string()));
        match association {
            Ok(association) => {
                association.close();
                Ok(format!("seg: {place} takes segmentations"))
            }
            Err(words) => Err(format!("seg: {place}: {words}")),
        }
    });
    folder.into_iter().chain(pacs).collect()
}

/// C-ECHO to the PACS, for `doctor`.
pub fn echo(config: &config::Seg) -> Option<Result<String, String>> {
    let to = config.send_to.as_ref()?;
    let place = pacs_address(to);
    let echo = tls_trust(to).and_then(|tls| send::echo(to, tls).map_err(|error| error.to_string()));
    Some(match echo {
        Ok(time) => Ok(format!(
            "seg: {place} answers C-ECHO after {} ms",
            time.as_millis()
        )),
        Err(words) => Err(format!("seg: {place}: C-ECHO: {words}")),
    })
}

fn pacs_address(to: &config::SendTo) -> String {
    let over = if to.tls.is_some() { " over TLS" } else { "" };
    format!("{} at {}:{}{over}", to.called_ae_title, to.host, to.port)
}

fn tls_trust(to: &config::SendTo) -> Result<Option<Arc<tls::Trust>>, String> {
    let client = to.tls.as_ref().map(tls::client).transpose();
    client.map_err(|error| chain(&error))
}

#[cfg(test)]
pub(crate) mod tests {
    use contract::LabelMap;
    use contract::manifest::Class;
    use segmenter::decode::source;
    use segmenter::seg;

    use super::*;
    use crate::report::{Model, SeriesFacts, job_id};

    /// An image of 2 x 4 px of 1 mm² whose first `area` px are of class 1, at 5 mm times its number.
    pub(crate) fn slice(number: u8, area: usize) -> Slice {
        let mut labels = LabelMap::new(2, 4);
        labels.data[..area].fill(1);
        let found = seg::Found {
            frame: 0,
            class: 1,
            area_px: area,
            mask: labels.rle(1),
        };
        let plane = source::Plane {
            position: format!("0\\0\\{}", 5 * number),
            orientation: "1\\0\\0\\0\\1\\0".into(),
            spacing: "1\\1".into(),
            thickness: None,
        };
        let model = Model {
            name: "cardiac".into(),
            version: "1.0".into(),
            digest: "digest".into(),
            precision: contract::manifest::Precision::F32,
            half_precision: None,
        };
        Slice {
            job_id: job_id(&number.to_string(), &model),
            source: "ward".into(),
            finished_at: format!("2026-11-24T00:40:{number:02}.000Z"),
            model,
            classes: vec![Class {
                id: 1,
                label: "left ventricle".into(),
                snomed: None,
                color: [1, 2, 3],
            }],
            image: seg::Slice {
                source: source::Source {
                    sop_class_uid: "1.2.840.10008.5.1.4.1.1.4".into(),
                    sop_instance_uid: format!("2.25.{number}"),
                    study_instance_uid: "2.25.1000".into(),
                    series_instance_uid: "2.25.1001".into(),
                    frame_of_reference_uid: Some("2.25.1002".into()),
                    instance_number: number.into(),
                    is_multi_frame: false,
                    planes: vec![plane],
                    copied: vec![(0x0010_0010, "DOE^JANE".into())],
                    deidentified: vec![],
                    lossy: None,
                    acquisitions: vec![],
                    has_odd_uid: false,
                },
                rows: 2,
                cols: 4,
                frames: 1,
                masks: if area == 0 { vec![] } else { vec![found] },
            },
        }
    }

    #[test]
    fn a_series_is_said_without_its_patient() {
        let made = series::make(&[slice(1, 2), slice(2, 3)], "box-1");
        let mut encoder = Encoder {
            node: "box-1".into(),
            boot: Uuid::nil(),
            privacy: crate::report::privacy::Privacy::None,
            inline_max_bytes: 120_000,
        };
        let said = |encoder: &Encoder, facts: &SeriesFacts| {
            let payload = encoder.series(facts, 7).payload;
            let text = String::from_utf8(payload.clone()).unwrap();
            assert!(!text.contains("DOE") && !text.contains("2.25."), "{text}");
            serde_json::from_slice::<serde_json::Value>(&payload).unwrap()
        };
        let event = said(&encoder, &made[0].facts);
        assert_eq!(
            (&event["event"], &event["seq"]),
            (&"series".into(), &7.into())
        );
        assert_eq!(event["jobs"].as_array().unwrap().len(), 2);
        assert_eq!(event["volumes"][0]["label"], "left ventricle");
        let debug = format!("{:?}", slice(1, 1));
        assert!(
            !debug.contains("DOE") && !debug.contains("2.25."),
            "{debug}"
        );
        encoder.inline_max_bytes = 100;
        assert_eq!(
            said(&encoder, &made[0].facts)["jobs"],
            serde_json::json!([])
        );
    }
}
