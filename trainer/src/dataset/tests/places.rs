//! Where volumes lie: every order of storage, planes, grids that differ, and nibabel's affines.

#![expect(clippy::float_cmp, reason = "what was written is read, to the bit")]

use serde_json::Value;

use super::error_of;
use super::nifti_file::{Nifti, image, labels, options, orders, slices_of};
use crate::dataset::grid::Plane;
use crate::dataset::index::{Options, index};
use crate::dataset::nifti::Stored;
use crate::dataset::*;

#[test]
fn every_way_to_store_image_and_labels_gives_the_same_slices() {
    let (image, labels) = (image(), labels());
    let wanted = slices_of(&image, &labels, &options()).unwrap();
    assert_eq!(wanted.len(), 3);
    let first: Vec<f32> = (0..20_u8).map(|i| f32::from(i * 7 % 61)).collect();
    assert_eq!(wanted[0].0, first, "the file's order is DICOM's");
    assert_eq!(wanted[0].1, labels.voxels[..20]);
    assert!(close(wanted[0].2, [1.25, 1.5]), "{:?}", wanted[0].2);
    for order in orders() {
        let cases = [
            ("image", image.stored_as(order), labels.clone()),
            ("labels", image.clone(), labels.stored_as(order)),
            ("both", image.stored_as(order), labels.stored_as(order)),
        ];
        for (which, image, labels) in cases {
            let found = slices_of(&image, &labels, &options()).unwrap();
            assert_eq!(found.len(), 3, "{which} {order}");
            for (found, wanted) in found.iter().zip(&wanted) {
                assert_eq!(
                    (&found.0, &found.1),
                    (&wanted.0, &wanted.1),
                    "{which} {order}"
                );
                assert!(close(found.2, wanted.2), "{which} {order}: {:?}", found.2);
            }
        }
    }
}

fn close(a: [f64; 2], b: [f64; 2]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn the_plane_follows_the_thickest_voxels_or_the_option() {
    // The patient's left is right, his front above or left, his head above.
    let sagittal = Nifti {
        spacing: [8.0, 1.0, 1.0],
        sform: Some([
            [-8.0, 0.0, 0.0, 0.0],
            [0.0, -1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
        ]),
        ..image()
    };
    let with_sagittal_grid = |nifti: Nifti| Nifti {
        spacing: sagittal.spacing,
        sform: sagittal.sform,
        ..nifti
    };
    let labels = with_sagittal_grid(labels());
    let value = |column: usize, row: usize, slice: usize| {
        let index = column + 5 * row + 20 * slice;
        (index * 7 % 61) as f32
    };
    let found = slices_of(&sagittal, &labels, &options()).unwrap();
    assert_eq!(found.len(), 5);
    // Rows from the head down, columns from front to back.
    let first: Vec<f32> = (0..12).map(|i| value(0, i % 4, 2 - i / 4)).collect();
    assert_eq!(found[0].0, first);
    let coronal = Options {
        plane: Some(Plane::Coronal),
        ..options()
    };
    let found = slices_of(&sagittal, &labels, &coronal).unwrap();
    let first: Vec<f32> = (0..15).map(|i| value(i % 5, 0, 2 - i / 5)).collect();
    assert_eq!(found[0].0, first);
    assert_eq!(found[0].2, [1.0, 8.0]);
    let axial = Options {
        plane: Some(Plane::Axial),
        ..options()
    };
    assert_eq!(slices_of(&sagittal, &labels, &axial).unwrap().len(), 3);
}

#[test]
fn a_plane_is_written_into_the_list_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    image().write(&folder.path().join("images/p.nii"));
    labels().write(&folder.path().join("labels/p.nii"));
    let coronal = Options {
        plane: Some(Plane::Coronal),
        ..options()
    };
    let dataset = index(folder.path(), &coronal).unwrap();
    let list = folder.path().join("list.csv");
    write_list(&dataset.entries, &list).unwrap();
    let text = std::fs::read_to_string(&list).unwrap();
    assert!(
        text.starts_with("image,labels,patient,split,slice,plane\n"),
        "{text}"
    );
    assert!(
        text.contains("images/p.nii,labels/p.nii,p,train,0,coronal\n"),
        "{text}"
    );
    let read = Dataset::read(&list).unwrap();
    assert_eq!(read.fingerprint, dataset.fingerprint);
    let sample = read.load(&read.entries[0], &LabelRule::Combine).unwrap();
    assert_eq!((sample.image.rows, sample.image.cols), (3, 5));
    std::fs::write(&list, text.replace("coronal", "frontal")).unwrap();
    let said = error_of(Dataset::read(&list));
    assert!(
        said.contains("line 2") && said.contains("\"frontal\""),
        "{said}"
    );
}

#[test]
fn other_slices_have_another_fingerprint() {
    let of = |image: &Nifti| {
        let folder = tempfile::tempdir().unwrap();
        image.write(&folder.path().join("images/p.nii"));
        labels().write(&folder.path().join("labels/p.nii"));
        let axial = index(folder.path(), &options()).unwrap();
        let coronal = Options {
            plane: Some(Plane::Coronal),
            ..options()
        };
        (
            axial.fingerprint,
            index(folder.path(), &coronal).unwrap().fingerprint,
        )
    };
    let (axial, coronal) = of(&image());
    assert_ne!(axial, coronal);
}

/// Another grid is refused by both names, with what differs.
#[test]
fn labels_elsewhere_are_refused_by_both_names() {
    let moved = |by: f32| {
        let mut nifti = labels();
        nifti.sform.as_mut().unwrap()[0][3] += by;
        nifti
    };
    let turned = {
        let mut nifti = labels();
        let (sine, cosine) = 0.1_f32.sin_cos();
        nifti.sform = Some([
            [-1.5 * cosine, 1.25 * sine, 0.0, 40.0],
            [-1.5 * sine, -1.25 * cosine, 0.0, 30.0],
            [0.0, 0.0, 6.0, -20.0],
        ]);
        nifti
    };
    let wider = Nifti {
        sform: Some([
            [-1.6, 0.0, 0.0, 40.0],
            [0.0, -1.25, 0.0, 30.0],
            [0.0, 0.0, 6.0, -20.0],
        ]),
        ..labels()
    };
    let fewer = Nifti {
        dim: vec![5, 4, 2],
        ..labels()
    };
    let unplaced = Nifti {
        sform: None,
        ..labels()
    };
    let cases = [
        ("shifted by -5.000 mm to the left", moved(5.0)),
        ("shifted by", moved(0.75)),
        ("shifted by", moved(-0.1)),
        ("turned by 5.73 degrees", turned),
        ("1.6000 x 1.2500 x 6.0000", wider),
        ("5 x 4 x 2", fewer),
        ("shifted by", unplaced),
    ];
    for (words, labels) in cases {
        let said = error_of(slices_of(&image(), &labels, &options()));
        for words in [words, "images/p.nii", "labels/p.nii.gz", "resample"] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
    }
    let wanted = slices_of(&image(), &labels(), &options()).unwrap();
    for by in [1e-6, -1e-6, 1e-3] {
        let found = slices_of(&image(), &moved(by), &options()).unwrap();
        assert_eq!(found, wanted, "{by} mm");
    }
}

/// `tests/golden/make_nifti.py` asked nibabel.
fn golden(name: &str) -> Vec<Value> {
    let text = include_str!("../../../../tests/golden/nifti.json");
    let all: Value = serde_json::from_str(text).unwrap();
    all[name].as_array().unwrap().clone()
}

fn header_of(case: &Value) -> Vec<u8> {
    let mut header = hex::decode(case["header"].as_str().unwrap()).unwrap();
    header.extend([0; 4]);
    header
}

fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().unwrap().iter();
    all.map(|it| it.as_f64().unwrap()).collect()
}

