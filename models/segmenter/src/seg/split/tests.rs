use super::super::stack::tests::slice;
use super::*;
use crate::decode::acquisition::Acquisition;

/// Frames of `parts`, each by the number of its object.
fn split(slices: &[Slice]) -> Vec<Vec<i64>> {
    let number = |&(slice, _): &(usize, usize)| slices[slice].source.instance_number;
    let sorted = |part: &Part| {
        let mut numbers: Vec<i64> = part.frames.iter().map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    parts(slices).iter().map(sorted).collect()
}

fn acquired(number: i64, z: f64, values: &[(&str, &str)]) -> Slice {
    let mut slice = slice(number, Some(z), 1);
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    slice.source.acquisitions = vec![Acquisition {
        values: values.iter().map(owned).collect(),
        at: String::new(),
    }];
    slice
}

#[test]
fn a_stack_is_one_volume_and_so_is_what_has_no_planes() {
    let stack = [0.0, 5.0, 15.0].map(|z| slice(z as i64, Some(z), 1));
    assert_eq!(split(&stack), [[0, 5, 15]]);
    assert!(parts(&stack)[0].by.is_empty());
    let flat = [slice(1, None, 1), slice(2, None, 1)];
    assert_eq!(split(&flat), [[1, 2]]);
}

#[test]
fn b_values_make_volumes_in_their_order() {
    let series: Vec<Slice> = ["800", "50", "400"]
        .iter()
        .zip(0..)
        .flat_map(|(b, volume)| {
            (0..3).map(move |z| {
                // It is of a slice, not of a volume.
                let number = (3 * volume + z).to_string();
                let echo = [("AcquisitionNumber", &*number), ("DiffusionBValue", *b)];
                acquired(10 * volume + z, z as f64 * 3.0, &echo)
            })
        })
        .collect();
    assert_eq!(split(&series), [[10, 11, 12], [20, 21, 22], [0, 1, 2]]);
    let parts = parts(&series);
    assert_eq!(parts[0].by, [("DiffusionBValue".into(), "50".into())]);
    assert!(parts.iter().all(|part| !part.by_order));
    // One image is missing.
    assert_eq!(
        split(&series[1..]),
        [vec![10, 11, 12], vec![20, 21, 22], vec![1, 2]]
    );
}

#[test]
fn two_attributes_split_what_one_does_not() {
    let mut number = 0;
    let mut series = Vec::new();
    for (b, direction) in [("0", "0"), ("800", "1"), ("800", "2")] {
        for echo in ["1", "2"] {
            for z in [0.0, 4.0] {
                number += 1;
                let values = [
                    ("DiffusionBValue", b),
                    ("DiffusionGradientOrientation", direction),
                    ("EchoNumbers", echo),
                ];
                series.push(acquired(number, z, &values));
            }
        }
    }
    let parts = split(&series);
    assert_eq!(parts.len(), 6);
    assert!(parts.iter().all(|part| part.len() == 2), "{parts:?}");
}

#[test]
fn phases_whose_times_differ_from_slice_to_slice_go_by_their_order() {
    let series: Vec<Slice> = (0..4_i64)
        .flat_map(|z| (0..3_i64).map(move |phase| (z, phase)))
        .map(|(z, phase)| {
            let trigger = format!("{}", phase * 33 + z);
            // The other way round than in time.
            acquired(10 * z - phase, 8.0 * z as f64, &[("TriggerTime", &trigger)])
        })
        .collect();
    let parts = parts(&series);
    assert_eq!(split(&series)[0], [0, 10, 20, 30]);
    assert_eq!(split(&series)[2], [-2, 8, 18, 28]);
    assert!(parts.iter().all(|part| part.by_order));
    assert_eq!(parts[1].by, [("Order".into(), "2 of 3".into())]);
}

#[test]
fn planes_that_are_not_parallel_lie_apart() {
    let mut series = vec![slice(1, Some(0.0), 1), slice(2, Some(5.0), 1)];
    let mut turned = slice(3, Some(5.0), 1);
    turned.source.planes[0].orientation = "0\\1\\0\\0\\0\\-1".into();
    let mut finer = slice(4, Some(10.0), 1);
    finer.source.planes[0].spacing = "1\\0.5".into();
    // Noise is none of these.
    series[1].source.planes[0].orientation = "1\\0.000001\\0\\0\\1\\0".into();
    series.extend([turned, finer]);
    assert_eq!(split(&series), [vec![1, 2], vec![3], vec![4]]);
}

#[test]
fn two_blocks_side_by_side_are_two_volumes() {
    let series: Vec<Slice> = (0..4)
        .map(|number| {
            let mut slice = slice(number, Some(0.0), 1);
            let (x, z) = (100 * (number % 2), 5 * (number / 2));
            slice.source.planes[0].position = format!("{x}\\0\\{z}");
            slice
        })
        .collect();
    assert_eq!(split(&series), [[0, 2], [1, 3]]);
}

#[test]
fn frames_of_one_object_make_volumes_too() {
    let mut object = acquired(1, 0.0, &[]);
    object.frames = 4;
    object.source.is_multi_frame = true;
    let plane = object.source.planes[0].clone();
    let at = |z: i64| crate::decode::source::Plane {
        position: format!("0\\0\\{z}"),
        ..plane.clone()
    };
    object.source.planes = vec![at(0), at(3), at(0), at(3)];
    object.source.acquisitions = ["1", "1", "2", "2"]
        .map(|time| Acquisition {
            values: vec![("TemporalPositionIdentifier".into(), time.into())],
            at: String::new(),
        })
        .to_vec();
    let found = parts(&[object.clone()]);
    let frames: Vec<_> = found.iter().map(|part| part.frames.clone()).collect();
    assert_eq!(frames, [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]);
    // Several objects, each of which is a volume.
    object.source.planes.truncate(2);
    object.frames = 2;
    object.source.acquisitions.clear();
    let mut second = object.clone();
    second.source.sop_instance_uid = "2.25.77".into();
    second.source.instance_number = 2;
    let found = parts(&[object, second]);
    assert_eq!(found[1].frames, [(1, 0), (1, 1)]);
    assert_eq!(found[1].by, [("SOPInstance".into(), "2 of 2".into())]);
}
