//! The order of a volume's frames in space, and what the masks on them fill.

use std::collections::BTreeMap;

use contract::manifest::Class;
use serde::{Deserialize, Serialize};

use super::slice::Slice;
use super::space::{Space, Steps};
use crate::decode::source::numbers;

/// A frame in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of its object.
    pub(super) slice: usize,
    /// From 0.
    pub(super) frame: usize,
    /// From 1, in space; 1 for all frames without planes.
    pub(super) position: u32,
    /// From 1, among the frames without planes.
    pub(super) repeat: u32,
}

const MM3_PER_ML: f64 = 1e3;
/// One plane that is missing is bridged by its neighbours, in distances of the stack.
const MISSING_PLANES: f64 = 2.5;

/// These frames, lowest first, and those without planes by number.
pub(super) fn places(slices: &[Slice], frames: &[(usize, usize)]) -> Vec<Place> {
    let mut frames = frames.to_vec();
    frames.sort_by_key(|&(slice, frame)| {
        let source = &slices[slice].source;
        (source.instance_number, &source.sop_instance_uid, frame)
    });
    let spaces: Option<Vec<Space>> = frames.iter().map(|of| Space::of(slices, *of)).collect();
    let Some(spaces) = spaces else {
        let place = |(repeat, (slice, frame))| Place {
            slice,
            frame,
            position: 1,
            repeat,
        };
        return (1..).zip(frames).map(place).collect();
    };
    let mut at: Vec<(f64, (usize, usize))> = spaces
        .iter()
        .map(|space| spaces[0].distance_to(space))
        .zip(frames)
        .collect();
    at.sort_by(|a, b| a.0.total_cmp(&b.0));
    let place = |(position, (_, (slice, frame)))| Place {
        slice,
        frame,
        position,
        repeat: 1,
    };
    (1..).zip(at).map(place).collect()
}

/// What a class fills.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Volume {
    pub id: u8,
    pub label: String,
    pub volume_ml: f64,
}

/// Volumes of all classes, and what is not as a reader expects it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volumes {
    pub volumes: Vec<Volume>,
    pub warnings: Vec<String>,
    /// Planes that an even stack lacks.
    pub n_missing: usize,
}