#[test]
fn affines_are_those_of_nibabel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume.nii");
    let cases = golden("headers");
    assert_eq!(cases.len(), 14);
    for case in cases {
        std::fs::write(&path, header_of(&case)).unwrap();
        let grid = Stored::open(&path).unwrap().grid;
        for row in 0..3 {
            let sign = if row < 2 { -1.0 } else { 1.0 };
            let found = [0, 1, 2].map(|axis| grid.steps[axis][row]);
            let found = [found[0], found[1], found[2], grid.origin[row]];
            let wanted = numbers(&case["affine"][row]);
            for (found, wanted) in found.into_iter().zip(wanted) {
                let name = &case["name"];
                assert!(
                    (sign * found - wanted).abs() < 1e-4,
                    "{name}: {found} for {wanted}"
                );
            }
        }
    }
}

#[test]
fn slices_are_those_that_nibabel_turns_to_the_left_the_back_and_the_head() {
    let bytes = |value: &Value| -> Vec<u8> { numbers(value).iter().map(|&it| it as u8).collect() };
    for case in golden("volumes") {
        let folder = tempfile::tempdir().unwrap();
        let mut file = header_of(&case);
        file.extend(bytes(&case["stored"]));
        for name in ["images", "labels"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("images/p.nii"), &file).unwrap();
        std::fs::write(folder.path().join("labels/p.nii"), &file).unwrap();
        let dataset = index(folder.path(), &options()).unwrap();
        let mut shown = Vec::new();
        let mut entries: Vec<&Entry> = dataset.entries.iter().collect();
        entries.sort_by_key(|entry| entry.slice);
        for entry in entries {
            let sample = dataset.load(entry, &LabelRule::Classes { n: 255 }).unwrap();
            let spacing = sample.spacing_mm.unwrap();
            assert!(close(spacing, [1.25, 1.5]), "{}: {spacing:?}", case["name"]);
            assert!(
                sample
                    .image
                    .data
                    .iter()
                    .zip(&sample.labels.data)
                    .all(|(a, &b)| *a == f32::from(b))
            );
            shown.extend(sample.labels.data);
        }
        assert_eq!(shown, bytes(&case["shown"]), "{}", case["name"]);
    }
}
