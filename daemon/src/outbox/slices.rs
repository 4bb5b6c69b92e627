//! The images that segmentations will be made of: a row comes with the result of its image and goes when the
//! segmentation of its series lies where it belongs.

use std::collections::{BTreeMap, BTreeSet};

use contract::manifest::Class;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use segmenter::seg;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{JOBS, Message, Outbox, OutboxError, decode, messages, take_numbers};
use crate::outbox::job::{JobNumber, State};
use crate::report::Model;

/// (UID of the series, id of the job) -> (job number, [`Slice`] as JSON): a copy of an image takes the
/// place of the image.
pub(super) const SLICES: TableDefinition<'_, (&str, &str), (JobNumber, &[u8])> =
    TableDefinition::new("slices");

/// (UID of the series, number in the order of acceptance) -> [`Slice`] as JSON, of series in [`CLOSED`].
pub(super) const SEGMENTED: TableDefinition<'_, (&str, u64), &[u8]> =
    TableDefinition::new("segmented_slices");

/// UID of a series -> [`ClosedSeries`] without its slices, as JSON.
pub(super) const CLOSED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("closed_series");

/// How long images that come late are joined with those before them.
const KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// Size of all closed series, beyond which the one that was closed first is forgotten.
const KEPT_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// One image of a series and what a segmentation says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    pub job_id: Uuid,
    /// Name of the source it came from.
    pub source: String,
    pub finished_at: String,
    pub model: Model,
    pub classes: Vec<Class>,
    pub image: seg::Slice,
}

impl Slice {
    /// UID of the series.
    pub(crate) fn series(&self) -> &str {
        &self.image.source.series_instance_uid
    }
}

/// A series as it was segmented last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ClosedSeries {
    pub at_ms: u64,
    pub made: Vec<SegmentationRecord>,
    #[serde(skip)]
    pub slices: Vec<Slice>,
    /// Size of the rows of its slices.
    bytes: u64,
}

/// A segmentation, and the digest of the model that its masks are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentationRecord {
    pub id: Uuid,
    pub model: String,
}

impl ClosedSeries {
    pub fn new(at_ms: u64, made: Vec<SegmentationRecord>, slices: Vec<Slice>) -> Self {
        Self {
            at_ms,
            made,
            slices,
            bytes: 0,
        }
    }
}

impl Outbox {
    /// Job numbers of the images of each series that has no segmentation yet.
    pub fn open_series(&self) -> Result<BTreeMap<String, BTreeSet<JobNumber>>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(SLICES)?;
            let mut series: BTreeMap<String, BTreeSet<JobNumber>> = BTreeMap::new();
            for row in table.iter()? {
                let (key, row) = row?;
                let job_numbers = series.entry(key.value().0.to_owned()).or_default();
                job_numbers.insert(row.value().0);
            }
            Ok(series)
        })
    }

    /// Images of one series, in the order of acceptance.
    pub fn slices(&self, series: &str) -> Result<Vec<Slice>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(SLICES)?;
            let mut slices = Vec::new();
            for row in table.range((series, "")..)? {
                let (key, row) = row?;
                if key.value().0 != series {
                    break;
                }
                let (job_number, bytes) = row.value();
                slices.push((job_number, slice_row(bytes)?));
            }
            slices.sort_by_key(|(job_number, _)| *job_number);
            Ok(slices.into_iter().map(|(_, slice)| slice).collect())
        })
    }

    /// What is still known of a series that was closed before.
    pub fn closed(&self, series: &str) -> Result<ClosedSeries, OutboxError> {
        self.read(|| {
            let read = self.database.begin_read()?;
            let Some(row) = read.open_table(CLOSED)?.get(series)? else {
                return Ok(ClosedSeries::default());
            };
            let mut closed = closed_row(row.value())?;
            let table = read.open_table(SEGMENTED)?;
            for row in table.range((series, 0)..=(series, u64::MAX))? {
                let (_, row) = row?;
                closed.slices.push(slice_row(row.value())?);
            }
            Ok(closed)
        })
    }

    /// The segmentations of `fresh` are where they belong: their rows go, and what is said about them
    /// comes. `closed`: the whole series as it was segmented, for images of it that come later.
    pub fn close_series(
        &self,
        fresh: &[Slice],
        closed: &ClosedSeries,
        mut events: Vec<impl FnOnce(u64) -> Message>,
    ) -> Result<(), OutboxError> {
        self.write(|transaction| {
            let mut n_gone = 0;
            {
                let mut table = transaction.open_table(SLICES)?;
                for slice in fresh {
                    let key = (slice.series(), &*slice.job_id.to_string());
                    n_gone += usize::from(table.remove(key)?.is_some());
                }
            }
            if n_gone == 0 {
                events.clear();
            } else if let Some(first) = fresh.first() {
                remember(transaction, first.series(), closed)?;
                forget(transaction, closed.at_ms)?;
            }
            for event in events {
                let seq = take_numbers(transaction, "next_seq", 1)?;
                messages::insert(transaction, (seq, 0), None, &event(seq))?;
            }
            Ok(())
        })
    }

    /// Closed series that are known for long enough: they hold patient attributes.
    pub fn forget_series(&self, now_ms: u64) -> Result<(), OutboxError> {
        self.write(|transaction| forget(transaction, now_ms))
    }

    /// Jobs that the inference thread has not ended yet.
    pub fn unfinished(&self) -> Result<BTreeSet<JobNumber>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(JOBS)?;
            let mut unfinished = BTreeSet::new();
            for row in table.iter()? {
                let (job_number, job) = row?;
                let state = decode(job.value())?.state;
                if matches!(state, State::Accepted | State::Leased { .. }) {
                    unfinished.insert(job_number.value());
                }
            }
            Ok(unfinished)
        })
    }
}

