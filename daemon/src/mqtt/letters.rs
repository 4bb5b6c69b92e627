//! The outbox as the publisher sees it: what to send next, what was delivered, what cannot be sent.
//! Every call that touches the disk runs apart from the async tasks.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::MqttError;
use crate::accept::{self, Shelves};
use crate::encode::{self, Report, Speaker};
use crate::failure::Failure;
use crate::outbox::{Key, Message, Outbox, Queued};
use crate::quarantine::{self, Ending};
use crate::status::Status;

/// Room that the topics of a split result may need beyond the result's own.
const TOPIC_SPARE_BYTES: usize = 64;

#[derive(Clone)]
pub(super) struct Letters {
    pub(super) outbox: Arc<Outbox>,
    pub(super) shelves: Shelves,
    pub(super) speaker: Speaker,
    pub(super) status: Arc<Status>,
}

impl Letters {
    pub(super) async fn next(
        &self,
        after: Option<Key>,
        limit: usize,
    ) -> Result<Vec<Queued>, MqttError> {
        let outbox = Arc::clone(&self.outbox);
        Ok(spawn_blocking(move || outbox.messages(after, limit)).await??)
    }

    /// Rows go, and with the last message of a job its input.
    pub(super) async fn delivered(&self, keys: Vec<Key>) -> Result<(), MqttError> {
        let letters = self.clone();
        spawn_blocking(move || {
            for (ticket, job) in letters.outbox.acknowledge(&keys)? {
                let total_ms = accept::waited(&job.file).as_millis() as u64;
                tracing::info!(ticket, total_ms, "published");
                match letters.shelves.depart(&job) {
                    Ok(()) => letters.outbox.forget(ticket),
                    // The row stays and the next start tries again.
                    Err(error) => tracing::error!(ticket, %error, "a published input stays"),
                }
            }
            letters.status.count_acknowledged(keys.len() as u64);
            Ok(())
        })
        .await?
    }

    /// A message that the broker will never take.
    pub(super) async fn dead(&self, key: Key, failure: Failure) -> Result<(), MqttError> {
        let letters = self.clone();
        spawn_blocking(move || {
            let row = letters.outbox.message(key)?;
            row.map_or(Ok(()), |row| letters.bury(&row, &failure))
        })
        .await?
    }

    /// Spills a result into parts of at most `room` bytes, or ends its job when that cannot help.
    pub(super) async fn too_large(&self, row: Queued, room: usize) -> Result<(), MqttError> {
        let letters = self.clone();
        spawn_blocking(move || {
            let limit = room.saturating_sub(TOPIC_SPARE_BYTES);
            if let Some(parts) = spill(&row, limit) {
                tracing::info!(
                    seq = row.key.0,
                    parts = parts.len(),
                    "result split for the broker"
                );
                return Ok(letters.outbox.replace(row.key, &parts)?);
            }
            let bytes = row.message.payload.len();
            letters.bury(&row, &Failure::MessageTooLarge { bytes, limit: room })
        })
        .await?
    }

    fn bury(&self, row: &Queued, failure: &Failure) -> Result<(), MqttError> {
        let Some(ticket) = row.ticket else {
            tracing::error!(
                seq = row.key.0,
                code = failure.code(),
                "an event was given up"
            );
            self.outbox.acknowledge(&[row.key])?;
            return Ok(());
        };
        let job_id = job_id(&row.message);
        let (outbox, speaker) = (&*self.outbox, &self.speaker);
        quarantine::end(
            &self.shelves,
            &Ending {
                outbox,
                speaker,
                ticket,
                job_id,
                failure,
            },
        )?;
        self.status.count_quarantined();
        Ok(())
    }
}

/// The result in smaller messages; `None` when this is no result, was split before, or does not fit.
fn spill(row: &Queued, limit: usize) -> Option<Vec<Message>> {
    row.ticket?;
    let report: Report = serde_json::from_slice(&row.message.payload).ok()?;
    if report.masks.is_some() {
        return None;
    }
    let parts = encode::split(report, limit);
    parts
        .iter()
        .all(|part| part.payload.len() <= limit)
        .then_some(parts)
}

fn job_id(message: &Message) -> Option<Uuid> {
    if let Some(rest) = message.topic.strip_prefix("mask/") {
        return rest.split('/').next()?.parse().ok();
    }
    let report: Report = serde_json::from_slice(&message.payload).ok()?;
    Some(report.job_id)
}
