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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        // What a byte can count, so that many pixels are counted at once.
        let counts = self.data.chunks(usize::from(u8::MAX)).map(|pixels| {
            let mine = pixels.iter().map(|&label| u8::from(label == class));
            usize::from(mine.sum::<u8>())
        });
        counts.sum()
    }

    /// The smallest box that holds every pixel of `class`; `None` when there is none.
    pub fn bounding_box(&self, class: u8) -> Option<BoundingBox> {
        let mut found: Option<[usize; 4]> = None;
        for (y, row) in self.data.chunks_exact(self.cols.max(1)).enumerate() {
            // Most rows have none, which `contains` sees sooner than `position`.
            if !row.contains(&class) {
                continue;
            }
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
        Rle {
            size: [self.rows, self.cols],
            counts: compress(&self.runs(class)),
        }
    }

    /// Lengths of the runs, column after column. Only pixels of the box are looked at: a column is a walk across the
    /// whole memory of the map.
    fn runs(&self, class: u8) -> Vec<u64> {
        let (mut runs, mut inside, mut start) = (Vec::new(), false, 0);
        let mut turn = |now: bool, at: usize| {
            if now != inside {
                runs.push((at - start) as u64);
                (inside, start) = (now, at);
            }
        };
        let [left, top, width, height] = self.bounding_box(class).unwrap_or_default();
        for x in left..left + width {
            let column = x * self.rows;
            if top > 0 {
                turn(false, column);
            }
            for y in top..top + height {
                turn(self.data[y * self.cols + x] == class, column + y);
            }
            if top + height < self.rows {
                turn(false, column + top + height);
            }
        }
        if left + width < self.cols {
            turn(false, (left + width) * self.rows);
        }
        runs.push((self.rows * self.cols - start) as u64);
        runs
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

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        class: u8,
        rows: usize,
        cols: usize,
        runs: Vec<(u8, usize)>,
        counts: String,
        area: usize,
        #[serde(rename = "box")]
        bounds: Option<BoundingBox>,
    }

    fn golden() -> impl Iterator<Item = (Case, LabelMap)> {
        let json = include_str!("../../../tests/golden/contract/masks.json");
        let golden: Golden = serde_json::from_str(json).unwrap();
        golden.cases.into_iter().map(|case| {
            let data = case
                .runs
                .iter()
                .flat_map(|&(label, run)| vec![label; run])
                .collect();
            let labels = LabelMap {
                rows: case.rows,
                cols: case.cols,
                data,
            };
            (case, labels)
        })
    }

    #[test]
    fn masks_are_encoded_as_pycocotools_does() {
        for (case, labels) in golden() {
            let Case { name, class, .. } = &case;
            assert_eq!(
                labels.rle(*class).counts,
                case.counts,
                "{name}, class {class}"
            );
            assert_eq!(labels.area_px(*class), case.area, "{name}, class {class}");
            assert_eq!(
                labels.bounding_box(*class),
                case.bounds,
                "{name}, class {class}"
            );
        }
    }

    /// Wherever the mask touches the edges.
    #[test]
    fn runs_are_those_of_every_pixel_one_after_the_other() {
        let (rows, cols) = (3, 4);
        for pattern in 0..1_u32 << (rows * cols) {
            let mut labels = LabelMap::new(rows, cols);
            for (bit, label) in labels.data.iter_mut().enumerate() {
                *label = 2 * (pattern >> bit & 1) as u8;
            }
            let mut runs = vec![0_u64];
            for at in 0..rows * cols {
                let inside = labels.data[at % rows * cols + at / rows] == 2;
                if inside == runs.len().is_multiple_of(2) {
                    *runs.last_mut().unwrap() += 1;
                } else {
                    runs.push(1);
                }
            }
            assert_eq!(labels.runs(2), runs, "{pattern:b}");
            assert_eq!(labels.area_px(2), pattern.count_ones() as usize);
        }
    }

    #[test]
    fn painting_all_classes_gives_the_labels_back() {
        for (case, labels) in golden() {
            let mut painted = LabelMap::new(labels.rows, labels.cols);
            for class in [1, 2] {
                labels.rle(class).paint(&mut painted, class).unwrap();
            }
            assert_eq!(painted, labels, "{}", case.name);
        }
    }

    #[test]
    fn broken_counts_are_refused_and_paint_nothing() {
        let cases = [
            ("P", RleError::Truncated),
            ("!", RleError::Alphabet('!')),
            ("p", RleError::Alphabet('p')),
            ("5é", RleError::Alphabet('é')),
            ("O", RleError::Run { index: 0 }),
            ("oooooooooooooooo0", RleError::Run { index: 0 }),
            ("5", RleError::Length { runs: 5, size: 6 }),
            ("", RleError::Length { runs: 0, size: 6 }),
            ("007", RleError::Length { runs: 7, size: 6 }),
        ];
        for (counts, expected) in cases {
            let mut labels = LabelMap::new(2, 3);
            let rle = Rle {
                size: [2, 3],
                counts: counts.into(),
            };
            assert_eq!(rle.paint(&mut labels, 1), Err(expected), "{counts}");
            assert_eq!(labels, LabelMap::new(2, 3), "{counts}");
        }
        let rle = Rle {
            size: [3, 2],
            counts: "6".into(),
        };
        let sizes = RleError::Size {
            rle: [3, 2],
            labels: [2, 3],
        };
        assert_eq!(rle.paint(&mut LabelMap::new(2, 3), 1), Err(sizes));
    }

    /// Every string of the alphabet decodes or is refused; nothing overflows.
    #[test]
    fn any_counts_end_without_a_panic() {
        let mut state = 1_u64;
        let mut refused = 0;
        for length in (0..40).cycle().take(20_000) {
            let text: String = (0..length)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    char::from(48 + (state >> 58) as u8)
                })
                .collect();
            let rle = Rle {
                size: [4, 4],
                counts: text,
            };
            refused += usize::from(rle.paint(&mut LabelMap::new(4, 4), 1).is_err());
        }
        assert!(refused > 19_000, "{refused}");
    }

    #[test]
    fn overlap_is_undefined_only_where_the_class_is_absent() {
        let map = |data: &[u8]| LabelMap {
            rows: 1,
            cols: data.len(),
            data: data.to_vec(),
        };
        let mut sum = Overlap::of(&map(&[1, 1, 0, 2]), &map(&[0, 1, 1, 2]), 1);
        assert_eq!(
            sum,
            Overlap {
                intersection: 1,
                predicted: 2,
                truth: 2
            }
        );
        assert_eq!((sum.dice(), sum.iou()), (Some(0.5), Some(1.0 / 3.0)));
        sum += Overlap::of(&map(&[1]), &map(&[0]), 1);
        assert_eq!(sum.dice(), Some(0.4));
        assert_eq!(Overlap::of(&map(&[0]), &map(&[0]), 1).dice(), None);
        assert_eq!(Overlap::of(&map(&[0]), &map(&[1]), 1).iou(), Some(0.0));
    }
}
