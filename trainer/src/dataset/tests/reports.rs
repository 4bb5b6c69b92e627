//! Public reports rebuilt in `../shared/data/reports`: the Dice of the shipped bundle, or the refusal.

use segmenter::Segmenter;

use super::real::shared;
use super::{by_name, error_of};
use crate::bundle;
use crate::dataset::index::{Options, index};
use crate::dataset::*;
use crate::evaluate::evaluate;

fn shipped() -> Segmenter {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo/cardiac-lv-vit_t-256");
    bundle::open(&bundle, false).unwrap()
}

/// Number of images that `trainer dataset index` finds, and the mean Dice of those for testing that `trainer eval`
/// says; both without options.
fn dice(segmenter: &Segmenter, root: &Path) -> (usize, f64) {
    let split = SplitRule::Fractions {
        validation: 0.15,
        test: 0.15,
        seed: 1,
    };
    let dataset = index(root, &Options { split, plane: None }).unwrap();
    let samples: Vec<Sample> = dataset
        .of(Split::Test)
        .into_iter()
        .map(|entry| {
            dataset
                .load(entry, &LabelRule::Binary { class: 1 })
                .unwrap()
        })
        .collect();
    let report = evaluate(&samples, 2, |sample| {
        Ok(segmenter.segment(&sample.image)?.0)
    })
    .unwrap();
    (dataset.entries.len(), report.mean_foreground_dice)
}

#[test]
fn what_other_programs_pair_rightly_has_the_right_dice() {
    let Some(reports) = shared("reports") else {
        return;
    };
    let segmenter = shipped();
    let cases = [
        ("r07_nifti_plain", 12, 0.9455),
        ("r07_labels_ras", 12, 0.9455),
        ("r07_labels_slices_reversed", 12, 0.9455),
        ("r07_stored_psr", 12, 0.9455),
        ("r07_stored_ras", 12, 0.9455),
        ("r08_image_slope_nan", 12, 0.9455),
        ("r08_labels_slope_nan", 12, 0.9455),
        ("r17_nnunet", 12, 0.9455),
        ("r10_uid_names", 8, 0.9496),
        ("r10_uid_is_prefix", 4, 0.9091),
        ("r12_exif_plain", 4, 0.9568),
        ("r12_exif_180", 4, 0.9568),
    ];
    for (name, n_images, wanted) in cases {
        let (n, found) = dice(&segmenter, &reports.join(name));
        assert_eq!(n, n_images, "{name}");
        assert!(
            (found - wanted).abs() < 1e-3,
            "{name}: {found}, not {wanted}"
        );
    }
}

#[test]
fn jpeg_labels_are_refused_by_name() {
    let Some(reports) = shared("reports") else {
        return;
    };
    let said = error_of(index(
        &reports.join("r11_jpeg_labels"),
        &by_name(&[], &[], &[]),
    ));
    assert!(
        said.contains("labels/p0.jpg") && said.contains("PNG"),
        "{said}"
    );
}
