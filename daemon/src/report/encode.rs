//! Messages to bytes. Results and events have their fields in the order of their types; everything else, in the order of
//! the alphabet.
//!
//! A result above the inline limit is split: part 0 is the result with `masks` in place of mask data,
//! parts 1 to n joined are the JSON array of its instances with masks.

mod notices;

pub use notices::Notice;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::clock;
use crate::failure::Reason;
use crate::report::event::{self, Event, Facts, Kind, Quarantined, SeriesFacts};
use crate::report::privacy::Privacy;
use crate::report::result::{self, Image, Instance, Masks, Model, Report, Ticket, TimingMs};
use crate::report::{Findings, Message, job_id, sha256};

/// Who speaks: this process.
#[derive(Debug, Clone)]
pub struct Encoder {
    pub node: String,
    pub boot: Uuid,
    pub inline_max_bytes: usize,
    pub privacy: Privacy,
}

/// Where and when an image came in.
#[derive(Debug, Clone)]
pub struct Origin {
    /// None for a file of `scansided segment`.
    pub job: Option<Ticket>,
    pub source: String,
    pub received_at: String,
    pub wait_ms: f64,
}

impl Encoder {
    /// The object that MQTT carries and `scansided segment` prints; `seq` is 0 outside the outbox.
    /// `model`: what made it of the image.
    pub fn report(&self, found: Findings, origin: &Origin, model: &Model) -> Report {
        let ms = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        Report {
            schema: result::SCHEMA.to_owned(),
            job_id: job_id(&found.sha256, model),
            job: origin.job,
            seq: 0,
            node: self.node.clone(),
            boot: self.boot,
            received_at: origin.received_at.clone(),
            finished_at: clock::now(),
            source: origin.source.clone(),
            image: Image {
                identifiers: self.privacy.show(&found.identifiers),
                ..found.image
            },
            model: model.clone(),
            timing_ms: TimingMs {
                wait: origin.wait_ms,
                decode: ms(found.decode),
                preprocess: ms(found.timing.preprocess),
                infer: ms(found.timing.infer),
                postprocess: ms(found.timing.postprocess),
                encode: ms(found.encode),
            },
            instances: found.instances.into_iter().map(Instance::from).collect(),
            masks: None,
            warnings: found.warnings,
            replay: false,
        }
    }

    /// The durable messages of a result, part 0 first.
    pub fn messages(&self, report: Report) -> Vec<Message> {
        let topic = format!("result/{}", report.source);
        let payload = json(&report);
        if payload.len() <= self.inline_max_bytes {
            return vec![Message { topic, payload }];
        }
        split(report, self.inline_max_bytes)
    }

    /// What tells subscribers that an accepted image has no result.
    pub fn quarantined(
        &self,
        (ticket, source): (Ticket, &str),
        id: Option<Uuid>,
        seq: u64,
        reason: &Reason,
    ) -> Message {
        let facts = Facts::Quarantined(Quarantined {
            source,
            job: ticket,
            job_id: id,
            reason,
        });
        self.event(Kind::Quarantined, seq, facts)
    }

    /// What tells subscribers that the images of a series have a segmentation.
    pub fn series(&self, facts: &SeriesFacts, seq: u64) -> Message {
        let message = self.event(Kind::Series, seq, Facts::Series(facts));
        if message.payload.len() <= self.inline_max_bytes {
            return message;
        }
        let short = SeriesFacts {
            jobs: Vec::new(),
            ..facts.clone()
        };
        self.event(Kind::Series, seq, Facts::Series(&short))
    }

    fn event(&self, kind: Kind, seq: u64, facts: Facts<'_>) -> Message {
        let event = Event {
            schema: event::SCHEMA,
            kind,
            seq,
            node: &self.node,
            boot: self.boot,
            at: clock::now(),
            facts,
            replay: None,
        };
        Message {
            topic: "event".to_owned(),
            payload: json(&event),
        }
    }
}

/// A result whose masks follow in parts of at most `limit_bytes`. When even the list of instances is
/// too long, it travels in the parts only.
pub fn split(mut report: Report, limit_bytes: usize) -> Vec<Message> {
    let joined = json(&report.instances);
    let parts: Vec<&[u8]> = joined.chunks(limit_bytes.max(1)).collect();
    let topic = format!("mask/{}", report.job_id);
    report.masks = Some(Masks {
        topic: topic.clone(),
        parts: parts.len(),
        bytes: joined.len(),
        sha256: sha256(&joined),
    });
    for instance in &mut report.instances {
        instance.mask = None;
    }
    let mut payload = json(&report);
    if payload.len() > limit_bytes {
        report.instances.clear();
        report.warnings.push("instances_in_parts".to_owned());
        payload = json(&report);
    }
    let mut messages = vec![Message {
        topic: format!("result/{}", report.source),
        payload,
    }];
    messages.extend((1..).zip(parts).map(|(part, bytes): (usize, _)| Message {
        topic: format!("{topic}/{part}"),
        payload: bytes.to_vec(),
    }));
    messages
}

/// The keys are sorted, at every depth.
pub fn object(message: &impl Serialize) -> Value {
    serde_json::to_value(message).expect("messages are plain data with text keys")
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages are plain data with text keys")
}

#[cfg(test)]
mod tests;
