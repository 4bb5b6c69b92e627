use std::fs;

use tempfile::TempDir;

use self::nifti_file::Nifti;
use super::index::{Options, index};
use super::*;

mod label_files;
mod naming;
mod nifti_file;
mod places;
mod real;
mod reports;
mod values;

fn png(path: &Path, rows: usize, cols: usize, value: impl Fn(usize, usize) -> u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let data: Vec<u8> = (0..rows * cols)
        .map(|i| value(i / cols, i % cols))
        .collect();
    image::save_buffer(path, &data, cols as u32, rows as u32, image::ColorType::L8).unwrap();
}

/// Images `p1_a`, `p2_a` ... with a labelled square of grey value 2 in each.
pub(crate) fn pairs(n_images: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=n_images {
        let name = format!("p{number}.png");
        png(&folder.path().join("images").join(&name), 20, 24, |y, x| {
            (y * 9 + x + number) as u8
        });
        png(&folder.path().join("masks").join(&name), 20, 24, |y, x| {
            2 * u8::from((5..12).contains(&y) && (6..15).contains(&x))
        });
    }
    folder
}

pub(crate) fn by_name(train: &[&str], validation: &[&str], test: &[&str]) -> Options {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let (train, validation, test) = (owned(train), owned(validation), owned(test));
    Options {
        split: SplitRule::Patients {
            train,
            validation,
            test,
        },
        plane: None,
    }
}

pub(crate) fn error_of<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn png_pairs_are_indexed_written_and_read_back() {
    let folder = pairs(3);
    let dataset = index(folder.path(), &by_name(&["p1"], &["p2"], &["3"])).unwrap();
    let list = folder.path().join("list.csv");
    write_list(&dataset.entries, &list).unwrap();
    assert_eq!(
        fs::read_to_string(&list).unwrap(),
        "image,labels,patient,split,slice\n\
         images/p1.png,masks/p1.png,p1,train,\n\
         images/p2.png,masks/p2.png,p2,validation,\n\
         images/p3.png,masks/p3.png,p3,test,\n"
    );
    let read = Dataset::read(&list).unwrap();
    assert_eq!(read.entries.len(), 3);
    assert_eq!(read.fingerprint, dataset.fingerprint);
    assert_eq!(read.classes, [2]);
    assert_eq!(read.patients(Split::Test), ["p3"]);
    let sample = read
        .load(read.of(Split::Test)[0], &LabelRule::Binary { class: 2 })
        .unwrap();
    assert_eq!(sample.name, "images/p3.png");
    assert_eq!(
        sample.image.data[24 + 1] as i32,
        13,
        "row 1, column 1 of image 3"
    );
    assert_eq!(
        sample
            .labels
            .data
            .iter()
            .filter(|&&label| label == 1)
            .count(),
        7 * 9
    );
}

#[test]
fn the_fingerprint_follows_content_and_split_only() {
    let (here, there) = (pairs(3), pairs(3));
    let of = |root: &TempDir, options: &Options| index(root.path(), options).unwrap().fingerprint;
    let options = by_name(&["p1"], &["p2"], &["p3"]);
    let fingerprint = of(&here, &options);
    assert_eq!(
        of(&there, &options),
        fingerprint,
        "another folder, the same data"
    );
    assert_ne!(of(&here, &by_name(&["p1"], &["p3"], &["p2"])), fingerprint);
    png(&here.path().join("masks/p2.png"), 20, 24, |_, _| 1);
    assert_ne!(of(&here, &options), fingerprint);
}

#[test]
fn the_order_of_a_list_changes_neither_fingerprint_nor_entries() {
    let folder = pairs(4);
    let dataset = index(folder.path(), &by_name(&["p1", "p2", "p3", "p4"], &[], &[])).unwrap();
    let list = folder.path().join("list.csv");
    write_list(&dataset.entries, &list).unwrap();
    let once = Dataset::read(&list).unwrap();
    let text = fs::read_to_string(&list).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.rotate_left(1);
    fs::write(&list, format!("{header}\n{}\n", rows.join("\n"))).unwrap();
    let again = Dataset::read(&list).unwrap();
    assert_eq!(again.fingerprint, once.fingerprint);
    assert_eq!(again.entries, once.entries);
}

