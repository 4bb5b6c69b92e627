//! Masks: logits, label maps, COCO run-length encoding, areas, boxes, overlap measures.

use serde::{Deserialize, Serialize};

/// Class logits of one image: `classes` x `rows` x `cols`, class-major. Class 0 is background.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    pub classes: usize,
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

/// One class id a pixel, row-major; 0 is background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<u8>,
}

/// COCO run-length encoding of a binary mask, as pycocotools writes it: column-major, first run is
/// background, counts compressed to printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rle {
    /// Rows, columns.
    pub size: [usize; 2],
    pub counts: String,
}

/// x, y, width, height in px (COCO).
pub type BoundingBox = [usize; 4];

impl LabelMap {
    pub fn new(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            data: vec![0; rows * cols],
        }
    }

    /// Number of pixels of `class`.
    pub fn area_px(&self, class: u8) -> usize {
        self.data.iter().filter(|&&label| label == class).count()
    }

    /// The smallest box that holds every pixel of `class`; `None` when there is none.
    pub fn bounding_box(&self, class: u8) -> Option<BoundingBox> {
        let mut found: Option<[usize; 4]> = None;
        for (y, row) in self.data.chunks_exact(self.cols.max(1)).enumerate() {
            let Some(first) = row.iter().position(|&label| label == class) else {
                continue;
            };
            let last = row
                .iter()
                .rposition(|&label| label == class)
                .unwrap_or(first);
            found = Some(match found {
                None => [first, y, last, y],
                Some([x0, y0, x1, _]) => [x0.min(first), y0, x1.max(last), y],
            });
        }
        found.map(|[x0, y0, x1, y1]| [x0, y0, x1 - x0 + 1, y1 - y0 + 1])
    }

    /// Run-length encoding of the binary mask "label is `class`".
    pub fn rle(&self, class: u8) -> Rle {
        let mut runs = Vec::new();
        let (mut inside, mut run) = (false, 0_u64);
        for x in 0..self.cols {
            for label in self.data.iter().skip(x).step_by(self.cols) {
                if (*label == class) != inside {
                    runs.push(run);
                    run = 0;
                    inside = !inside;
                }
                run += 1;
            }
        }
        runs.push(run);
        Rle {
            size: [self.rows, self.cols],
            counts: compress(&runs),
        }
    }
}

/// What is wrong with a run-length string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RleError {
    #[error("counts end in the middle of a number")]
    Truncated,
    #[error("character {0:?} is outside the COCO alphabet")]
    Alphabet(char),
    #[error("run {index} is negative or larger than any mask")]
    Run { index: usize },
    #[error("runs add up to {runs} px, the mask has {size}")]
    Length { runs: u64, size: u64 },
    #[error("run-length mask is {rle:?} (rows, columns), the label map is {labels:?}")]
    Size { rle: [usize; 2], labels: [usize; 2] },
}

impl Rle {
    /// Sets the pixels of the mask to `class` in `labels` (same size). Nothing is painted on error.
    pub fn paint(&self, labels: &mut LabelMap, class: u8) -> Result<(), RleError> {
        let size = [labels.rows, labels.cols];
        if self.size != size || labels.data.len() != labels.rows * labels.cols {
            return Err(RleError::Size {
                rle: self.size,
                labels: size,
            });
        }
        let runs = decompress(&self.counts)?;
        let pixels = labels.data.len() as u64;
        let total = runs.iter().fold(0_u64, |sum, &run| sum.saturating_add(run));
        if total != pixels {
            return Err(RleError::Length {
                runs: total,
                size: pixels,
            });
        }
        let mut position = 0_usize;
        for (index, &run) in runs.iter().enumerate() {
            // The runs add up to a length in memory, so each of them fits.
            let end = position + run as usize;
            if index % 2 == 1 {
                for at in position..end {
                    labels.data[(at % labels.rows) * labels.cols + at / labels.rows] = class;
                }
            }
            position = end;
        }
        Ok(())
    }
}

const FIRST_CHARACTER: u8 = 48;

/// LEB128-like groups of five bits, sign in bit 4, continuation in bit 5; from the fourth run on
/// the difference to the run two before is written (pycocotools `rleToString`).
fn compress(runs: &[u64]) -> String {
    let mut counts = String::with_capacity(runs.len() * 2);
    for (index, &run) in runs.iter().enumerate() {
        let mut rest = run as i64;
        if index > 2 {
            rest -= runs[index - 2] as i64;
        }
        loop {
            let group = (rest & 0x1f) as u8;
            rest >>= 5;
            let more = if group & 0x10 == 0 {
                rest != 0
            } else {
                rest != -1
            };
            counts.push(char::from(
                FIRST_CHARACTER + group + if more { 0x20 } else { 0 },
            ));
            if !more {
                break;
            }
        }
    }
    counts
}

