//! Overlap of predicted and true masks at native size: per class, per patient, and overall.
//!
//! A class counts in an image only where truth or prediction has it: two empty masks agree, but say
//! nothing about the network. Background is no class.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use contract::LabelMap;
use contract::mask::Overlap;
use serde::{Deserialize, Serialize};

use crate::dataset::Sample;
use crate::report::Progress;

/// Overlaps of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub patient: String,
    pub name: String,
    /// Of the classes 1, 2 ...
    pub overlaps: Vec<Overlap>,
}

/// One class over a set of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub class: u8,
    /// Images in which the class is present in truth or prediction.
    pub n_images: usize,
    /// Mean over these images.
    pub dice: Option<f64>,
    pub iou: Option<f64>,
    /// Over the pixels of all images together.
    pub pooled_dice: Option<f64>,
    pub pooled_iou: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patient {
    pub patient: String,
    pub n_images: usize,
    pub classes: Vec<Figures>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub n_images: usize,
    pub classes: Vec<Figures>,
    pub patients: Vec<Patient>,
    /// Mean over classes of the mean Dice per image.
    pub mean_foreground_dice: f64,
    pub mean_foreground_iou: f64,
    /// Mean over classes of the Dice over all pixels.
    pub pooled_foreground_dice: f64,
    pub rows: Vec<Row>,
}

/// `num_cls` counts background, as in the network's output.
pub fn evaluate(
    samples: &[Sample],
    num_cls: usize,
    mut predict: impl FnMut(&Sample) -> Result<LabelMap>,
) -> Result<Report> {
    let n_classes = u8::try_from(num_cls.saturating_sub(1)).context("at most 255 classes")?;
    let progress = Progress::images("evaluate", samples.len() as u64);
    let mut rows = Vec::with_capacity(samples.len());
    for (done, sample) in (1..).zip(samples) {
        let predicted = predict(sample).with_context(|| format!("segmenting {}", sample.name))?;
        let truth = &sample.labels;
        ensure!(
            (predicted.rows, predicted.cols) == (truth.rows, truth.cols),
            "{}: the mask has {} x {} px, the labels {} x {}",
            sample.name,
            predicted.rows,
            predicted.cols,
            truth.rows,
            truth.cols
        );
        rows.push(Row {
            patient: sample.patient.clone(),
            name: sample.name.clone(),
            overlaps: (1..=n_classes)
                .map(|id| Overlap::of(&predicted, truth, id))
                .collect(),
        });
        progress.images_done(done);
    }
    Report::of(rows, n_classes)
}

impl Report {
    fn of(rows: Vec<Row>, n_classes: u8) -> Result<Self> {
        let all: Vec<&Row> = rows.iter().collect();
        let classes = figures(&all, n_classes);
        let mut by_patient: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in &rows {
            by_patient.entry(&row.patient).or_default().push(row);
        }
        let patients = by_patient
            .into_iter()
            .map(|(patient, rows)| Patient {
                patient: patient.to_owned(),
                n_images: rows.len(),
                classes: figures(&rows, n_classes),
            })
            .collect();
        let over_classes = |figure: fn(&Figures) -> Option<f64>| {
            mean(classes.iter().filter_map(figure)).with_context(|| {
                format!(
                    "none of the {} images has foreground in truth or prediction: \
                     there is nothing to measure",
                    rows.len()
                )
            })
        };
        Ok(Self {
            n_images: rows.len(),
            mean_foreground_dice: over_classes(|class| class.dice)?,
            mean_foreground_iou: over_classes(|class| class.iou)?,
            pooled_foreground_dice: over_classes(|class| class.pooled_dice)?,
            classes,
            patients,
            rows,
        })
    }
}