#[test]
fn a_copy_of_an_image_in_another_split_is_refused() {
    let folder = pairs(2);
    for kind in ["images", "masks"] {
        let file = |name: &str| folder.path().join(kind).join(name);
        fs::copy(file("p1.png"), file("p3.png")).unwrap();
    }
    let error = error_of(index(folder.path(), &by_name(&["p1", "p2"], &[], &["p3"])));
    assert!(error.contains("are the same image"), "{error}");
    assert!(index(folder.path(), &by_name(&["p1", "p2", "p3"], &[], &[])).is_ok());
}

#[test]
fn an_image_never_takes_the_labels_of_another_folder() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["images/a/1.png", "images/b/1.png", "masks/a/1.png"] {
        png(&folder.path().join(name), 20, 24, |y, x| (y * 9 + x) as u8);
    }
    let error = error_of(index(folder.path(), &by_name(&[], &[], &[])));
    assert!(error.contains("b/1.png has no labels"), "{error}");
}

#[test]
fn label_rules() {
    struct Case {
        rule: LabelRule,
        wanted: [u8; 4],
    }
    let grey = LabelMap {
        rows: 1,
        cols: 4,
        data: vec![0, 1, 2, 3],
    };
    for case in [
        Case {
            rule: LabelRule::Binary { class: 2 },
            wanted: [0, 0, 1, 0],
        },
        Case {
            rule: LabelRule::Combine,
            wanted: [0, 1, 1, 1],
        },
        Case {
            rule: LabelRule::Classes { n: 3 },
            wanted: [0, 1, 2, 3],
        },
    ] {
        assert_eq!(
            case.rule.apply(grey.clone()).unwrap().data,
            case.wanted,
            "{:?}",
            case.rule
        );
    }
}

#[test]
fn an_unknown_grey_value_names_file_and_values() {
    let folder = pairs(1);
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    let text = error_of(dataset.load(&dataset.entries[0], &LabelRule::Classes { n: 1 }));
    assert!(
        text.contains("masks/p1.png") && text.contains("{0, 2}"),
        "{text}"
    );
}

#[test]
fn sizes_that_differ_are_both_named() {
    let folder = pairs(1);
    png(&folder.path().join("masks/p1.png"), 24, 20, |_, _| 1);
    let text = error_of(index(folder.path(), &by_name(&[], &[], &[])));
    assert!(
        text.contains("20 x 24") && text.contains("24 x 20"),
        "{text}"
    );
}

#[test]
fn a_patient_stays_in_one_split() {
    let folder = pairs(2);
    let list = folder.path().join("list.csv");
    fs::write(
        &list,
        "image,labels,patient,split\nimages/p1.png,masks/p1.png,anna,train\n\
         images/p2.png,masks/p2.png,anna,test\n",
    )
    .unwrap();
    let text = error_of(Dataset::read(&list));
    assert!(
        text.contains("patient anna is in two splits, train and test"),
        "{text}"
    );
    let text = error_of(index(folder.path(), &by_name(&["p1"], &["p1"], &["p2"])));
    assert!(text.contains("patient p1 is in two splits"), "{text}");
}

#[test]
fn lists_are_concatenated_and_checked_together() {
    let folder = pairs(2);
    let header = "image,labels,patient,split\n";
    let list = |name: &str, row: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{header}{row}\n")).unwrap();
        path
    };
    let first = list("a.csv", "images/p1.png,masks/p1.png,anna,train");
    let second = list("b.csv", "images/p2.png,masks/p2.png,bert,test");
    let clash = list("c.csv", "images/p2.png,masks/p2.png,anna,test");
    let both = Dataset::read_many(&[first.clone(), second.clone()]).unwrap();
    assert_eq!(
        (both.of(Split::Train).len(), both.of(Split::Test).len()),
        (1, 1)
    );
    let turned = Dataset::read_many(&[second, first.clone()]).unwrap();
    assert_eq!(
        both.fingerprint, turned.fingerprint,
        "order does not matter"
    );
    let text = error_of(Dataset::read_many(&[first, clash]));
    assert!(text.contains("patient anna is in two splits"), "{text}");
}

#[test]
fn a_bad_line_is_named() {
    let folder = pairs(1);
    let list = folder.path().join("list.csv");
    let text = "image,labels,patient,split\nimages/p1.png,masks/p1.png,anna,training\n";
    fs::write(&list, text).unwrap();
    let text = error_of(Dataset::read(&list));
    assert!(
        text.contains("line 2") && text.contains("\"training\""),
        "{text}"
    );
}

