//! One file's bytes to findings: decode, preprocess, infer, postprocess as one plain function, for the
//! inference thread and `scansided segment` alike.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::LabelMap;
use segmenter::decode::Identifiers;
use segmenter::decode::orientation::{Orientation, orientation};
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
    if orientation(bytes) != Orientation::NoTransforms {
        warnings.push("orientation_applied".to_owned());
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use segmenter::decode::Limits;

    use super::*;

    /// 16 rows and 32 columns of 8 bits, uncompressed.
    fn tiff(orientation: u32) -> Arc<Vec<u8>> {
        // Width, height, bits, no compression, black is 0, the strip's place, orientation, rows in it, its length.
        let tags: [(u16, u32); 9] = [
            (256, 32),
            (257, 16),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, 122),
            (274, orientation),
            (278, 16),
            (279, 512),
        ];
        let mut bytes = b"II*\0\x08\0\0\0\x09\0".to_vec();
        for (tag, value) in tags {
            bytes.extend(tag.to_le_bytes());
            bytes.extend([3, 0, 1, 0, 0, 0]);
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0; 4]);
        assert_eq!(bytes.len(), 122);
        bytes.extend((0..512_u32).map(|i| (i % 251) as u8));
        Arc::new(bytes)
    }

    /// The mask lies on the picture as viewers show it, and the result says so.
    #[test]
    fn a_picture_that_was_turned_has_its_shown_size_and_a_warning() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let bundle = root.join("models/zoo/cardiac-lv-vit_t-256");
        let segmenter = Segmenter::open(&bundle).unwrap();
        let mut decoder = Decoder::new(Limits::STANDARD);
        for (orientation, size, turned) in [
            (1, (16, 32), false),
            (3, (16, 32), true),
            (6, (32, 16), true),
        ] {
            let found = segment(&segmenter, &mut decoder, &tiff(orientation)).unwrap();
            assert_eq!((found.image.rows, found.image.cols), size);
            assert_eq!((found.labels[0].rows, found.labels[0].cols), size);
            let said = found.warnings.iter().any(|it| it == "orientation_applied");
            assert_eq!(said, turned, "{:?}", found.warnings);
        }
    }
}
