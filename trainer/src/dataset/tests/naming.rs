//! Which labels an image gets by its name.

use super::{by_name, error_of, png};
use crate::dataset::index::index;
use crate::dataset::names::stem_of;
use crate::dataset::*;

/// A folder with a picture in each of these files, all different.
fn folder(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in names.iter().enumerate() {
        let hidden = folder.path().join("picture.png");
        png(&hidden, 4, 4, |y, x| (y * 4 + x + i) as u8);
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::rename(hidden, path).unwrap();
    }
    folder
}

/// Image and labels of each pair, below the folder.
fn pairs_in(names: &[&str]) -> Result<Vec<(String, String)>> {
    let folder = folder(names);
    let dataset = index(folder.path(), &by_name(&[], &[], &[]))?;
    let mut pairs: Vec<(String, String)> = dataset
        .entries
        .iter()
        .map(|it| {
            (
                relative(folder.path(), &it.image),
                relative(folder.path(), &it.labels),
            )
        })
        .collect();
    pairs.sort();
    Ok(pairs)
}

#[test]
fn only_extensions_of_images_are_taken_off() {
    for (name, stem) in [
        ("2.25.9010.1.1", "2.25.9010.1.1"),
        ("2.25.9010.1.1.dcm", "2.25.9010.1.1"),
        ("2.25.9010.1.1.png", "2.25.9010.1.1"),
        ("1.3.6.1.4.1.14519.PNG", "1.3.6.1.4.1.14519"),
        ("heart_000_0000.nii.gz", "heart_000_0000"),
        ("scan.NII.GZ", "scan"),
        ("scan.nii", "scan"),
        ("dr.smith.jpeg", "dr.smith"),
        ("IM000001", "IM000001"),
        (".png", ".png"),
    ] {
        assert_eq!(stem_of(Path::new("folder.d").join(name).as_path()), stem);
    }
}

#[test]
fn names_by_uid_pair_whole_and_beginnings_do_not() {
    let found = pairs_in(&[
        "P1/dicom/2.25.9",
        "P1/dicom/2.25.9.1",
        "P1/label/2.25.9.png",
        "P2/dicom/2.25.8.dcm",
        "P2/dicom/2.25.8.1.DCM",
        "P2/label/2.25.8.1.PNG",
        "P3/dicom/7.dcm",
        "P3/label/7.dcm.png",
    ]);
    let wanted = [
        ("P1/dicom/2.25.9", "P1/label/2.25.9.png"),
        ("P2/dicom/2.25.8.1.DCM", "P2/label/2.25.8.1.PNG"),
        ("P3/dicom/7.dcm", "P3/label/7.dcm.png"),
    ];
    assert_eq!(
        found.unwrap(),
        wanted.map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
}

#[test]
fn a_channel_number_is_taken_off_only_where_no_labels_have_it() {
    let found = pairs_in(&[
        "imagesTr/a_0000.png",
        "imagesTr/b_0001.png",
        "imagesTr/c.tif",
        "imagesTr/dataset.json",
        "labelsTr/a.png",
        "labelsTr/b_0001.png",
        "labelsTr/c.PNG",
        "labelsTr/d.png",
    ]);
    let wanted = [
        ("imagesTr/a_0000.png", "labelsTr/a.png"),
        ("imagesTr/b_0001.png", "labelsTr/b_0001.png"),
        ("imagesTr/c.tif", "labelsTr/c.PNG"),
    ];
    assert_eq!(
        found.unwrap(),
        wanted.map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    let folder = folder(&["imagesTr/a_0000.png", "labelsTr/a.png"]);
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    assert_eq!(dataset.entries[0].patient, "a");
}

#[test]
fn what_is_not_clear_is_refused_by_all_names() {
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &[
                "imagesTr/a_0000.png",
                "imagesTr/a_0001.png",
                "labelsTr/a.png",
            ],
            &[
                "a_0000.png",
                "a_0001.png",
                "2 channels",
                "not supported",
                "labelsTr/a.png",
            ],
        ),
        (
            &["images/a.png", "labels/a.png", "labels/a.nii.gz"],
            &["labels/a.png", "labels/a.nii.gz", "keep one"],
        ),
        (
            &["images/a.png", "images/a.tif", "labels/a.png"],
            &["images/a.png", "images/a.tif", "labels/a.png", "keep one"],
        ),
        (
            &["P/dicom/1", "P/dicom/1.dcm", "P/label/1.png"],
            &["dicom/1 and", "dicom/1.dcm", "keep one"],
        ),
        (
            &["images/a.png", "images/b.png", "labels/a.png"],
            &["images/b.png has no labels"],
        ),
        (
            &["images/a.png", "images/a_0000.png", "labels/a.png"],
            &["images/a_0000.png has no labels"],
        ),
    ];
    for (names, wanted) in cases {
        let said = error_of(pairs_in(names));
        for words in wanted {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
    }
}

#[test]
fn a_volume_beside_a_picture_is_refused_by_both_names() {
    let folder = folder(&[
        "images/a.png",
        "images/b.nii",
        "labels/a.nii",
        "labels/b.png",
    ]);
    for (image, labels) in [
        ("images/a.png", "labels/a.nii"),
        ("images/b.nii", "labels/b.png"),
    ] {
        let list = folder.path().join("list.csv");
        let row = format!("{image},{labels},p,train,0\n");
        std::fs::write(&list, format!("image,labels,patient,split,slice\n{row}")).unwrap();
        let said = error_of(Dataset::read(&list));
        for words in [image, labels, "NIfTI"] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
    }
}