#[test]
fn the_references_lists_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("MRI-Prostate");
    for number in [5, 6] {
        let image = format!("images/patient{number}/study/volume/S_{number}.png");
        png(&root.join(image), 8, 8, |y, _| y as u8);
        png(&root.join(format!("masks/S_{number}.png")), 8, 8, |y, _| {
            if y < 2 { 254 } else { 255 }
        });
    }
    let row = |n: usize| {
        let image = format!("MRI-Prostate/images/patient{n}/study/volume/S_{n}.png");
        format!("{image}, /MRI-Prostate/masks/S_{n}.png\r\n")
    };
    // In the reference the list lies inside the folder that its paths begin with.
    let list = root.join("val_5shot.csv");
    fs::write(&list, row(5) + &row(6)).unwrap();
    let dataset = Dataset::read(&list).unwrap();
    assert_eq!(
        dataset.patients(Split::Validation),
        ["patient5", "patient6"]
    );
    assert_eq!(dataset.classes, [254, 255]);
    let sample = dataset
        .load(&dataset.entries[0], &LabelRule::Combine)
        .unwrap();
    assert!(sample.labels.data.iter().all(|&label| label == 1));
}

#[test]
fn only_labelled_slices_of_a_volume_become_entries() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, voxels: Vec<u8>| {
        let volume = Nifti {
            dim: vec![4, 3, 5],
            datatype: 2,
            spacing: [0.5, 0.75, 3.0],
            slope: [1.0, 0.0],
            sform: Some([
                [-0.5, 0.0, 0.0, 0.0],
                [0.0, -0.75, 0.0, 0.0],
                [0.0, 0.0, 3.0, 0.0],
            ]),
            voxels,
        };
        volume.write(&folder.path().join(name));
    };
    write("imagesTr/v_001.nii", (0..60).collect());
    let labels = (0..60).map(|i| u8::from(i / 12 == 2 && i % 12 == 5));
    write("labelsTr/v_001.nii", labels.collect());
    fs::write(folder.path().join("imagesTr/._v_001.nii"), "of the Finder").unwrap();
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    assert_eq!(dataset.entries.len(), 1);
    let entry = &dataset.entries[0];
    assert_eq!((entry.slice, entry.patient.as_str()), (Some(2), "v_001"));
    let sample = dataset.load(entry, &LabelRule::Combine).unwrap();
    assert_eq!((sample.image.rows, sample.image.cols), (3, 4));
    assert_eq!(
        sample.image.data,
        (24..36).map(|i| i as f32).collect::<Vec<_>>()
    );
    assert_eq!(sample.labels.data[5], 1);
    assert_eq!(sample.spacing_mm, Some([0.75, 0.5]));
    assert_eq!(sample.name, "imagesTr/v_001.nii#2");
}

#[test]
fn fractions_split_patients_by_seed() {
    let folder = pairs(10);
    let split = |seed| {
        let rule = SplitRule::Fractions {
            validation: 0.2,
            test: 0.1,
            seed,
        };
        index(
            folder.path(),
            &Options {
                split: rule,
                plane: None,
            },
        )
        .unwrap()
    };
    let dataset = split(3);
    let sizes =
        [Split::Train, Split::Validation, Split::Test].map(|split| dataset.patients(split).len());
    assert_eq!(sizes, [7, 2, 1]);
    assert_eq!(dataset.fingerprint, split(3).fingerprint);
    assert!((4..10).any(|seed| split(seed).fingerprint != dataset.fingerprint));
}

#[test]
fn a_suffix_must_fit_one_patient() {
    let folder = pairs(12);
    let text = error_of(index(folder.path(), &by_name(&["2"], &[], &[])));
    assert!(text.contains("p12") && text.contains("p2"), "{text}");
    let text = error_of(index(folder.path(), &by_name(&["x9"], &[], &[])));
    assert!(text.contains("no patient \"x9\""), "{text}");
}

#[test]
fn an_unknown_layout_says_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let text = error_of(index(folder.path(), &by_name(&[], &[], &[])));
    assert!(text.contains("imagesTr beside labelsTr"), "{text}");
}
