use dicom_dictionary_std::tags;

use super::*;

fn area(map: &LabelMap, structure: Structure) -> usize {
    map.data
        .iter()
        .filter(|&&value| value == structure as u8)
        .count()
}

#[test]
fn the_same_seed_gives_the_same_pixels() {
    let first = Heart::new(7).slice(3, 10, 0.2);
    let again = Heart::new(7).slice(3, 10, 0.2);
    assert_eq!(first.image, again.image);
    assert_eq!(first.structures.data, again.structures.data);
    for other in [
        Heart::new(8).slice(3, 10, 0.2),
        Heart::new(7).slice(4, 10, 0.2),
        Heart::new(7).slice(3, 10, 0.3),
    ] {
        assert_ne!(first.image, other.image);
    }
}

/// A change of these figures changes everyone's phantoms: say so where it is released.
#[test]
fn pixels_are_those_of_other_platforms() {
    let phantom = Heart::new(1).slice(4, 10, 0.25);
    let hash = phantom
        .image
        .data
        .iter()
        .fold(0_u64, |hash, &value| draw::mix(hash ^ value as u64));
    assert_eq!(
        (hash, area(&phantom.labels, Structure::LeftVentricle)),
        (15_491_037_735_537_919_959, 748)
    );
}

#[test]
fn the_cavity_is_plausible_in_every_slice() {
    for seed in 0..12 {
        let heart = Heart::new(seed);
        let mut areas = Vec::new();
        for index in [0, 2, 4, 6, 9] {
            let phantom = heart.slice(index, 10, 0.0);
            let spacing = phantom.spacing_mm[0];
            let cavity = area(&phantom.labels, Structure::LeftVentricle);
            let across = 2.0 * (cavity as f64 / std::f64::consts::PI).sqrt() * spacing;
            assert!(
                (10.0..75.0).contains(&across),
                "seed {seed} slice {index}: {across} mm"
            );
            for (i, _) in phantom
                .labels
                .data
                .iter()
                .enumerate()
                .filter(|(_, v)| **v > 0)
            {
                let (row, col) = (i / SIZE, i % SIZE);
                assert!(
                    row.min(col) > 40 && row.max(col) < SIZE - 40,
                    "seed {seed}: {row} {col}"
                );
                assert!(phantom.image.data[i] > 0.0 || phantom.image.data[i - 1] > 0.0);
            }
            assert!(area(&phantom.structures, Structure::Myocardium) > cavity / 5);
            areas.push(cavity);
        }
        assert!(
            areas.is_sorted_by(|a, b| a > b),
            "seed {seed}: base to apex {areas:?}"
        );
        let systole = area(&heart.slice(4, 10, 0.35).labels, Structure::LeftVentricle);
        assert!(
            systole * 10 < areas[2] * 8,
            "seed {seed}: {} to {systole} px",
            areas[2]
        );
        let base = heart.slice(1, 10, 0.0);
        assert!(
            area(&base.structures, Structure::RightVentricle) > 200,
            "seed {seed}"
        );
    }
}

/// What the network has to see: blood bright, muscle dark, air darkest.
#[test]
fn blood_is_brighter_than_muscle() {
    for seed in 0..6 {
        let phantom = Heart::new(seed).slice(3, 10, 0.0);
        let mean = |structure: Structure| {
            let values: Vec<f64> = std::iter::zip(&phantom.structures.data, &phantom.image.data)
                .filter(|(label, _)| **label == structure as u8)
                .map(|(_, &value)| f64::from(value))
                .collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let (blood, muscle) = (mean(Structure::LeftVentricle), mean(Structure::Myocardium));
        assert!(
            blood > 1.4 * muscle && muscle > 20.0,
            "seed {seed}: {blood} {muscle}"
        );
        assert!(
            phantom
                .image
                .data
                .iter()
                .all(|value| value.fract() == 0.0 && *value <= 4095.0)
        );
    }
}

#[test]
fn another_size_shows_the_same_field_of_view() {
    let heart = Heart::new(3);
    let (small, large) = (heart.slice_sized(2, 8, 0.0, 128), heart.slice(2, 8, 0.0));
    assert!((small.spacing_mm[0] - 2.0 * large.spacing_mm[0]).abs() < 1e-12);
    let (a, b) = (
        area(&small.labels, Structure::LeftVentricle) * 4,
        area(&large.labels, Structure::LeftVentricle),
    );
    assert!(a.abs_diff(b) * 20 < b, "{a} and {b} px");
}

#[test]
fn dicom_gives_the_pixels_and_the_geometry_back() {
    let phantom = Heart::new(5).slice(2, 10, 0.1);
    let ids = dicom::Ids::new(&phantom, 12, 3);
    let bytes = dicom::to_bytes(&phantom, &ids).unwrap();
    assert!(
        (131_072..136_000).contains(&bytes.len()),
        "{} bytes",
        bytes.len()
    );
    let file = dicom_object::from_reader(bytes.as_slice()).unwrap();
    let pixels = file
        .element(tags::PIXEL_DATA)
        .unwrap()
        .to_multi_int::<u16>()
        .unwrap();
    let written: Vec<u16> = phantom
        .image
        .data
        .iter()
        .map(|&value| value as u16)
        .collect();
    assert_eq!(pixels, written);
    let text = |tag| {
        file.element(tag)
            .unwrap()
            .to_str()
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(text(tags::PATIENT_ID), "PHANTOM-0012");
    assert_eq!(text(tags::INSTANCE_NUMBER), "3");
    assert_eq!(text(tags::SOP_INSTANCE_UID), ids.sop_instance_uid);
    assert_eq!(
        file.meta()
            .media_storage_sop_instance_uid
            .trim_end_matches('\0'),
        ids.sop_instance_uid
    );
    assert!(ids.series_instance_uid.starts_with("2.25.") && ids.series_instance_uid.len() <= 64);
    let spacing = file
        .element(tags::PIXEL_SPACING)
        .unwrap()
        .to_multi_float64()
        .unwrap();
    assert!(std::iter::zip(&spacing, phantom.spacing_mm).all(|(a, b)| (a - b).abs() < 1e-6));
    let axes = file
        .element(tags::IMAGE_ORIENTATION_PATIENT)
        .unwrap()
        .to_multi_float64()
        .unwrap();
    let dot = |a: &[f64], b: &[f64]| std::iter::zip(a, b).map(|(a, b)| a * b).sum::<f64>();
    let (row, column) = axes.split_at(3);
    assert!(dot(row, column).abs() < 1e-5 && (dot(row, row) - 1.0).abs() < 1e-5);
    assert!((dot(column, column) - 1.0).abs() < 1e-5);
}
