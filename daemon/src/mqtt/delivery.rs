//! The outbox as the publisher uses it: what to send next, what was delivered, what cannot be sent.
//! Every call that touches the disk runs on a blocking thread.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::MqttError;
use crate::failure::Failure;
use crate::outbox::{Key, Message, Outbox, Queued, ReplayPage};
use crate::report::Report;
use crate::report::encode::{self, Encoder};
use crate::spool::quarantine::{self, JobFailure};
use crate::spool::{Spool, name};
use crate::status::Status;

/// Room that the topics of a split result may need beyond the result's own.
const TOPIC_SPARE_BYTES: usize = 64;

/// Warning in a split result whose list of instances did not fit; splitting anew says it again.
const IN_PARTS: &str = "instances_in_parts";

#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) outbox: Arc<Outbox>,
    pub(super) spool: Spool,
    pub(super) encoder: Encoder,
    pub(super) status: Arc<Status>,
}

impl Delivery {
    pub(super) async fn next_messages(
        &self,
        after: Option<Key>,
        limit: usize,
    ) -> Result<Vec<Queued>, MqttError> {
        let outbox = Arc::clone(&self.outbox);
        Ok(spawn_blocking(move || outbox.messages(after, limit)).await??)
    }

    /// The next messages that are to be sent again.
    pub(super) async fn replay_page(
        &self,
        at: Option<(u64, Option<Key>)>,
        limit: usize,
    ) -> Result<Option<ReplayPage>, MqttError> {
        let outbox = Arc::clone(&self.outbox);
        Ok(spawn_blocking(move || outbox.replay_page(at, limit)).await??)
    }

    /// Notes how far a replay came; without a key it is at its end.
    pub(super) async fn replayed(&self, number: u64, done: Option<Key>) -> Result<(), MqttError> {
        let outbox = Arc::clone(&self.outbox);
        let note = move || match done {
            Some(done) => outbox.replayed(number, done),
            None => outbox.end_replay(number),
        };
        Ok(spawn_blocking(note).await??)
    }

    /// Removes the rows of delivered messages, and the input of a job with its last message.
    pub(super) async fn delivered(&self, keys: Vec<Key>) -> Result<(), MqttError> {
        let delivery = self.clone();
        spawn_blocking(move || {
            for (job_number, job) in delivery.outbox.acknowledge(&keys)? {
                let total_ms = name::waited(&job.file).as_millis() as u64;
                tracing::info!(job = job_number, total_ms, "published");
                match delivery.spool.release_input(&job) {
                    Ok(()) => delivery.outbox.forget(job_number),
                    // The row stays and the next start tries again.
                    Err(error) => {
                        tracing::error!(job = job_number, %error, "a published input stays");
                    }
                }
            }
            delivery.status.count_acknowledged(keys.len() as u64);
            Ok(())
        })
        .await?
    }

    /// A message that the broker will never take.
    pub(super) async fn give_up_message(
        &self,
        key: Key,
        failure: Failure,
    ) -> Result<(), MqttError> {
        let delivery = self.clone();
        spawn_blocking(move || {
            let row = delivery.outbox.message(key)?;
            row.map_or(Ok(()), |row| delivery.quarantine_message(&row, &failure))
        })
        .await?
    }

    /// Topic and payload of the largest message of a result.
    pub(super) async fn largest_bytes(&self, seq: u64) -> Result<usize, MqttError> {
        let outbox = Arc::clone(&self.outbox);
        let rows = spawn_blocking(move || outbox.parts(seq)).await??;
        let bytes = rows.iter().map(|row| row.message.bytes());
        Ok(bytes.max().unwrap_or(0))
    }

    /// Splits a result into parts of at most `room` bytes, or quarantines its job when that cannot help.
    pub(super) async fn split_or_quarantine(
        &self,
        row: Queued,
        room: usize,
    ) -> Result<(), MqttError> {
        let delivery = self.clone();
        spawn_blocking(move || {
            let limit = room.saturating_sub(TOPIC_SPARE_BYTES);
            if let Some(parts) = split_smaller(&delivery.outbox.parts(row.key.0)?, limit) {
                tracing::info!(
                    seq = row.key.0,
                    parts = parts.len(),
                    "result split for the broker"
                );
                return Ok(delivery.outbox.replace(row.key, &parts)?);
            }
            let bytes = row.message.payload.len();
            delivery.quarantine_message(&row, &Failure::MessageTooLarge { bytes, limit: room })
        })
        .await?
    }