pub(super) fn keep(
    transaction: &WriteTransaction,
    job_number: JobNumber,
    slice: &Slice,
) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(slice).expect("a slice is plain data");
    let key = (slice.series(), &*slice.job_id.to_string());
    transaction
        .open_table(SLICES)?
        .insert(key, (job_number, bytes.as_slice()))?;
    Ok(())
}

fn slice_row(bytes: &[u8]) -> Result<Slice, redb::Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a slice row does not parse: {error}")))
}

fn closed_row(bytes: &[u8]) -> Result<ClosedSeries, redb::Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a closed row does not parse: {error}")))
}

fn remember(
    transaction: &WriteTransaction,
    series: &str,
    closed: &ClosedSeries,
) -> Result<(), redb::Error> {
    remove_slices(transaction, series)?;
    let mut table = transaction.open_table(SEGMENTED)?;
    let mut row = closed.clone();
    row.bytes = 0;
    for (number, slice) in (0..).zip(&closed.slices) {
        let bytes = serde_json::to_vec(slice).expect("a slice is plain data");
        row.bytes += bytes.len() as u64;
        table.insert((series, number), bytes.as_slice())?;
    }
    let bytes = serde_json::to_vec(&row).expect("a closed series is plain data");
    transaction
        .open_table(CLOSED)?
        .insert(series, bytes.as_slice())?;
    Ok(())
}

/// Forgets what is too old, and the oldest while all together are too large.
fn forget(transaction: &WriteTransaction, now_ms: u64) -> Result<(), redb::Error> {
    let mut closed = Vec::new();
    for row in transaction.open_table(CLOSED)?.iter()? {
        let (series, row) = row?;
        let row = closed_row(row.value())?;
        closed.push((row.at_ms, series.value().to_owned(), row.bytes));
    }
    closed.sort();
    let mut bytes: u64 = closed.iter().map(|(_, _, bytes)| bytes).sum();
    for (at_ms, series, of_it) in closed {
        // A clock that was set back makes no row older than it is.
        if bytes <= KEPT_MAX_BYTES && now_ms.saturating_sub(at_ms) <= KEPT_MS {
            continue;
        }
        bytes -= of_it;
        remove_slices(transaction, &series)?;
        transaction.open_table(CLOSED)?.remove(&*series)?;
    }
    Ok(())
}

fn remove_slices(transaction: &WriteTransaction, series: &str) -> Result<(), redb::Error> {
    transaction
        .open_table(SEGMENTED)?
        .retain_in((series, 0)..=(series, u64::MAX), |_, _| false)?;
    Ok(())
}
