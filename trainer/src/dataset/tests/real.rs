//! The labelled images in `../shared/data`.

use super::by_name;
use crate::dataset::index::{Options, index};
use crate::dataset::*;

/// The real data beside the repository; says so loudly when it is missing.
pub(super) fn shared(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
        "{} is missing and SCANSIDE_REQUIRE_SHARED is set",
        folder.display()
    );
    eprintln!("SKIPPED: {} is missing", folder.display());
    None
}

#[test]
fn sunnybrook_has_96_frames_of_5_patients() {
    let Some(root) = shared("sunnybrook_scd") else {
        return;
    };
    let options = by_name(&["101", "201", "301"], &["401"], &["501"]);
    let dataset = index(&root, &options).unwrap();
    let sizes = [Split::Train, Split::Validation, Split::Test].map(|split| dataset.of(split).len());
    assert_eq!(sizes, [56, 18, 22]);
    assert_eq!(dataset.patients(Split::Test), ["SCD0000501"]);
    assert_eq!(dataset.classes, [1, 2]);
    let mut n_with_myocardium = 0;
    for entry in &dataset.entries {
        let cavity = dataset
            .load(entry, &LabelRule::Binary { class: 1 })
            .unwrap();
        assert!(cavity.labels.data.contains(&1), "{}", cavity.name);
        assert_eq!((cavity.image.rows, cavity.image.cols), (256, 256));
        let [row_mm, _] = cavity.spacing_mm.unwrap();
        assert!((1.28..1.38).contains(&row_mm), "{row_mm}");
        let all = dataset.load(entry, &LabelRule::Classes { n: 2 }).unwrap();
        n_with_myocardium += usize::from(all.labels.data.contains(&2));
    }
    assert_eq!(n_with_myocardium, 37, "as the data's README says");
}

#[test]
fn hippocampus_montgomery_and_prostate_index_and_load() {
    struct Case {
        name: &'static str,
        n_patients: usize,
        rule: LabelRule,
        classes: &'static [u8],
    }
    for case in [
        Case {
            name: "msd_hippocampus",
            n_patients: 64,
            rule: LabelRule::Classes { n: 2 },
            classes: &[1, 2],
        },
        Case {
            name: "cxr_montgomery",
            n_patients: 138,
            rule: LabelRule::Combine,
            classes: &[255],
        },
        // Ten images; patient77 has two of them.
        Case {
            name: "mri_prostate",
            n_patients: 9,
            rule: LabelRule::Combine,
            classes: &[254, 255],
        },
    ] {
        let Some(root) = shared(case.name) else {
            continue;
        };
        let split = SplitRule::Fractions {
            validation: 0.15,
            test: 0.15,
            seed: 1,
        };
        let dataset = index(&root, &Options { split, plane: None }).unwrap();
        let n_patients: usize = [Split::Train, Split::Validation, Split::Test]
            .map(|split| dataset.patients(split).len())
            .iter()
            .sum();
        assert_eq!(n_patients, case.n_patients, "{}", case.name);
        assert_eq!(dataset.classes, case.classes, "{}", case.name);
        for entry in dataset.entries.iter().take(80) {
            let sample = dataset.load(entry, &case.rule).unwrap();
            assert!(
                sample.labels.data.iter().any(|&label| label > 0),
                "{}",
                sample.name
            );
        }
    }
}
