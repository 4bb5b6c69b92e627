//! One file's bytes to findings: decode, preprocess, infer, postprocess as one plain function, for the
//! inference thread and `scansided segment` alike.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::LabelMap;
use segmenter::decode::Identifiers;
use segmenter::result::{Instance, instances};
use segmenter::{Segmenter, Timing};

use crate::decoder::Decoder;
use crate::encode::Image;
use crate::failure::Failure;
use crate::job;

/// What was found in one file.
#[derive(Debug)]
pub struct Found {
    pub image: Image,
    /// Of the patient, and not for everybody: see `privacy`.
    pub identifiers: Identifiers,
    pub sha256: String,
    pub instances: Vec<Instance>,
    pub warnings: Vec<String>,
    pub decode: Duration,
    /// Summed over frames.
    pub timing: Timing,
    /// Label maps to instances.
    pub encode: Duration,
    /// Decoded frames and their label maps, for overlays.
    pub frames: Vec<contract::Image>,
    pub labels: Vec<LabelMap>,
}

/// A panic anywhere in decoding or inference is this image's failure, not the program's.
pub fn segment(
    segmenter: &Segmenter,
    decoder: &mut Decoder,
    bytes: &Arc<Vec<u8>>,
) -> Result<Found, Failure> {
    catch_unwind(AssertUnwindSafe(|| chain(segmenter, decoder, bytes))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Failure::Panic {
            message: text.unwrap_or_else(|| "no message".to_owned()),
        })
    })
}

fn chain(
    segmenter: &Segmenter,
    decoder: &mut Decoder,
    bytes: &Arc<Vec<u8>>,
) -> Result<Found, Failure> {
    let start = Instant::now();
    let scan = decoder.decode(bytes)?;
    let decode = start.elapsed();
    let mut timing = Timing::default();
    let mut labels = Vec::with_capacity(scan.frames.len());
    for frame in &scan.frames {
        let (map, took) = segmenter.segment(frame)?;
        timing.preprocess += took.preprocess;
        timing.infer += took.infer;
        timing.postprocess += took.postprocess;
        labels.push(map);
    }
    let start = Instant::now();
    let instances = instances(&labels, segmenter.manifest(), scan.spacing_mm);
    let encode = start.elapsed();
    let first = scan.frames.first().expect("a scan has at least one frame");
    let mut warnings = Vec::new();
    if scan.spacing_mm.is_none() {
        warnings.push("spacing_unknown".to_owned());
    }
    let sha256 = job::sha256(bytes);
    Ok(Found {
        image: Image {
            sha256: sha256.clone(),
            rows: first.rows,
            cols: first.cols,
            frames: scan.frames.len(),
            spacing_mm: scan.spacing_mm,
            modality: scan.modality,
            identifiers: None,
        },
        identifiers: scan.identifiers,
        sha256,
        instances,
        warnings,
        decode,
        timing,
        encode,
        frames: scan.frames,
        labels,
    })
}
