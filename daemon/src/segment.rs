//! One file's bytes to findings: decode, preprocess, infer, postprocess as one plain function, for the
//! inference thread and `scansided segment` alike.

pub mod route;
pub mod decoder;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use segmenter::result::{Warning, instances};
use segmenter::{Segmenter, Timing};

use crate::failure::Failure;
use crate::report::{Findings, Image, sha256};
use crate::segment::decoder::Decoder;

/// A panic anywhere in decoding or inference is this image's failure, not the program's.
pub fn segment(
    segmenter: &Segmenter,
    decoder: &mut Decoder,
    bytes: &Arc<Vec<u8>>,
) -> Result<Findings, Failure> {
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
) -> Result<Findings, Failure> {
    let start = Instant::now();
    let scan = decoder.decode(bytes)?;
    let decode = start.elapsed();
    let mut timing = Timing::default();
    let mut labels = Vec::with_capacity(scan.frames.len());
    let mut warnings = scan.warnings;
    for frame in &scan.frames {
        let made = segmenter.segment_noting(frame)?;
        timing.preprocess += made.timing.preprocess;
        timing.infer += made.timing.infer;
        timing.postprocess += made.timing.postprocess;
        labels.push(made.labels);
        if made.is_flat && !warnings.contains(&Warning::ImageFlat) {
            warnings.push(Warning::ImageFlat);
        }
    }
    let start = Instant::now();
    let instances = instances(&labels, segmenter.manifest(), &scan.spacing);
    let encode = start.elapsed();
    let first = scan.frames.first().expect("a scan has at least one frame");
    let sha256 = sha256(bytes);
    Ok(Findings {
        image: Image {
            sha256: sha256.clone(),
            rows: first.rows,
            cols: first.cols,
            frames: scan.frames.len(),
            spacing_mm: scan.spacing.common(),
            spacings_mm: scan.spacing.differing().map(<[_]>::to_vec),
            spacing_from: scan.spacing.from,
            modality: scan.modality,
            identifiers: None,
        },
        identifiers: scan.identifiers,
        sha256,
        instances,
        warnings: warnings.iter().map(|it| it.code().to_owned()).collect(),
        decode,
        timing,
        encode,
        frames: scan.frames,
        labels,
    })
}

#[cfg(test)]
mod tests;
