//! The order of a series' frames in space, and what the masks on them fill.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use contract::manifest::Class;
use serde::{Deserialize, Serialize};

use super::Slice;
use crate::decode::source::numbers;

/// A frame in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of its object.
    pub(super) slice: usize,
    /// From 0.
    pub(super) frame: usize,
    /// From 1, in space; frames that lie in the same place share it.
    pub(super) position: u32,
    /// From 1, among the frames in the same place.
    pub(super) repeat: u32,
}

/// A plane in numbers.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    /// Cosines in steps, which are equal or not.
    orientation: Vec<i64>,
    /// Along the normal, mm.
    distance: f64,
    position: Vec<f64>,
}

const MM3_PER_ML: f64 = 1e3;
const STEPS_OF_COSINES: f64 = 1e3;
/// Scanners repeat a position with noise in its last digits.
const SAME_PLACE_MM: f64 = 0.01;
/// One plane that is missing is bridged by its neighbours, in distances of the stack.
const MISSING_PLANES: f64 = 2.5;

impl Key {
    fn of(slices: &[Slice], slice: usize, frame: usize) -> Option<Self> {
        let slice = slices.get(slice).filter(|slice| slice.has_planes())?;
        let plane = slice.source.planes.get(frame)?;
        let orientation = numbers(&plane.orientation)?;
        let position = numbers(&plane.position)?;
        let [a, b, c, x, y, z] = <[f64; 6]>::try_from(orientation.as_slice()).ok()?;
        let normal = [b * z - c * y, c * x - a * z, a * y - b * x];
        let steps = |cosine: &f64| (cosine * STEPS_OF_COSINES).round() as i64;
        Some(Self {
            orientation: orientation.iter().map(steps).collect(),
            distance: normal.iter().zip(&position).map(|(n, p)| n * p).sum(),
            position,
        })
    }

    fn order(&self, other: &Self) -> Ordering {
        let orientation = self.orientation.cmp(&other.orientation);
        orientation.then(self.distance.total_cmp(&other.distance))
    }

    fn same_place(&self, other: &Self) -> bool {
        let near = |(a, b): (&f64, &f64)| (a - b).abs() < SAME_PLACE_MM;
        self.orientation == other.orientation && self.position.iter().zip(&other.position).all(near)
    }
}

