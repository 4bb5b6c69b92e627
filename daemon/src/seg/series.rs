//! The slices of one series to its segmentations: one for each volume of it, apart for each kind of
//! image where a series mixes sizes, frames of reference or models.

use std::collections::{BTreeMap, BTreeSet};

use segmenter::seg::{self, Part};
use uuid::Uuid;

use super::Slice;
use crate::report::{SeriesFacts, VolumeOf, sha256};

/// An object and what is said about it.
#[derive(Debug)]
pub(super) struct Segmentation {
    pub(super) sop_instance_uid: String,
    /// `None` where it could not be made.
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) facts: SeriesFacts,
}

impl Segmentation {
    /// No patient attribute and no UID: `series` is what the event says, too.
    pub(super) fn log(&self) {
        let facts = &self.facts;
        let (series, images) = (facts.series, facts.images);
        let Some(bytes) = &self.bytes else {
            return;
        };
        let bytes = bytes.len();
        tracing::info!(%series, images, bytes, "segmentation of a series made");
        if !facts.replaces.is_empty() {
            let replaces = facts.replaces.len();
            tracing::warn!(%series, replaces, "images came late, so it takes the place of others");
        }
        for why in &facts.warnings {
            let of_images = facts.warned_images.get(why);
            tracing::warn!(%series, why, of_images, "segmentation with a warning");
        }
    }
}

/// Images of one size, frame of reference and model, as far as they have planes.
type Kind = (String, usize, usize, Option<String>);

/// The images of a series under one model.
#[derive(Default)]
struct Images<'a> {
    kinds: BTreeMap<Kind, BTreeMap<&'a str, &'a Slice>>,
    /// Images left out of a kind, because a later one has their UID.
    shared: BTreeMap<Kind, usize>,
}

/// The images that were segmented before, then those that came now, an image that came twice as it
/// was at first: so its segmentation is the same to the byte.
pub(super) fn merge_images(before: Vec<Slice>, now: &[Slice]) -> Vec<Slice> {
    let known: BTreeSet<Uuid> = before.iter().map(|slice| slice.job_id).collect();
    let fresh = now.iter().filter(|slice| !known.contains(&slice.job_id));
    let fresh: Vec<Slice> = fresh.cloned().collect();
    before.into_iter().chain(fresh).collect()
}

/// What cannot be made is said: a series that is wrong in itself must not hold up others.
pub(super) fn make(slices: &[Slice], node: &str) -> Vec<Segmentation> {
    let images = Images::of(slices);
    let models: BTreeSet<&String> = images.kinds.keys().map(|(model, ..)| model).collect();
    let mut made = Vec::new();
    for (kind, objects) in &images.kinds {
        let slices: Vec<&Slice> = objects.values().copied().collect();
        let mut warnings = Warnings::default();
        warnings.add("uid_shared", images.shared.get(kind).copied().unwrap_or(0));
        let same_model = images.kinds.keys().filter(|(model, ..)| *model == kind.0);
        warnings.note("images_differ", same_model.count() > 1);
        warnings.note("models_differ", models.len() > 1);
        let sources: Vec<seg::Slice> = slices.iter().map(|slice| slice.image.clone()).collect();
        let parts = seg::parts(&sources);
        let of = parts.len();
        for (number, part) in (1..).zip(parts) {
            let by = part.by.iter().cloned().collect();
            let volume = (of > 1).then_some(VolumeOf { number, of, by });
            made.push(make_one(&slices, &part, (volume, warnings.clone()), node));
        }
    }
    made
}

impl<'a> Images<'a> {
    fn of(slices: &'a [Slice]) -> Self {
        let mut images = Self::default();
        let mut seen: BTreeMap<(&str, &str), (Kind, Uuid)> = BTreeMap::new();
        for slice in slices {
            let uid: &str = &slice.image.source.sop_instance_uid;
            let kind = kind(slice);
            let claim = (kind.clone(), slice.job_id);
            // The last one of a UID: its sender may have put it right.
            if let Some((of, job_id)) = seen.insert((&slice.model.digest, uid), claim) {
                if job_id != slice.job_id {
                    *images.shared.entry(kind.clone()).or_default() += 1;
                }
                if let Some(objects) = images.kinds.get_mut(&of) {
                    objects.remove(uid);
                }
            }
            images.kinds.entry(kind).or_default().insert(uid, slice);
        }
        images.kinds.retain(|_, objects| !objects.is_empty());
        images
    }
}

