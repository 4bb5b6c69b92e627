//! The slices of one series to its segmentations: one, or one for each kind of image where a series
//! mixes sizes, frames of reference or models.

use std::collections::BTreeMap;

use segmenter::seg;
use uuid::Uuid;

use super::Slice;
use crate::encode::SeriesFacts;

/// An object and what is said about it.
#[derive(Debug)]
pub(super) struct Segmentation {
    pub(super) sop_instance_uid: String,
    pub(super) bytes: Vec<u8>,
    pub(super) facts: SeriesFacts,
}

/// Images of one size, frame of reference and model, as far as they have planes.
type Kind = (String, usize, usize, Option<String>);

/// What cannot be made is said and left out: a series that is wrong in itself must not hold up others.
pub(super) fn make(slices: &[Slice], node: &str) -> Vec<Segmentation> {
    let mut kinds: BTreeMap<Kind, BTreeMap<&str, &Slice>> = BTreeMap::new();
    for slice in slices {
        let image = &slice.image;
        let space = image.source.frame_of_reference_uid.clone();
        let space = space.filter(|_| image.has_planes());
        let kind = (slice.model.digest.clone(), image.rows, image.cols, space);
        // The last one of an object that came twice with other pixels.
        let objects = kinds.entry(kind).or_default();
        objects.insert(&image.source.sop_instance_uid, slice);
    }
    let of = |objects: BTreeMap<&str, &Slice>| {
        let slices: Vec<&Slice> = objects.into_values().collect();
        one(&slices, node)
            .inspect_err(|error| tracing::error!(%error, images = slices.len(), "no segmentation"))
            .ok()
    };
    kinds.into_values().filter_map(of).collect()
}

fn one(slices: &[&Slice], node: &str) -> Result<Segmentation, seg::SegError> {
    let first = slices.first().ok_or(seg::SegError::NoImage)?;
    let mut jobs: Vec<Uuid> = slices.iter().map(|slice| slice.job_id).collect();
    jobs.sort();
    let series = series_id(&jobs);
    // Of the images, so that a segmentation that is made again is the same to the byte.
    let made_at = slices.iter().map(|slice| &slice.finished_at).max();
    let about = seg::About {
        sop_instance_uid: uid(series),
        series_instance_uid: uid(named(&[
            "seg-series/1",
            first.series(),
            &first.model.digest,
        ])),
        dimension_organization_uid: uid(named(&["seg-dimensions/1", &series.to_string()])),
        classes: &first.classes,
        model_name: &first.model.name,
        model_version: &first.model.version,
        software_version: env!("CARGO_PKG_VERSION"),
        node,
        made_at: made_at.map_or("", String::as_str),
    };
    let images: Vec<seg::Slice> = slices.iter().map(|slice| slice.image.clone()).collect();
    let seg::Volumes { volumes, warnings } = seg::volumes(&images, &first.classes);
    Ok(Segmentation {
        bytes: seg::encode(&images, &about)?,
        sop_instance_uid: about.sop_instance_uid,
        facts: SeriesFacts {
            series,
            source: first.source.clone(),
            images: slices.len(),
            model: first.model.clone(),
            volumes,
            warnings,
            jobs,
        },
    })
}

/// Function of the jobs, which are functions of pixels and model: copies of a segmentation carry the
/// same id.
fn series_id(jobs: &[Uuid]) -> Uuid {
    let jobs: Vec<String> = jobs.iter().map(Uuid::to_string).collect();
    named(&["seg/1", &jobs.join("\n")])
}

fn named(parts: &[&str]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, parts.join("\n").as_bytes())
}

/// PS3.5 section B.2.
fn uid(id: Uuid) -> String {
    format!("2.25.{}", id.as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seg::tests::slice;

    #[test]
    fn a_segmentation_is_a_function_of_its_images() {
        let slices = [slice(1, 2), slice(2, 3), slice(3, 0)];
        let made = make(&slices, "box-1");
        assert_eq!((made.len(), made[0].facts.images), (1, 3));
        let turned: Vec<Slice> = slices.iter().rev().cloned().collect();
        let again = make(&turned, "box-1");
        assert_eq!(again[0].bytes, made[0].bytes);
        assert_eq!(again[0].sop_instance_uid, uid(made[0].facts.series));
        let fewer = make(&slices[1..], "box-1");
        assert_ne!(fewer[0].facts.series, made[0].facts.series);
        // 5 px of 1 mm² in planes 5 mm apart.
        let volume = made[0].facts.volumes[0].volume_ml;
        assert!((volume - 0.025).abs() < 1e-9, "{volume}");
    }

    #[test]
    fn what_does_not_go_together_has_segmentations_of_its_own() {
        let mut scout = slice(2, 0);
        scout.image.rows = 4;
        let mut flat = slice(3, 0);
        flat.image.source.planes.clear();
        let mut other = slice(4, 0);
        other.model.digest = "other".into();
        let made = make(&[slice(1, 2), scout, flat, other], "box-1");
        assert_eq!(made.len(), 4);
        // An object that came twice counts once, and a mask that is wrong gives nothing.
        let mut copy = slice(1, 3);
        copy.job_id = Uuid::nil();
        assert_eq!(make(&[slice(1, 2), copy], "box-1")[0].facts.images, 1);
        let mut broken = slice(1, 2);
        broken.image.cols = 7;
        assert_eq!(make(&[broken, slice(2, 1)], "box-1").len(), 1);
    }
}
