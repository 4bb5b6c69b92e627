//! What a segmentation of its series will need of an image, in words of the outbox.

use contract::Manifest;
use segmenter::decode::Limits;
use segmenter::decode::source::{self, SourceError};
use segmenter::seg;

use crate::clock;
use crate::outbox::slices::Slice;
use crate::report::{Findings, Model, job_id};

impl Slice {
    /// Of what `segmenter` found in an image; `None` for one that is not DICOM.
    pub fn note(
        bytes: &[u8],
        found: &Findings,
        source_name: &str,
        serving: (&Model, &Manifest),
        limits: &Limits,
    ) -> Result<Option<Self>, SourceError> {
        let Some(source) = source::read(bytes, limits)? else {
            return Ok(None);
        };
        let masks = found.instances.iter().map(|instance| seg::Found {
            frame: instance.frame,
            class: instance.id,
            area_px: instance.area_px,
            mask: instance.mask.clone(),
        });
        let (model, manifest) = serving;
        let job_id = job_id(&found.sha256, model);
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
            model: model.clone(),
            classes: manifest.classes.clone(),
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