fn kind(slice: &Slice) -> Kind {
    let image = &slice.image;
    let space = image.source.frame_of_reference_uid.clone();
    let space = space.filter(|_| image.has_planes());
    (slice.model.digest.clone(), image.rows, image.cols, space)
}

/// Stable words, some with a number of images.
#[derive(Debug, Clone, Default)]
struct Warnings {
    words: Vec<String>,
    images: BTreeMap<String, usize>,
}

impl Warnings {
    fn note(&mut self, word: &str, holds: bool) {
        if holds {
            self.words.push(word.to_owned());
        }
    }

    fn add(&mut self, word: &str, images: usize) {
        self.note(word, images > 0);
        if images > 0 {
            self.images.insert(word.to_owned(), images);
        }
    }
}

fn make_one(
    slices: &[&Slice],
    part: &Part,
    (volume, mut warnings): (Option<VolumeOf>, Warnings),
    node: &str,
) -> Segmentation {
    let (slices, frames) = slices_of_part(slices, part);
    let images: Vec<seg::Slice> = slices.iter().map(|slice| slice.image.clone()).collect();
    let first = slices[0];
    let mut jobs: Vec<Uuid> = slices.iter().map(|slice| slice.job_id).collect();
    jobs.sort();
    let by = words(part);
    let (_, rows, cols, space) = kind(first);
    let lineage = uuid_of(&[
        "seg-series/2",
        first.series(),
        &first.model.digest,
        &format!("{rows} {cols} {}", space.unwrap_or_default()),
        &by,
    ]);
    // Of the images, so that a segmentation that is made again is the same to the byte.
    let made_at = slices.iter().map(|slice| &slice.finished_at).max();
    let mut about = seg::About {
        sop_instance_uid: String::new(),
        series_instance_uid: uid(lineage),
        dimension_organization_uid: String::new(),
        // More images are the newer state of the series.
        instance_number: images.len(),
        volume: &by,
        classes: &first.classes,
        model_name: &first.model.name,
        model_version: &first.model.version,
        software_version: env!("CARGO_PKG_VERSION"),
        node,
        made_at: made_at.map_or("", String::as_str),
    };
    let series = content_id(&images, &frames, &about);
    about.sop_instance_uid = uid(series);
    about.dimension_organization_uid = uid(uuid_of(&["seg-dimensions/2", &series.to_string()]));
    let volumes = seg::volumes(&images, &frames, &first.classes);
    if volumes.n_missing > 0 {
        let word = "slice_missing".to_owned();
        warnings.images.insert(word, volumes.n_missing);
    }
    let odd = images.iter().filter(|image| image.source.has_odd_uid);
    warnings.add("uid_invalid", odd.count());
    warnings.note("volumes_by_order", part.by_order);
    let bytes = seg::encode(&images, &frames, &about)
        .inspect_err(|error| tracing::error!(%error, images = slices.len(), "no segmentation"))
        .ok();
    warnings.note("not_made", bytes.is_none());
    Segmentation {
        bytes,
        sop_instance_uid: about.sop_instance_uid,
        facts: SeriesFacts {
            series,
            source: first.source.clone(),
            images: slices.len(),
            model: first.model.clone(),
            volumes: volumes.volumes,
            warnings: [volumes.warnings, warnings.words].concat(),
            warned_images: warnings.images,
            volume,
            replaces: Vec::new(),
            jobs,
        },
    }
}

/// What sets the part apart from others of its series.
fn words(part: &Part) -> String {
    let by = part.by.iter();
    let by = by.map(|(word, value)| format!("{word} {value}"));
    by.collect::<Vec<String>>().join(", ")
}

/// The slices of a part alone, and its frames by their numbers among these.
fn slices_of_part<'a>(slices: &[&'a Slice], part: &Part) -> (Vec<&'a Slice>, Vec<(usize, usize)>) {
    let used: BTreeSet<usize> = part.frames.iter().map(|(slice, _)| *slice).collect();
    let number: BTreeMap<usize, usize> = used.iter().copied().zip(0..).collect();
    let of = |(slice, frame): &(usize, usize)| (number[slice], *frame);
    let frames = part.frames.iter().map(of).collect();
    let slices = used.into_iter().map(|index| slices[index]).collect();
    (slices, frames)
}

