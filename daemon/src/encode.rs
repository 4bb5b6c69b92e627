//! Findings to message bytes: `result/1` and `event/1`. The privacy gate: what is not a field here
//! does not leave the box, and no field holds a file name or, beyond what `privacy` lets out, a patient
//! attribute or a DICOM UID.
//!
//! A result above the inline limit is split: part 0 is the result with `masks` in place of mask data,
//! parts 1 to n joined are the JSON array of its instances with masks.

mod notices;

use std::collections::BTreeMap;

use segmenter::Segmenter;
use segmenter::decode::SpacingFrom;
use segmenter::result::Instance;
use segmenter::seg::Volume;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock;
use crate::failure::Reason;
use crate::job::{self, Job, Ticket};
use crate::outbox::Message;
use crate::privacy::{Identifiers, Privacy};
use crate::segment::Found;

/// Who speaks: this process.
#[derive(Debug, Clone)]
pub struct Speaker {
    pub node: String,
    pub boot: Uuid,
    pub inline_max_bytes: usize,
    pub privacy: Privacy,
}

/// One image's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub job_id: Uuid,
    /// On this box; copies of an image have one each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Ticket>,
    pub seq: u64,
    pub node: String,
    pub boot: Uuid,
    pub received_at: String,
    pub finished_at: String,
    pub source: String,
    pub image: Image,
    pub model: Model,
    pub timing_ms: TimingMs,
    pub instances: Vec<Entry>,
    /// Where the masks are when they are not inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<Masks>,
    pub warnings: Vec<String>,
    pub replay: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Of the input file.
    pub sha256: String,
    pub rows: usize,
    pub cols: usize,
    pub frames: usize,
    /// Between rows, between columns; none where frames differ.
    pub spacing_mm: Option<[f64; 2]>,
    /// Of each frame, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacings_mm: Option<Vec<Option<[f64; 2]>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacing_from: Option<SpacingFrom>,
    pub modality: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifiers: Option<Identifiers>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    pub version: String,
    pub digest: String,
    pub precision: contract::manifest::Precision,
    /// What f32 was multiplied as, "f16" or "bf16".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_precision: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimingMs {
    /// From acceptance to the inference thread.
    pub wait: f64,
    pub decode: f64,
    pub preprocess: f64,
    pub infer: f64,
    pub postprocess: f64,
    /// Masks to run lengths, areas and boxes.
    pub encode: f64,
}

/// An instance with its mask inline, or without when the masks travel apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    Inline(Instance),
    Bare(BareInstance),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BareInstance {
    pub id: u8,
    pub label: String,
    pub frame: usize,
    pub bbox: contract::mask::BoundingBox,
    pub area_px: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_mm2: Option<f64>,
}

/// Joined payloads of `<topic>/1` to `<topic>/<parts>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masks {
    /// Below the node's root.
    pub topic: String,
    pub parts: usize,
    pub bytes: usize,
    pub sha256: String,
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

/// What is said of a series whose segmentation was made. No UID: `series` follows from the jobs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeriesFacts {
    pub series: Uuid,
    pub source: String,
    pub images: usize,
    pub model: Model,
    /// Of every class, where the planes tell.
    pub volumes: Vec<Volume>,
    pub warnings: Vec<String>,
    /// How many images some of the warnings are about.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub warned_images: BTreeMap<String, usize>,
    /// Which volume of the series this is, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeOf>,
    /// Segmentations of before that this one and those said with it take the place of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<Uuid>,
    /// Of the images; empty where they would make the message too large.
    pub jobs: Vec<Uuid>,
}

/// One of the volumes of a series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumeOf {
    /// From 1.
    pub number: usize,
    pub of: usize,
    /// Keywords of the attributes that set it apart, with its values.
    pub by: BTreeMap<String, String>,
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

impl Speaker {
    /// The object that MQTT carries and `scansided segment` prints; `seq` is 0 outside the outbox.
    /// `model`: what made it of the image.
    pub fn report(&self, found: Found, origin: &Origin, model: &Model) -> Report {
        let ms = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        Report {
            schema: "result/1".to_owned(),
            job_id: job::job_id(&found.sha256, model),
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
        (ticket, job): (Ticket, &Job),
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
            source: &job.source,
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

impl Speaker {
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

impl From<&Segmenter> for Model {
    fn from(segmenter: &Segmenter) -> Self {
        let manifest = segmenter.manifest();
        Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: manifest.digest.clone(),
            precision: manifest.precision,
            half_precision: segmenter.half_precision().map(str::to_owned),
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
        sha256: job::sha256(&joined),
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