    fn quarantine_message(&self, row: &Queued, failure: &Failure) -> Result<(), MqttError> {
        let Some(job_number) = row.job_number else {
            tracing::error!(
                seq = row.key.0,
                code = failure.code(),
                "an event was given up"
            );
            return Ok(self.outbox.give_up(row.key)?);
        };
        let job_id = job_id(&row.message);
        let (outbox, encoder) = (&*self.outbox, &self.encoder);
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
        Ok(())
    }
}

/// The result in smaller messages. `None` when this is no result, does not fit, or is no longer whole:
/// parts that were delivered have left the outbox.
fn split_smaller(rows: &[Queued], limit: usize) -> Option<Vec<Message>> {
    let (first, parts) = rows.split_first()?;
    first.job_number?;
    if first.key.1 != 0 {
        return None;
    }
    let mut report: Report = serde_json::from_slice(&first.message.payload).ok()?;
    if let Some(masks) = report.masks.take() {
        let joined: Vec<u8> = parts
            .iter()
            .flat_map(|row| row.message.payload.iter().copied())
            .collect();
        if parts.len() != masks.parts || joined.len() != masks.bytes {
            return None;
        }
        report.instances = serde_json::from_slice(&joined).ok()?;
        report.warnings.retain(|word| word != IN_PARTS);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(instances: usize) -> Report {
        let instance = |frame: usize| {
            json!({
                "id": 1, "label": "cavity", "frame": frame, "bbox": [1, 2, 3, 4], "area_px": 12,
                "mask": { "size": [8, 8], "counts": "0".repeat(500) },
            })
        };
        let instances: Vec<_> = (0..instances).map(instance).collect();
        serde_json::from_value(json!({
            "schema": "result/1", "job_id": Uuid::from_u128(5), "seq": 7, "node": "box-1",
            "boot": Uuid::from_u128(6), "received_at": "", "finished_at": "", "source": "inbox",
            "image": {
                "sha256": "", "rows": 8, "cols": 8, "frames": 1, "spacing_mm": null,
                "modality": null,
            },
            "model": { "name": "lv", "version": "1", "digest": "d", "precision": "int8" },
            "timing_ms": {
                "wait": 0.0, "decode": 0.0, "preprocess": 0.0, "infer": 0.0, "postprocess": 0.0,
                "encode": 0.0,
            },
            "instances": instances, "warnings": [], "replay": false,
        }))
        .unwrap()
    }

    fn queued(messages: Vec<Message>) -> Vec<Queued> {
        let row = |(part, message)| Queued {
            key: (7, part),
            job_number: Some(1),
            message,
        };
        (0..).zip(messages).map(row).collect()
    }

    fn joined(messages: &[Message]) -> Vec<u8> {
        let masks = messages[1..].iter();
        masks.flat_map(|part| part.payload.clone()).collect()
    }

    #[test]
    fn a_split_result_is_split_anew_while_it_is_whole() {
        // The larger first split says the instances twice, the small one leaves them to the parts.
        let first = encode::split(report(30), 6000);
        let again = split_smaller(&queued(first.clone()), 2000).unwrap();
        assert!(again.len() > first.len());
        assert!(again.iter().all(|part| part.payload.len() <= 2000));
        assert_eq!(joined(&again), joined(&first));
        let third = split_smaller(&queued(again.clone()), 1500).unwrap();
        let head: Report = serde_json::from_slice(&third[0].payload).unwrap();
        assert_eq!(head.warnings, [IN_PARTS]);
        assert_eq!(head.masks.unwrap().parts, third.len() - 1);
        assert_eq!(joined(&third), joined(&first));

        let mut rest = queued(first.clone());
        rest.remove(2);
        assert_eq!(split_smaller(&rest, 2000), None, "a part was delivered");
        assert_eq!(
            split_smaller(&queued(first)[1..], 2000),
            None,
            "part 0 was delivered"
        );
    }

    #[test]
    fn only_what_fits_and_only_results_are_split() {
        let whole = Message {
            topic: "result/inbox".into(),
            payload: serde_json::to_vec(&report(3)).unwrap(),
        };
        let rows = queued(vec![whole]);
        assert!(split_smaller(&rows, 1500).unwrap().len() > 1);
        assert_eq!(split_smaller(&rows, 100), None, "part 0 does not fit");
        let mut event = rows;
        event[0].job_number = None;
        assert_eq!(split_smaller(&event, 1500), None);
        assert_eq!(split_smaller(&[], 1500), None);
    }
}
