//! `result/<source>`: what was found in one image.

use contract::mask::{BoundingBox, Rle};
use schemars::JsonSchema;
use segmenter::decode::SpacingFrom;
use segmenter::result;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::privacy::Identifiers;

/// Number of an acceptance on this box: two copies of one file have two tickets and one job id.
pub type Ticket = u64;

pub const SCHEMA: &str = "result/1";

/// What `<base>/v1/<node>/result/<source>` carries for one image. Later versions of /1 only add fields; ignore those you
/// do not know. Delivery is at least once: `job_id` tells copies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Scanside result", extend("$id" = SCHEMA))]
pub struct Report {
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// UUID version 5 of input file, model digest and parameters: the same input and model give the same id.
    pub job_id: Uuid,
    /// Number of the acceptance on this box, as HTTP's 202 and `scansided ledger show` have it; copies of an image have
    /// one each. Absent from `scansided segment`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub job: Option<Ticket>,
    /// Number of this message among the node's results and events; 0 from `scansided segment`.
    pub seq: u64,
    pub node: String,
    /// Start of the daemon that made the result.
    pub boot: Uuid,
    #[schemars(extend("format" = "date-time"))]
    pub received_at: String,
    #[schemars(extend("format" = "date-time"))]
    pub finished_at: String,
    /// Configured name of the input.
    pub source: String,
    pub image: Image,
    pub model: Model,
    pub timing_ms: TimingMs,
    pub instances: Vec<Instance>,
    /// Only when the masks are not inline: payloads of `<topic>/1` to `<topic>/<parts>`, joined, are the JSON array of all
    /// instances with masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masks: Option<Masks>,
    /// `spacing_unknown` (of a frame or of all), `spacing_at_detector` (areas are those of the shadow on the detector),
    /// `spacing_nominal` (areas are those on the film that was scanned), `orientation_applied` (the picture was turned as
    /// the file says, and masks lie on it as viewers show it), `image_flat` (a frame has one value everywhere, or within
    /// the model's window), `values_not_finite` (NaN and infinities were taken for the lowest value), `sop_class_unknown`
    /// (a class that is not the standard's was taken for an image), `no_segmentation` (with `[seg]`: no segmentation can
    /// refer to the image, and the word behind it says why: `uid_missing`, `uid_invalid`), `instances_in_parts` (all
    /// instances are in the mask parts only); more may come.
    pub warnings: Vec<String>,
    /// True in a message of a replay, which is the first copy but for this; in MQTT 5 it has the user property
    /// `replayed` = `true`, too.
    pub replay: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// Hex, over the input file.
    pub sha256: String,
    /// Rows, columns, boxes and masks are those of the picture as it is shown: PNG, JPEG and TIFF after their EXIF
    /// orientation (warning `orientation_applied`).
    #[schemars(range(min = 1))]
    pub rows: usize,
    #[schemars(range(min = 1))]
    pub cols: usize,
    #[schemars(range(min = 1))]
    pub frames: usize,
    /// Between rows, between columns; null where it is unknown and where frames differ.
    pub spacing_mm: Option<[f64; 2]>,
    /// Of each frame, only where frames differ; `area_mm2` follows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spacings_mm: Option<Vec<Option<[f64; 2]>>>,
    /// DICOM attribute that the spacing comes from; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spacing_from: Option<SpacingFrom>,
    /// DICOM Modality (0008,0060).
    pub modality: Option<String>,
    /// Of a DICOM file, unless `privacy.identifiers` is `none`; null where the file has none. `hashed`: the first 32 hex
    /// digits of HMAC-SHA256 over the value, under the key of the box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifiers: Option<Identifiers>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    pub name: String,
    pub version: String,
    /// Hex SHA-256 of the bundle's manifest.
    pub digest: String,
    pub precision: contract::manifest::Precision,
    /// What f32 was multiplied as, with `models.half_precision`; absent where it is f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["f16", "bf16"]))]
    pub half_precision: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimingMs {
    /// From acceptance to the inference thread.
    #[schemars(range(min = 0))]
    pub wait: f64,
    #[schemars(range(min = 0))]
    pub decode: f64,
    #[schemars(range(min = 0))]
    pub preprocess: f64,
    #[schemars(range(min = 0))]
    pub infer: f64,
    #[schemars(range(min = 0))]
    pub postprocess: f64,
    /// Masks to run lengths, areas and boxes.
    #[schemars(range(min = 0))]
    pub encode: f64,
}

/// One class found in one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Class id in the manifest.
    #[schemars(range(min = 1))]
    pub id: u8,
    pub label: String,
    /// From 0.
    pub frame: usize,
    /// x, y, width, height in px.
    pub bbox: BoundingBox,
    pub area_px: usize,
    /// Only when the file states its pixel spacing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub area_mm2: Option<f64>,
    /// COCO run-length encoding as pycocotools reads it: column-major, first run background. Absent where `masks` says
    /// that the masks travel apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Rle>,
}

impl From<result::Instance> for Instance {
    fn from(found: result::Instance) -> Self {
        Self {
            id: found.id,
            label: found.label,
            frame: found.frame,
            bbox: found.bbox,
            area_px: found.area_px,
            area_mm2: found.area_mm2,
            mask: Some(found.mask),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Masks {
    /// Below the node's root.
    pub topic: String,
    #[schemars(range(min = 1))]
    pub parts: usize,
    /// Of all parts together.
    #[schemars(range(min = 1))]
    pub bytes: usize,
    /// Hex, over all parts together.
    pub sha256: String,
}
