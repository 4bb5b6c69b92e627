//! What a segmentation of its series will need of an image, in words of the outbox.

use segmenter::decode::Limits;
use segmenter::decode::source::{self, SourceError};
use segmenter::seg;

use crate::clock;
use crate::models::Serving;
use crate::outbox::slices::Slice;
use crate::report::{Findings, job_id};

/// A file, what was found in it, and the source that it came from.
pub struct SegmentedImage<'a> {
    pub bytes: &'a [u8],
    pub findings: &'a Findings,
    pub source: &'a str,
}

impl Slice {
    /// `None` for an image that is not DICOM.
    pub fn note(
        image: &SegmentedImage<'_>,
        serving: &Serving,
        limits: &Limits,
    ) -> Result<Option<Self>, SourceError> {
        let SegmentedImage {
            bytes,
            findings: found,
            source: source_name,
        } = *image;
        let Some(source) = source::read(bytes, limits)? else {
            return Ok(None);
        };
        let masks = found.instances.iter().map(|instance| seg::Found {
            frame: instance.frame,
            class: instance.id,
            area_px: instance.area_px,
            mask: instance.mask.clone(),
        });
        let job_id = job_id(&found.sha256, &serving.model);
        for problem in source::doubts(bytes, limits) {
            tracing::warn!(
                %job_id,
                source = source_name,
                %problem,
                "text of an image for its segmentation"
            );
        }
        Ok(Some(Self {
            job_id,
            source: source_name.to_owned(),
            finished_at: clock::now(),
            model: serving.model.clone(),
            classes: serving.segmenter.manifest().classes.clone(),
            image: seg::Slice {
                source,
                rows: found.image.rows,
                cols: found.image.cols,
                frames: found.image.frames,
                masks: masks.collect(),
            },
        }))
    }
}