/// Every frame of the series, in order.
pub(super) fn places(slices: &[Slice]) -> Vec<Place> {
    let mut frames = Vec::new();
    for (index, slice) in slices.iter().enumerate() {
        for frame in 0..slice.frames {
            let place = Place {
                slice: index,
                frame,
                position: 1,
                repeat: 1,
            };
            frames.push((Key::of(slices, index, frame), place));
        }
    }
    frames.sort_by(|(a, _), (b, _)| match (a, b) {
        (Some(a), Some(b)) => a.order(b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    });
    let same = |(a, _): &(Option<Key>, Place), (b, _): &(Option<Key>, Place)| match (a, b) {
        (Some(a), Some(b)) => a.same_place(b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let mut places = Vec::with_capacity(frames.len());
    for (position, here) in (1..).zip(frames.chunk_by(same)) {
        let mut here: Vec<Place> = here.iter().map(|(_, place)| place.clone()).collect();
        here.sort_by_key(|place| {
            let source = &slices[place.slice].source;
            (
                source.instance_number,
                &source.sop_instance_uid,
                place.frame,
            )
        });
        for (repeat, place) in (1..).zip(here) {
            places.push(Place {
                position,
                repeat,
                ..place
            });
        }
    }
    places
}

/// What a class fills.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: u8,
    pub label: String,
    pub volume_ml: f64,
}

/// Volumes of all classes, or why there are none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volumes {
    pub volumes: Vec<Volume>,
    pub warnings: Vec<String>,
}

/// The planes are taken for a stack: each stands for what lies nearer to it than to its neighbours,
/// and the outer ones, and those at a wide gap, reach as far outwards as half of the median distance.
pub(super) fn volumes(slices: &[Slice], places: &[Place], classes: &[Class]) -> Volumes {
    let nothing = |why: &str| Volumes {
        volumes: Vec::new(),
        warnings: vec![why.to_owned()],
    };
    if !slices.iter().all(Slice::has_planes) {
        return nothing("planes_unknown");
    }
    if places.iter().any(|place| place.repeat > 1) {
        return nothing("planes_repeat");
    }
    let plane = |place: &Place| &slices[place.slice].source.planes[place.frame];
    let keys = keys(slices, places);
    if keys
        .iter()
        .any(|key| key.orientation != keys[0].orientation)
    {
        return nothing("planes_not_parallel");
    }
    let at: Vec<f64> = keys.iter().map(|key| key.distance).collect();
    let thickness = places
        .first()
        .and_then(|place| plane(place).thickness.as_deref());
    let thickness = thickness.and_then(numbers).map(|value| value[0]);
    let Some((extents, even)) = extents(&at, thickness) else {
        return nothing("thickness_unknown");
    };
    let mut filled_mm3: BTreeMap<u8, f64> = BTreeMap::new();
    for (place, extent) in places.iter().zip(extents) {
        let spacing = numbers(&plane(place).spacing).unwrap_or_default();
        let pixel_mm2: f64 = spacing.iter().product();
        let masks = slices[place.slice].masks.iter();
        for found in masks.filter(|found| found.frame == place.frame) {
            let area_mm2 = found.area_px as f64 * pixel_mm2;
            *filled_mm3.entry(found.class).or_default() += area_mm2 * extent;
        }
    }
    let of = |class: &Class| Volume {
        id: class.id,
        label: class.label.clone(),
        volume_ml: filled_mm3.get(&class.id).copied().unwrap_or_default() / MM3_PER_ML,
    };
    Volumes {
        volumes: classes.iter().map(of).collect(),
        warnings: if even {
            vec![]
        } else {
            vec!["planes_uneven".to_owned()]
        },
    }
}

fn keys(slices: &[Slice], places: &[Place]) -> Vec<Key> {
    let of = |place: &Place| Key::of(slices, place.slice, place.frame);
    places.iter().filter_map(of).collect()
}

/// Distance between neighbours where it is the same everywhere.
pub(super) fn even_distance(slices: &[Slice], places: &[Place]) -> Option<f64> {
    let mut keys = keys(slices, places);
    keys.dedup_by(|next, key| key.same_place(next));
    let first = keys.first()?;
    if keys.iter().any(|key| key.orientation != first.orientation) {
        return None;
    }
    let at: Vec<f64> = keys.iter().map(|key| key.distance).collect();
    let (extents, even) = extents(&at, None)?;
    (even && extents[0] > 0.0).then_some(extents[0])
}

/// How much of the normal each plane stands for, mm, and whether all are the same. `at`: ascending.
fn extents(at: &[f64], thickness: Option<f64>) -> Option<(Vec<f64>, bool)> {
    let gaps: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut sorted = gaps.clone();
    sorted.sort_by(f64::total_cmp);
    let Some(&median) = sorted.get(sorted.len() / 2) else {
        return thickness.map(|thickness| (vec![thickness; at.len()], true));
    };
    // Over a wider gap nobody knows what lies there.
    let known = |gap: &&f64| **gap <= MISSING_PLANES * median;
    let half = |gap: Option<&f64>| gap.filter(known).copied().unwrap_or(median) / 2.0;
    let extent = |index: usize| {
        let before = index.checked_sub(1).and_then(|index| gaps.get(index));
        half(before) + half(gaps.get(index))
    };
    // A tenth is more than rounding and less than a missing plane.
    let even = gaps.iter().all(|gap| (gap - median).abs() <= 0.1 * median);
    Some(((0..at.len()).map(extent).collect(), even))
}

#[cfg(test)]
pub(super) mod tests {
    use contract::LabelMap;

    use super::super::Found;
    use super::*;
    use crate::decode::source::{Plane, Source};

    /// An object of 2 x 3 px whose first `area` px are of class 1.
    pub(in super::super) fn slice(number: i64, z: Option<f64>, area: usize) -> Slice {
        let mut labels = LabelMap::new(2, 3);
        labels.data[..area].fill(1);
        let found = Found {
            frame: 0,
            class: 1,
            area_px: area,
            mask: labels.rle(1),
        };
        let plane = |z: f64| Plane {
            position: format!("-1.5\\2\\{z}"),
            orientation: "1\\0\\0\\0\\1\\0".into(),
            spacing: "2\\0.5".into(),
            thickness: Some("4".into()),
        };
        Slice {
            source: Source {
                sop_class_uid: "1.2.840.10008.5.1.4.1.1.4".into(),
                sop_instance_uid: format!("2.25.{number}"),
                study_instance_uid: "2.25.1000".into(),
                series_instance_uid: "2.25.1001".into(),
                frame_of_reference_uid: Some("2.25.1002".into()),
                instance_number: number,
                is_multi_frame: false,
                planes: z.map(plane).into_iter().collect(),
                copied: vec![(0x0010_0010, "DOE^JANE".into())],
                deidentified: vec![],
                lossy: None,
            },
            rows: 2,
            cols: 3,
            frames: 1,
            masks: if area == 0 { vec![] } else { vec![found] },
        }
    }

    pub(in super::super) fn classes() -> Vec<Class> {
        vec![Class {
            id: 1,
            label: "left ventricle cavity".into(),
            snomed: None,
            color: [230, 60, 60],
        }]
    }

    fn volume(slices: &[Slice]) -> Volumes {
        volumes(slices, &places(slices), &classes())
    }

    #[test]
    fn frames_stand_in_the_order_of_space() {
        let slices = [
            slice(1, Some(10.0), 1),
            slice(2, Some(-5.0), 1),
            slice(3, Some(2.5), 1),
        ];
        let order: Vec<usize> = places(&slices).iter().map(|place| place.slice).collect();
        assert_eq!(order, [1, 2, 0]);
        let positions: Vec<u32> = places(&slices).iter().map(|place| place.position).collect();
        assert_eq!(positions, [1, 2, 3]);
    }

    #[test]
    fn what_lies_in_one_place_shares_its_number() {
        // The noise of a real scanner.
        let slices = [
            slice(2, Some(1.0), 1),
            slice(1, Some(1.000_04), 1),
            slice(3, Some(0.0), 1),
        ];
        let found: Vec<(usize, u32, u32)> = places(&slices)
            .iter()
            .map(|place| (place.slice, place.position, place.repeat))
            .collect();
        assert_eq!(found, [(2, 1, 1), (1, 2, 1), (0, 2, 2)]);
        assert_eq!(volume(&slices).warnings, ["planes_repeat"]);
        let without = [slice(2, None, 1), slice(1, None, 1)];
        let repeats: Vec<u32> = places(&without).iter().map(|place| place.repeat).collect();
        assert_eq!(repeats, [1, 2]);
        assert_eq!(volume(&without).warnings, ["planes_unknown"]);
    }

    #[test]
    fn volumes_follow_the_distances() {
        // Pixels of 1 mm².
        let even = [
            slice(1, Some(0.0), 2),
            slice(2, Some(5.0), 4),
            slice(3, Some(10.0), 0),
        ];
        let volumes = volume(&even);
        assert!(
            (volumes.volumes[0].volume_ml - 0.03).abs() < 1e-9,
            "{volumes:?}"
        );
        assert_eq!(volumes.warnings, [""; 0]);
        assert_eq!(even_distance(&even, &places(&even)), Some(5.0));
        // One plane missing: its neighbours stand for it.
        let gap = [
            slice(1, Some(0.0), 2),
            slice(2, Some(5.0), 2),
            slice(3, Some(15.0), 2),
        ];
        let volumes = volume(&gap);
        assert!(
            (volumes.volumes[0].volume_ml - 0.05).abs() < 1e-9,
            "{volumes:?}"
        );
        assert_eq!(volumes.warnings, ["planes_uneven"]);
        // Two stacks.
        let wide = [0.0, 5.0, 100.0, 105.0].map(|z| slice(z as i64, Some(z), 2));
        let volumes = volume(&wide);
        assert!(
            (volumes.volumes[0].volume_ml - 0.04).abs() < 1e-9,
            "{volumes:?}"
        );
        assert_eq!(even_distance(&gap, &places(&gap)), None);
        // Alone, it is as thick as it says.
        let volumes = volume(&[slice(1, Some(0.0), 2)]);
        assert!(
            (volumes.volumes[0].volume_ml - 0.008).abs() < 1e-9,
            "{volumes:?}"
        );
    }
}