fn decompress(counts: &str) -> Result<Vec<u64>, RleError> {
    // Ten groups are 50 bits: more than any mask, and no shift or sum can overflow.
    const MOST_GROUPS: u32 = 10;
    let mut runs: Vec<u64> = Vec::new();
    let (mut value, mut groups) = (0_i64, 0_u32);
    for character in counts.chars() {
        let code = u8::try_from(character)
            .ok()
            .and_then(|byte| byte.checked_sub(FIRST_CHARACTER))
            .filter(|&code| code < 64)
            .ok_or(RleError::Alphabet(character))?;
        let index = runs.len();
        if groups == MOST_GROUPS {
            return Err(RleError::Run { index });
        }
        value |= i64::from(code & 0x1f) << (5 * groups);
        groups += 1;
        if code & 0x20 != 0 {
            continue;
        }
        if code & 0x10 != 0 {
            value |= -1_i64 << (5 * groups);
        }
        if index > 2 {
            value += runs[index - 2] as i64;
        }
        match u64::try_from(value) {
            Ok(run) if run < 1 << 52 => runs.push(run),
            _ => return Err(RleError::Run { index }),
        }
        (value, groups) = (0, 0);
    }
    if groups > 0 {
        Err(RleError::Truncated)
    } else {
        Ok(runs)
    }
}

/// Overlap counts of one class; add them up over images for the pooled figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    pub intersection: u64,
    pub predicted: u64,
    pub truth: u64,
}

impl Overlap {
    /// Counts over the pixels both maps have; compare maps of one size only.
    pub fn of(predicted: &LabelMap, truth: &LabelMap, class: u8) -> Self {
        let both = predicted.data.iter().zip(&truth.data);
        Self {
            intersection: both.filter(|&(&p, &t)| p == class && t == class).count() as u64,
            predicted: predicted.area_px(class) as u64,
            truth: truth.area_px(class) as u64,
        }
    }

    /// 2 I / (P + T); `None` when the class is absent from both.
    pub fn dice(&self) -> Option<f64> {
        let sum = self.predicted + self.truth;
        (sum > 0).then(|| 2.0 * self.intersection as f64 / sum as f64)
    }

    /// I / U; `None` when the class is absent from both.
    pub fn iou(&self) -> Option<f64> {
        let union = (self.predicted + self.truth).saturating_sub(self.intersection);
        (union > 0).then(|| self.intersection as f64 / union as f64)
    }
}

impl std::ops::AddAssign for Overlap {
    fn add_assign(&mut self, other: Self) {
        self.intersection += other.intersection;
        self.predicted += other.predicted;
        self.truth += other.truth;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        size: [usize; 2],
        ones: Option<Vec<usize>>,
        counts: String,
        area: usize,
        bbox: BoundingBox,
    }

    /// Made by pycocotools: tests/golden/make_contract.py
    const CASES: &str = include_str!("../../../tests/golden/contract.json");

    #[test]
    fn run_lengths_equal_pycocotools() {
        for case in serde_json::from_str::<Vec<Case>>(CASES).unwrap() {
            let name = &case.name;
            let rle = Rle {
                size: case.size,
                counts: case.counts,
            };
            let mut labels = LabelMap::new(case.size[0], case.size[1]);
            rle.paint(&mut labels, 3).unwrap();
            if let Some(ones) = case.ones {
                let painted: Vec<usize> = (0..labels.data.len())
                    .filter(|&i| labels.data[i] == 3)
                    .collect();
                assert_eq!(painted, ones, "{name}");
            }
            assert_eq!(labels.rle(3), rle, "{name}");
            assert_eq!(labels.area_px(3), case.area, "{name}");
            let expected = (case.area > 0).then_some(case.bbox);
            assert_eq!(labels.bounding_box(3), expected, "{name}");
        }
    }

    #[test]
    fn bad_run_lengths_are_errors() {
        let mut labels = LabelMap::new(4, 4);
        for (counts, is_expected) in [
            (
                "",
                (|e| matches!(e, RleError::Length { runs: 0, .. })) as fn(&RleError) -> bool,
            ),
            ("P", |e| matches!(e, RleError::Truncated)),
            ("\u{e9}", |e| matches!(e, RleError::Alphabet(_))),
            ("9", |e| matches!(e, RleError::Length { .. })),
        ] {
            let rle = Rle {
                size: [4, 4],
                counts: counts.to_owned(),
            };
            let error = rle.paint(&mut labels, 1).unwrap_err();
            assert!(is_expected(&error), "{counts:?}: {error:?}");
        }
    }

    #[test]
    fn overlap_of_absent_classes_has_no_dice() {
        let (mut a, mut b) = (LabelMap::new(2, 2), LabelMap::new(2, 2));
        assert_eq!(Overlap::of(&a, &b, 1).dice(), None);
        a.data = vec![1, 1, 0, 0];
        b.data = vec![1, 0, 0, 1];
        let overlap = Overlap::of(&a, &b, 1);
        assert_eq!(
            (overlap.dice(), overlap.iou()),
            (Some(0.5), Some(1.0 / 3.0))
        );
    }
}