/// The planes are taken for a stack: each stands for what lies nearer to it than to its neighbours,
/// and the outer ones, and those at a wide gap, reach as far outwards as half of the median distance.
pub(super) fn volumes(slices: &[Slice], places: &[Place], classes: &[Class]) -> Volumes {
    let Some((spaces, steps)) = steps(slices, places) else {
        return Volumes {
            volumes: Vec::new(),
            warnings: vec!["planes_unknown".to_owned()],
            n_missing: 0,
        };
    };
    let mut warnings = warnings(&spaces, &steps);
    let thickness = places.first().and_then(|place| {
        let plane = &slices[place.slice].source.planes[place.frame];
        Some(numbers(plane.thickness.as_deref()?)?[0])
    });
    let Some(extents) = extents(&steps.gaps, thickness) else {
        warnings.push("thickness_unknown".to_owned());
        return Volumes {
            volumes: Vec::new(),
            warnings,
            n_missing: steps.missing,
        };
    };
    let mut filled_mm3: BTreeMap<u8, f64> = BTreeMap::new();
    for ((place, extent), space) in places.iter().zip(extents).zip(&spaces) {
        let masks = slices[place.slice].masks.iter();
        for found in masks.filter(|found| found.frame == place.frame) {
            let area_mm2 = found.area_px as f64 * space.pixel_mm2();
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
        warnings,
        n_missing: steps.missing,
    }
}

fn warnings(spaces: &[Space], steps: &Steps) -> Vec<String> {
    let mut words = Vec::new();
    if !steps.even {
        words.push("planes_uneven");
    }
    if steps.missing > 0 {
        words.push("slice_missing");
    }
    let shifted = |space: &Space| {
        let far = |way: f64| way.abs() > spaces[0].pixel_mm() / 2.0;
        spaces[0].in_plane(space).into_iter().any(far)
    };
    if spaces.iter().any(shifted) {
        words.push("planes_sheared");
    }
    words.into_iter().map(str::to_owned).collect()
}

/// `None` where a frame does not say where it lies.
fn steps(slices: &[Slice], places: &[Place]) -> Option<(Vec<Space>, Steps)> {
    let space = |place: &Place| Space::of(slices, (place.slice, place.frame));
    let spaces: Vec<Space> = places.iter().map(space).collect::<Option<_>>()?;
    let first = spaces.first()?;
    let at: Vec<f64> = spaces
        .iter()
        .map(|other| first.distance_to(other))
        .collect();
    let steps = Steps::of(&at);
    Some((spaces, steps))
}

/// Of the grid on which all planes lie.
pub(super) fn grid_step(slices: &[Slice], places: &[Place]) -> Option<f64> {
    let (_, steps) = steps(slices, places)?;
    steps.grid
}

/// How much of the normal each plane stands for, mm.
fn extents(gaps: &[f64], thickness: Option<f64>) -> Option<Vec<f64>> {
    let mut sorted = gaps.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(&median) = sorted.get(sorted.len() / 2) else {
        return thickness.map(|thickness| vec![thickness]);
    };
    // Over a wider gap nobody knows what lies there.
    let known = |gap: &&f64| **gap <= MISSING_PLANES * median;
    let half = |gap: Option<&f64>| gap.filter(known).copied().unwrap_or(median) / 2.0;
    let extent = |index: usize| {
        let before = index.checked_sub(1).and_then(|index| gaps.get(index));
        half(before) + half(gaps.get(index))
    };
    Some((0..=gaps.len()).map(extent).collect())
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
                acquisitions: vec![],
                has_odd_uid: false,
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
        volumes(slices, &ordered(slices), &classes())
    }

    fn ordered(slices: &[Slice]) -> Vec<Place> {
        let all: Vec<(usize, usize)> = (0..slices.len()).map(|slice| (slice, 0)).collect();
        places(slices, &all)
    }

    #[test]
    fn frames_stand_in_the_order_of_space() {
        let slices = [
            slice(1, Some(10.0), 1),
            slice(2, Some(-5.0), 1),
            slice(3, Some(2.5), 1),
        ];
        let places = ordered(&slices);
        let order: Vec<usize> = places.iter().map(|place| place.slice).collect();
        assert_eq!(order, [1, 2, 0]);
        let positions: Vec<u32> = places.iter().map(|place| place.position).collect();
        assert_eq!(positions, [1, 2, 3]);
        let without = [slice(2, None, 1), slice(1, None, 1)];
        let repeats: Vec<(usize, u32)> = ordered(&without)
            .iter()
            .map(|place| (place.slice, place.repeat))
            .collect();
        assert_eq!(repeats, [(1, 1), (0, 2)]);
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
        assert_eq!(grid_step(&even, &ordered(&even)), Some(5.0));
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
        assert_eq!(volumes.warnings, ["planes_uneven", "slice_missing"]);
        assert_eq!(volumes.n_missing, 1);
        assert_eq!(grid_step(&gap, &ordered(&gap)), Some(5.0));
        // Two stacks.
        let wide = [0.0, 5.0, 100.0, 105.0].map(|z| slice(z as i64, Some(z), 2));
        let volumes = volume(&wide);
        assert!(
            (volumes.volumes[0].volume_ml - 0.04).abs() < 1e-9,
            "{volumes:?}"
        );
        // A gantry that is tilted.
        let mut tilted = even.clone();
        tilted[2].source.planes[0].position = "-1.5\\5\\10".into();
        assert_eq!(volume(&tilted).warnings, ["planes_sheared"]);
        // Alone, it is as thick as it says.
        let volumes = volume(&[slice(1, Some(0.0), 2)]);
        assert!(
            (volumes.volumes[0].volume_ml - 0.008).abs() < 1e-9,
            "{volumes:?}"
        );
    }
}
