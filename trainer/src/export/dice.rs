//! What both bundles reach on patients that the network was not trained on, through the daemon's path.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use segmenter::Segmenter;

use crate::bundle::record_dice;
use crate::dataset::{Dataset, LabelRule, Sample, Split};
use crate::evaluate::evaluate;

/// Foreground Dice by "SPLIT PRECISION pooled" (all pixels of the split together) and
/// "SPLIT PRECISION per image" (mean over images).
pub(super) type Table = BTreeMap<String, f64>;

/// Measures each (name, bundle) on validation and test and writes the whole table into every manifest:
/// whoever reads one bundle sees what quantization cost. A split without images has no rows.
pub(super) fn record(
    dataset: &Dataset,
    rule: LabelRule,
    bundles: &[(&str, &Path)],
) -> Result<Table> {
    let mut table = Table::new();
    for split in [Split::Validation, Split::Test] {
        let samples: Vec<Sample> = dataset
            .of(split)
            .into_iter()
            .map(|entry| dataset.load(entry, &rule))
            .collect::<Result<_>>()?;
        if samples.is_empty() {
            continue;
        }
        for &(name, path) in bundles {
            let row = format!("{} {name}", split.name());
            let measured = measure(path, &samples)
                .with_context(|| format!("cannot measure the {row} Dice of {}", path.display()))?;
            table.insert(format!("{row} pooled"), measured.pooled);
            table.insert(format!("{row} per image"), measured.per_image);
        }
    }
    for &(_, path) in bundles {
        record_dice(path, &table)?;
    }
    Ok(table)
}

struct Measured {
    pooled: f64,
    per_image: f64,
}

fn measure(bundle: &Path, samples: &[Sample]) -> Result<Measured> {
    let segmenter = Segmenter::open(bundle)?;
    let num_cls = segmenter.manifest().classes.len() + 1;
    let report = evaluate(samples, num_cls, |sample| {
        Ok(segmenter.segment(&sample.image)?.0)
    })?;
    Ok(Measured {
        pooled: report.pooled_foreground_dice,
        per_image: report.mean_foreground_dice,
    })
}
