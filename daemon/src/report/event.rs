//! `event`: what subscribers have to know once.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use segmenter::seg::Volume;
use serde::Serialize;
use uuid::Uuid;

use super::branch::only_with;
use super::result::{Model, Ticket};
use crate::failure::Reason;

pub const SCHEMA: &str = "event/1";

/// What `<base>/v1/<node>/event` carries: an image that has no result, a series whose segmentation was made, or a state
/// directory that is not the one of before. Delivery is at least once: `node` and `seq` tell copies. Later versions of /1
/// only add fields; ignore those you do not know.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Scanside event", extend("$id" = SCHEMA))]
pub struct Event<'a> {
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// `state_created`: a new state directory, whose `seq` begins at 1; `state_renamed`: it had another node's name.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// Number of this message among the node's results and events.
    #[schemars(range(min = 1))]
    pub seq: u64,
    pub node: &'a str,
    /// Start of the daemon that made the event.
    pub boot: Uuid,
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    #[serde(flatten)]
    pub facts: Facts<'a>,
    /// True in a message of a replay; absent otherwise. It is put into the bytes that were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Quarantined,
    Series,
    StateCreated,
    StateRenamed,
}

/// What happened: the fields that go with a kind.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Facts<'a> {
    Quarantined(Quarantined<'a>),
    Series(&'a SeriesFacts),
    StateDirectory(StateDirectory<'a>),
}

/// An accepted image that has no result.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(transform = only_quarantined)]
pub struct Quarantined<'a> {
    /// Configured name of the input.
    pub source: &'a str,
    /// Its number on this box, as HTTP's 202 and `scansided ledger show` have it.
    #[schemars(range(min = 1))]
    pub job: Ticket,
    /// That of the result the image would have had; null where no model was reached.
    pub job_id: Option<Uuid>,
    #[serde(flatten)]
    pub reason: &'a Reason,
}

/// A series whose segmentation was made. No UID: `series` follows from the jobs.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(transform = only_series)]
pub struct SeriesFacts {
    /// The same for copies; other bytes have another one. No UID of an image: as a number behind `2.25.` it is the SOP
    /// Instance UID of the segmentation.
    pub series: Uuid,
    /// Configured name of the input.
    pub source: String,
    /// Images that the segmentation was made of.
    #[schemars(range(min = 1))]
    pub images: usize,
    /// What made the masks.
    pub model: Model,
    /// What each class fills, where the planes tell.
    pub volumes: Vec<Volume>,
    /// Stable words. `planes_unknown` (the images do not say where they lie), `planes_uneven` (distances differ by more
    /// than 1 %), `slice_missing` (a hole in an even stack), `planes_sheared` (planes shift sideways, as with a tilted
    /// gantry; readers that lay them on a grid do not shift them), `thickness_unknown` (a single plane),
    /// `frame_size_misread` (some readers shift or refuse frames of this size, see daemon.toml), `volumes_by_order` (no
    /// attribute tells the volumes of the series apart, only the order of images in each place), `images_differ` (the
    /// series has images of other sizes or frames of reference, with segmentations of their own), `models_differ` (other
    /// images of it were segmented by another model), `uid_shared` (two images claim one SOP Instance UID; the later one
    /// is in the segmentation), `uid_invalid` (UIDs of images are none by the standard, and are repeated as they are),
    /// `series_in_parts` (the series has more images than `series_max_images`; earlier ones are in an earlier
    /// segmentation), `not_made` (there is no object; the log says why).
    pub warnings: Vec<String>,
    /// Number of images that a warning is about, by warning: those that are missing, left out or named by no UID.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub warned_images: BTreeMap<String, usize>,
    /// Which volume of the images' series the segmentation is of, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeOf>,
    /// Earlier segmentations of the series that those said now take the place of, because images came late.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<Uuid>,
    /// `job_id` of the images; empty where they would make the message too large.
    pub jobs: Vec<Uuid>,
}

/// One of the volumes of a series.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct VolumeOf {
    #[schemars(range(min = 1))]
    pub number: usize,
    #[schemars(range(min = 2))]
    pub of: usize,
    /// Keywords of the DICOM attributes that set it apart, with its values.
    pub by: BTreeMap<String, String>,
}

/// A state directory that is new, or had another node's name.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(transform = only_state_directory)]
pub struct StateDirectory<'a> {
    /// Of `state_renamed`: whose state directory it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_before: Option<&'a str>,
    /// What happened, for people.
    pub words: String,
    /// What to do about it.
    pub remedy: String,
}

fn only_quarantined(schema: &mut Schema) {
    only_with(schema, "event", &[Kind::Quarantined]);
}

fn only_series(schema: &mut Schema) {
    only_with(schema, "event", &[Kind::Series]);
}

fn only_state_directory(schema: &mut Schema) {
    only_with(schema, "event", &[Kind::StateCreated, Kind::StateRenamed]);
}