/// Function of everything that is written, because a PACS keeps the first bytes that it gets under a
/// UID, whatever comes after them.
fn content_id(images: &[seg::Slice], frames: &[(usize, usize)], about: &seg::About) -> Uuid {
    let words = [
        about.series_instance_uid.as_str(),
        about.model_name,
        about.model_version,
        about.software_version,
        about.node,
        about.made_at,
    ];
    let content = serde_json::to_vec(&(images, frames, about.classes, words));
    let content = content.expect("images and classes are plain data");
    uuid_of(&["seg/2", &sha256(&content)])
}

fn uuid_of(parts: &[&str]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, parts.join("\n").as_bytes())
}

/// PS3.5 section B.2.
fn uid(id: Uuid) -> String {
    format!("2.25.{}", id.as_u128())
}

#[cfg(test)]
mod tests {
    use segmenter::decode::acquisition::Acquisition;

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
        for made in &made {
            let words = &made.facts.warnings;
            assert!(words.contains(&"models_differ".into()), "{words:?}");
            let differ = words.contains(&"images_differ".into());
            assert_eq!(differ, made.facts.model.digest != "other");
        }
        // A mask that is wrong gives nothing but words.
        let mut broken = slice(1, 2);
        broken.image.cols = 7;
        let made = make(&[broken, slice(2, 1)], "box-1");
        let bytes = made.iter().map(|made| made.bytes.is_some());
        assert_eq!(bytes.collect::<Vec<_>>(), [true, false]);
        assert!(made[1].facts.warnings.contains(&"not_made".into()));
    }

    #[test]
    fn two_images_of_one_uid_are_said() {
        let mut claims = slice(3, 3);
        let uid = slice(2, 2).image.source.sop_instance_uid;
        claims.image.source.sop_instance_uid = uid;
        let series = [slice(1, 2), slice(2, 2), claims, slice(4, 1)];
        let made = make(&series, "box-1");
        let facts = &made[0].facts;
        assert_eq!(facts.images, 3);
        assert!(facts.warnings.contains(&"uid_shared".into()), "{facts:?}");
        assert_eq!(facts.warned_images["uid_shared"], 1);
        // The same image again is a copy.
        let made = make(&[slice(1, 2), slice(1, 2), slice(2, 2)], "box-1");
        assert_eq!(made[0].facts.images, 2);
        assert_eq!(made[0].facts.warnings, [""; 0], "{:?}", made[0].facts);
    }

    #[test]
    fn other_bytes_have_another_uid() {
        let series = [slice(1, 2), slice(2, 3)];
        let made = &make(&series, "box-1")[0];
        let renamed = &make(&series, "box-2")[0];
        let mut later = series.clone();
        later[1].finished_at = "2026-11-25T00:00:00.000Z".into();
        let later = &make(&later, "box-1")[0];
        for other in [renamed, later] {
            assert_ne!(other.bytes, made.bytes);
            assert_ne!(other.sop_instance_uid, made.sop_instance_uid);
        }
        // Sent again, an image is what it was.
        let mut again = series.clone();
        again[0].finished_at = "2026-11-26T00:00:00.000Z".into();
        let joined = merge_images(series.to_vec(), &again[..1]);
        assert_eq!(make(&joined, "box-1")[0].bytes, made.bytes);
    }

    #[test]
    fn volumes_have_segmentations_of_their_own() {
        let echo = |number: u8, z: u8, echo: &str| {
            let mut slice = slice(number, 2);
            let values = vec![("EchoNumbers".to_owned(), echo.to_owned())];
            slice.image.source.planes[0].position = format!("0\\0\\{z}");
            slice.image.source.acquisitions = vec![Acquisition {
                values,
                at: String::new(),
            }];
            slice.image.source.has_odd_uid = number == 4;
            slice
        };
        let series = [
            echo(1, 0, "1"),
            echo(2, 4, "1"),
            echo(3, 0, "2"),
            echo(4, 4, "2"),
        ];
        let made = make(&series, "box-1");
        let volume = |made: &Segmentation| {
            let volume = made.facts.volume.clone().unwrap();
            (volume.number, volume.of, volume.by["EchoNumbers"].clone())
        };
        assert_eq!(made.len(), 2);
        assert_eq!(volume(&made[0]), (1, 2, "1".into()));
        assert_eq!(volume(&made[1]), (2, 2, "2".into()));
        assert_eq!(made[0].facts.warnings, [""; 0]);
        assert_eq!(made[1].facts.warned_images["uid_invalid"], 1);
        // The first volume is not of the images of the second one.
        let first = &make(&series[..2], "box-1")[0];
        assert_eq!(first.facts.jobs, made[0].facts.jobs);
    }
}
