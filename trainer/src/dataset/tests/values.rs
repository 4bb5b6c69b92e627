//! Voxel values of volumes: slopes, class ids, axes behind the third, and files that are broken.

#![expect(clippy::float_cmp, reason = "what was written is read, to the bit")]

use super::error_of;
use super::nifti_file::{Nifti, image, labels, options, slices_of};
use crate::dataset::index::index;
use crate::dataset::*;

#[test]
fn slopes_are_applied_in_double_precision_and_none_is_none() {
    let pixels = |slope: [f32; 2]| {
        let scaled = Nifti { slope, ..image() };
        slices_of(&scaled, &labels(), &options()).map(|slices| slices[0].0.clone())
    };
    let stored = pixels([1.0, 0.0]).unwrap();
    for slope in [
        [0.0, 0.0],
        [0.0, 5.0],
        [f32::NAN, f32::NAN],
        [f32::INFINITY, 1.0],
        [f32::NAN, 7.0],
    ] {
        assert_eq!(pixels(slope).unwrap(), stored, "{slope:?}");
    }
    let scaled: Vec<f32> = stored.iter().map(|value| value * -2.5 + 100.0).collect();
    assert_eq!(pixels([-2.5, 100.0]).unwrap(), scaled);
    let said = error_of(pixels([2.0, f32::NAN]));
    assert!(
        said.contains("scl_inter is NaN") && said.contains("images/p.nii"),
        "{said}"
    );
}

/// Labels that nibabel wrote as scaled integers or floats come back beside their class ids.
#[test]
fn labels_are_rounded_and_what_lies_between_is_refused() {
    let wanted = slices_of(&image(), &labels(), &options()).unwrap();
    let ids = labels().voxels;
    let as_float = |change: &dyn Fn(f32) -> f32| Nifti {
        datatype: 16,
        voxels: ids
            .iter()
            .flat_map(|&id| change(f32::from(id)).to_le_bytes())
            .collect(),
        ..labels()
    };
    // 0 to 3 in 16 bits, as nibabel scales a float array.
    let slope = 3.0_f32 / 65535.0;
    let scaled = Nifti {
        datatype: 4,
        slope: [slope, 1.5],
        voxels: ids
            .iter()
            .map(|&id| ((f32::from(id) - 1.5) / slope).round().max(-32768.0) as i16)
            .flat_map(i16::to_le_bytes)
            .collect(),
        ..labels()
    };
    let unscaled = Nifti {
        slope: [f32::NAN, f32::NAN],
        ..labels()
    };
    for labels in [
        as_float(&|id| id),
        as_float(&|id| id - 6e-8),
        as_float(&|id| id + 0.0039),
        scaled,
        unscaled,
    ] {
        assert_eq!(slices_of(&image(), &labels, &options()).unwrap(), wanted);
    }
    let half = as_float(&|id| if id == 2.0 { 1.5 } else { id });
    let at = ids.iter().position(|&id| id == 2).unwrap();
    let position = format!("voxel ({}, {}, 0) is 1.5", at % 5, at / 5);
    let said = error_of(slices_of(&image(), &half, &options()));
    assert!(
        said.contains(&position) && said.contains("labels/p.nii.gz"),
        "{said}"
    );
    for (value, words) in [(f32::NAN, "is NaN"), (-1.0, "is -1"), (256.0, "is 256")] {
        let bad = as_float(&|id| if id == 1.0 { value } else { id });
        let said = error_of(slices_of(&image(), &bad, &options()));
        assert!(said.contains(words) && said.contains("class id"), "{said}");
    }
}

#[test]
fn trailing_axes_are_dropped_and_times_refused() {
    let with = |dim: &[i16], nifti: Nifti| Nifti {
        dim: dim.to_vec(),
        ..nifti
    };
    let wanted = slices_of(&image(), &labels(), &options()).unwrap();
    for dim in [&[5, 4, 3, 1][..], &[5, 4, 3, 1, 1]] {
        let found = slices_of(&with(dim, image()), &labels(), &options()).unwrap();
        assert_eq!(found, wanted);
    }
    for dim in [[5, 4, 1], [4, 5, 1]] {
        let flat = [&dim[..2], &dim[..]];
        for (image_dim, labels_dim) in [(0, 0), (0, 1), (1, 0)] {
            let image = with(flat[image_dim], image());
            let labels = with(flat[labels_dim], labels());
            assert_eq!(slices_of(&image, &labels, &options()).unwrap().len(), 1);
        }
    }
    for dim in [&[5, 4, 1, 3][..], &[5, 2, 2, 3], &[5, 4, 1, 1, 3]] {
        let said = error_of(slices_of(&with(dim, image()), &labels(), &options()));
        assert!(
            said.contains("times or channels") && said.contains("images/p.nii"),
            "{said}"
        );
    }
}

#[test]
fn broken_files_are_refused_by_name() {
    type Patch = fn(&mut [u8]);
    fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
        header[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let cases: [(&str, Patch); 10] = [
        ("NIfTI-2", |header| put(header, 0, &540_i32.to_le_bytes())),
        ("no NIfTI-1", |header| put(header, 344, &[0; 4])),
        (".hdr and .img", |header| put(header, 344, b"ni1\0")),
        ("not finite", |header| {
            put(header, 280, &f32::NAN.to_le_bytes());
        }),
        ("no length along voxel axis 2", |header| {
            put(header, 320, &[0; 4]);
        }),
        ("sheared", |header| put(header, 284, &0.5_f32.to_le_bytes())),
        ("RGB colours", |header| {
            put(header, 70, &128_i16.to_le_bytes());
        }),
        ("complex numbers", |header| {
            put(header, 70, &32_i16.to_le_bytes());
        }),
        ("the dimensions [5, 0, 3]", |header| {
            put(header, 44, &[0; 2]);
        }),
        ("vox_offset", |header| {
            put(header, 108, &f32::NAN.to_le_bytes());
        }),
    ];
    let refused = |words: &str, image: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        labels().write(&folder.path().join("labels/p.nii"));
        std::fs::create_dir(folder.path().join("images")).unwrap();
        std::fs::write(folder.path().join("images/p.nii"), image).unwrap();
        let said = error_of(index(folder.path(), &options()));
        assert!(
            said.contains(words) && said.contains("images/p.nii"),
            "no {words:?} in {said}"
        );
    };
    for (words, patch) in cases {
        refused(words, &image().bytes(patch));
    }
    let whole = image().bytes(|_| ());
    refused("ends too early: 119 of 120", &whole[..whole.len() - 1]);
    refused("ends within its header", &whole[..300]);
    refused("the file is empty", &[]);
    refused("damaged", b"\x1f\x8b\x08\0 no gzip");
}

/// Compression is found by content; an offset below the header's length is that of old writers.
#[test]
fn gzip_under_another_name_and_an_offset_of_zero_are_read() {
    let wanted = slices_of(&image(), &labels(), &options()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    labels().write(&folder.path().join("labels/p.nii"));
    let packed = folder.path().join("images/p.nii.gz");
    image().write_patched(&packed, |header| header[108..112].fill(0));
    std::fs::rename(&packed, packed.with_extension("")).unwrap();
    let dataset = index(folder.path(), &options()).unwrap();
    let first = dataset
        .entries
        .iter()
        .find(|entry| entry.slice == Some(0))
        .unwrap();
    let sample = dataset.load(first, &LabelRule::Combine).unwrap();
    assert_eq!(sample.image.data, wanted[0].0);
}
