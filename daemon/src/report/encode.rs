//! Findings to message bytes: `result/1` and `event/1`.
//!
//! A result above the inline limit is split: part 0 is the result with `masks` in place of mask data,
//! parts 1 to n joined are the JSON array of its instances with masks.

mod notices;

pub use notices::Notice;

use segmenter::result::Instance;
use serde::Serialize;
use uuid::Uuid;

use crate::clock;
use crate::failure::Reason;
use crate::report::privacy::Privacy;
use crate::report::{
    BareInstance, Entry, Findings, Image, Masks, Message, Model, Report, SeriesFacts, Ticket,
    TimingMs, job_id, sha256,
};

/// Who speaks: this process.
#[derive(Debug, Clone)]
pub struct Encoder {
    pub node: String,
    pub boot: Uuid,
    pub inline_max_bytes: usize,
    pub privacy: Privacy,
}

#[derive(Serialize)]
struct Event<'a> {
    schema: &'static str,
    #[serde(rename = "event")]
    kind: &'static str,
    seq: u64,
    node: &'a str,
    boot: Uuid,
    at: String,
    source: &'a str,
    job: Ticket,
    job_id: Option<Uuid>,
    #[serde(flatten)]
    reason: &'a Reason,
}

#[derive(Serialize)]
struct SeriesEvent<'a> {
    schema: &'static str,
    #[serde(rename = "event")]
    kind: &'static str,
    seq: u64,
    node: &'a str,
    boot: Uuid,
    at: String,
    #[serde(flatten)]
    facts: &'a SeriesFacts,
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
            schema: "result/1".to_owned(),
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
            instances: found.instances.into_iter().map(Entry::Inline).collect(),
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
        let event = Event {
            schema: "event/1",
            kind: "quarantined",
            seq,
            node: &self.node,
            boot: self.boot,
            at: clock::now(),
            source,
            job: ticket,
            job_id: id,
            reason,
        };
        Message {
            topic: "event".to_owned(),
            payload: json(&event),
        }
    }
}

impl Encoder {
    /// What tells subscribers that the images of a series have a segmentation.
    pub fn series(&self, facts: &SeriesFacts, seq: u64) -> Message {
        let event = |facts| {
            json(&SeriesEvent {
                schema: "event/1",
                kind: "series",
                seq,
                node: &self.node,
                boot: self.boot,
                at: clock::now(),
                facts,
            })
        };
        let mut payload = event(facts);
        if payload.len() > self.inline_max_bytes {
            payload = event(&SeriesFacts {
                jobs: Vec::new(),
                ..facts.clone()
            });
        }
        Message {
            topic: "event".to_owned(),
            payload,
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
    report.instances = report.instances.into_iter().map(Entry::bare).collect();
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

impl Entry {
    fn bare(self) -> Self {
        match self {
            Self::Inline(Instance {
                id,
                label,
                frame,
                bbox,
                area_px,
                area_mm2,
                ..
            }) => Self::Bare(BareInstance {
                id,
                label,
                frame,
                bbox,
                area_px,
                area_mm2,
            }),
            bare @ Self::Bare(_) => bare,
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages are plain data with text keys")
}

#[cfg(test)]
mod tests;
