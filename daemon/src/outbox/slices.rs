//! What segmentations will be made of: a row comes with the result of its image and goes when the
//! segmentation of its series lies where it belongs.

use std::collections::{BTreeMap, BTreeSet};

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{JOBS, Message, Outbox, OutboxError, decode, messages, take_numbers};
use crate::job::{State, Ticket};
use crate::seg::Slice;

/// (UID of the series, id of the job) -> (ticket, [`Slice`] as JSON): a copy of an image takes the
/// place of the image.
pub(super) const SLICES: TableDefinition<'_, (&str, &str), (Ticket, &[u8])> =
    TableDefinition::new("slices");

impl Outbox {
    /// Tickets of the images of each series that has no segmentation yet.
    pub fn open_series(&self) -> Result<BTreeMap<String, BTreeSet<Ticket>>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(SLICES)?;
            let mut series: BTreeMap<String, BTreeSet<Ticket>> = BTreeMap::new();
            for row in table.iter()? {
                let (key, row) = row?;
                let tickets = series.entry(key.value().0.to_owned()).or_default();
                tickets.insert(row.value().0);
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
                let (ticket, bytes) = row.value();
                let slice: Slice = serde_json::from_slice(bytes).map_err(|error| {
                    redb::Error::Corrupted(format!("a slice row does not parse: {error}"))
                })?;
                slices.push((ticket, slice));
            }
            slices.sort_by_key(|(ticket, _)| *ticket);
            Ok(slices.into_iter().map(|(_, slice)| slice).collect())
        })
    }

    /// The segmentations of these images are where they belong: their rows go, and what is said about
    /// them comes.
    pub fn close_series(
        &self,
        slices: &[Slice],
        mut events: Vec<impl FnOnce(u64) -> Message>,
    ) -> Result<(), OutboxError> {
        self.write(|transaction| {
            let mut n_gone = 0;
            {
                let mut table = transaction.open_table(SLICES)?;
                for slice in slices {
                    let key = (slice.series(), &*slice.job_id.to_string());
                    n_gone += usize::from(table.remove(key)?.is_some());
                }
            }
            if n_gone == 0 {
                events.clear();
            }
            for event in events {
                let seq = take_numbers(transaction, "next_seq", 1)?;
                messages::insert(transaction, (seq, 0), None, &event(seq))?;
            }
            Ok(())
        })
    }

    /// Jobs that the inference thread has not ended yet.
    pub fn unfinished(&self) -> Result<BTreeSet<Ticket>, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(JOBS)?;
            let mut unfinished = BTreeSet::new();
            for row in table.iter()? {
                let (ticket, job) = row?;
                let state = decode(job.value())?.state;
                if matches!(state, State::Accepted | State::Leased { .. }) {
                    unfinished.insert(ticket.value());
                }
            }
            Ok(unfinished)
        })
    }
}

pub(super) fn keep(
    transaction: &WriteTransaction,
    ticket: Ticket,
    slice: &Slice,
) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(slice).expect("a slice is plain data");
    let key = (slice.series(), &*slice.job_id.to_string());
    transaction
        .open_table(SLICES)?
        .insert(key, (ticket, bytes.as_slice()))?;
    Ok(())
}