fn figures(rows: &[&Row], n_classes: u8) -> Vec<Figures> {
    (1..=n_classes)
        .map(|class| {
            let overlaps = || rows.iter().map(|row| &row.overlaps[usize::from(class) - 1]);
            let mut pooled = Overlap::default();
            overlaps().for_each(|overlap| pooled += *overlap);
            Figures {
                class,
                n_images: overlaps()
                    .filter(|overlap| overlap.dice().is_some())
                    .count(),
                dice: mean(overlaps().filter_map(Overlap::dice)),
                iou: mean(overlaps().filter_map(Overlap::iou)),
                pooled_dice: pooled.dice(),
                pooled_iou: pooled.iou(),
            }
        })
        .collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (n, sum) = values.fold((0_u32, 0.0), |(n, sum), value| (n + 1, sum + value));
    (n > 0).then(|| sum / f64::from(n))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .patients
            .iter()
            .map(|row| row.patient.len())
            .max()
            .unwrap_or(0)
            .max(8);
        writeln!(
            f,
            "{:width$}  {:>5}  {:>6}  {:>6}  {:>6}  {:>11}  {:>10}",
            "patient", "class", "images", "dice", "iou", "pooled dice", "pooled iou"
        )?;
        let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.4}"));
        let mut line = |patient: &str, figures: &Figures| {
            writeln!(
                f,
                "{patient:width$}  {:>5}  {:>6}  {:>6}  {:>6}  {:>11}  {:>10}",
                figures.class,
                figures.n_images,
                cell(figures.dice),
                cell(figures.iou),
                cell(figures.pooled_dice),
                cell(figures.pooled_iou)
            )
        };
        for patient in &self.patients {
            for figures in &patient.classes {
                line(&patient.patient, figures)?;
            }
        }
        for figures in &self.classes {
            line("all", figures)?;
        }
        write!(
            f,
            "foreground Dice {:.4} per image, {:.4} pooled; IoU {:.4} ({} images)",
            self.mean_foreground_dice,
            self.pooled_foreground_dice,
            self.mean_foreground_iou,
            self.n_images
        )
    }
}

#[cfg(test)]
mod tests {
    use contract::Image;

    use super::*;

    fn sample(patient: &str, labels: [u8; 4]) -> Sample {
        Sample {
            name: format!("{patient}/1.png"),
            patient: patient.into(),
            image: Image {
                rows: 2,
                cols: 2,
                channels: 1,
                data: vec![0.0; 4],
            },
            labels: LabelMap {
                rows: 2,
                cols: 2,
                data: labels.into(),
            },
            spacing_mm: None,
        }
    }

    fn map(data: [u8; 4]) -> LabelMap {
        LabelMap {
            rows: 2,
            cols: 2,
            data: data.into(),
        }
    }

    #[test]
    fn absent_classes_are_skipped_and_false_alarms_count() {
        let samples = [
            sample("a", [1, 1, 0, 0]),
            sample("a", [0, 0, 0, 0]),
            sample("b", [0, 0, 0, 0]),
        ];
        // Half of it found; nothing found where nothing is; a false alarm.
        let mut predictions = [map([1, 0, 0, 0]), map([0, 0, 0, 0]), map([1, 0, 0, 0])].into_iter();
        let report = evaluate(&samples, 2, |_| Ok(predictions.next().unwrap())).unwrap();
        let class = &report.classes[0];
        assert_eq!(class.n_images, 2);
        // Dice 2/3 and 0; IoU 1/2 and 0; pooled 2*1 / (2+2) and 1/3.
        assert!((class.dice.unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert!((class.iou.unwrap() - 0.25).abs() < 1e-12);
        assert!((class.pooled_dice.unwrap() - 0.5).abs() < 1e-12);
        assert!((class.pooled_iou.unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert!((report.patients[0].classes[0].dice.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(report.patients[1].classes[0].dice, Some(0.0));
    }

    #[test]
    fn the_mean_is_over_foreground_classes() {
        let samples = [sample("a", [1, 2, 0, 0])];
        let report = evaluate(&samples, 4, |_| Ok(map([1, 0, 0, 0]))).unwrap();
        // Class 1 found, class 2 missed, class 3 not there at all; background is no class.
        assert!((report.mean_foreground_dice - 0.5).abs() < 1e-12);
        assert_eq!(report.classes[2].dice, None);
        assert_eq!(
            serde_json::from_value::<Report>(serde_json::to_value(&report).unwrap()).unwrap(),
            report
        );
        assert!(
            report
                .to_string()
                .contains("foreground Dice 0.5000 per image"),
            "{report}"
        );
    }

    #[test]
    fn nothing_to_measure_is_an_error() {
        let error = evaluate(&[sample("a", [0; 4])], 2, |_| Ok(map([0; 4]))).unwrap_err();
        assert!(error.to_string().contains("nothing to measure"), "{error}");
    }

    #[test]
    fn a_mask_of_another_size_names_both() {
        let error = evaluate(&[sample("a", [0; 4])], 2, |_| Ok(LabelMap::new(3, 2))).unwrap_err();
        assert!(
            error.to_string().contains("3 x 2 px, the labels 2 x 2"),
            "{error}"
        );
    }
}
