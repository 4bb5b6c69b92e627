//! Which range of a layer's inputs becomes 256 steps.

use serde::{Deserialize, Serialize};

/// Bins on each side of zero: fine enough that a step covers sixteen.
const HALF: usize = 2048;
const BINS: usize = 2 * HALF;
const LEVELS: f64 = 255.0;

/// How the range is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// All values seen.
    MinMax,
    /// All but 1 in 20 000 at either end.
    Percentile,
    /// The least mean squared error of rounding and clipping together.
    MeanSquare,
    /// The least Kullback-Leibler divergence of the values from their rounded and clipped selves.
    Entropy,
}

/// What is not clipped; holds zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    pub low: f32,
    pub high: f32,
}

impl Range {
    /// Input units a step.
    pub fn scale(self) -> f32 {
        (self.high - self.low) / LEVELS as f32
    }

    /// The step that is zero, so that zero (padding, what a Relu gives) stays exact.
    pub fn zero_point(self) -> u8 {
        (-self.low / self.scale())
            .round_ties_even()
            .clamp(0.0, 255.0) as u8
    }
}

/// Counts of values in equal bins from `-side` to `side`, which doubles when a value exceeds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    side: f32,
    minimum: f32,
    maximum: f32,
}

impl Histogram {
    pub fn add(&mut self, values: &[f32]) {
        let (low, high) = values.iter().fold((0f32, 0f32), |(low, high), &value| {
            (low.min(value), high.max(value))
        });
        let top = high.max(-low);
        if top == 0.0 && self.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.counts = vec![0; BINS];
            self.side = top;
        }
        while top > self.side {
            let mut wider = vec![0; BINS];
            for (bin, count) in self.counts.iter().enumerate() {
                wider[HALF / 2 + bin / 2] += count;
            }
            self.counts = wider;
            self.side *= 2.0;
        }
        self.minimum = self.minimum.min(low);
        self.maximum = self.maximum.max(high);
        let scale = HALF as f32 / self.side;
        for value in values {
            self.counts[(((value + self.side) * scale) as usize).min(BINS - 1)] += 1;
        }
    }

    /// All values seen, and zero.
    pub fn seen(&self) -> Range {
        Range {
            low: self.minimum,
            high: self.maximum,
        }
    }

    pub fn range(&self, rule: Calibration) -> Range {
        match rule {
            Calibration::MinMax => self.seen(),
            Calibration::Percentile => self.percentile(1.0 / 20_000.0),
            Calibration::MeanSquare => self.least(|range| self.squared_error(range)),
            Calibration::Entropy => self.least(|range| self.divergence(range)),
        }
    }

    /// Root mean square error with this range, relative to the root mean square of the values.
    pub fn relative_error(&self, range: Range) -> f32 {
        let power: f64 = self
            .bins()
            .map(|(centre, count)| count * centre * centre)
            .sum();
        let count: f64 = self.bins().map(|(_, count)| count).sum();
        (self.squared_error(range) * count / power.max(f64::MIN_POSITIVE)).sqrt() as f32
    }

    /// Bin centres with their counts.
    fn bins(&self) -> impl Iterator<Item = (f64, f64)> {
        let width = f64::from(self.side) / HALF as f64;
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(move |(bin, count)| ((bin as f64 + 0.5 - HALF as f64) * width, *count as f64))
    }

    /// Without this part of the values at either end.
    fn percentile(&self, part: f64) -> Range {
        let total: f64 = self.bins().map(|(_, count)| count).sum();
        let width = f64::from(self.side) / HALF as f64;
        let mut seen = 0.0;
        let (mut low, mut high) = (None, self.maximum);
        for (centre, count) in self.bins() {
            seen += count;
            if low.is_none() && seen > part * total {
                low = Some((centre - 0.5 * width) as f32);
            }
            if seen >= (1.0 - part) * total {
                high = (centre + 0.5 * width) as f32;
                break;
            }
        }
        Range {
            low: low.unwrap_or(self.minimum).clamp(self.minimum, 0.0),
            high: high.clamp(0.0, self.maximum),
        }
    }

    /// Mean squared error: a step of rounding spreads evenly, a clipped value loses its excess.
    fn squared_error(&self, range: Range) -> f64 {
        let (low, high) = (f64::from(range.low), f64::from(range.high));
        let step = (high - low) / LEVELS;
        let (mut sum, mut total) = (0.0, 0.0);
        for (centre, count) in self.bins() {
            let excess = (centre - high).max(low - centre).max(0.0);
            let error = if excess > 0.0 {
                excess * excess
            } else {
                step * step / 12.0
            };
            sum += count * error;
            total += count;
        }
        sum / f64::max(total, 1.0)
    }

    /// Of the clipped distribution P from Q, in which each step has one height over those of its bins that hold a
    /// value.
    fn divergence(&self, range: Range) -> f64 {
        let (low, high) = (f64::from(range.low), f64::from(range.high));
        let step = (high - low) / LEVELS;
        let mut steps = vec![(0.0, 0.0); LEVELS as usize + 1];
        let place = |centre: f64| ((centre - low) / step).round().clamp(0.0, LEVELS) as usize;
        // What is clipped counts in P, not in Q: that is the price of clipping.
        for (centre, count) in self.bins() {
            let (height, bins) = &mut steps[place(centre)];
            if (low..=high).contains(&centre) {
                *height += count;
                *bins += 1.0;
            }
        }
        let total: f64 = self.bins().map(|(_, count)| count).sum();
        let kept: f64 = steps.iter().map(|(height, _)| height).sum();
        let mut sum = 0.0;
        let mut clipped = vec![0.0; steps.len()];
        for (centre, count) in self.bins() {
            let step = place(centre);
            let (height, bins) = steps[step];
            if (low..=high).contains(&centre) {
                let (p, q) = (count / total, height / bins / kept.max(1.0));
                sum += p * (p / q).ln();
            } else {
                clipped[step] += count;
            }
        }
        for ((height, _), clipped) in steps.iter().zip(clipped) {
            if clipped > 0.0 {
                let (p, q) = (clipped / total, (height / kept.max(1.0)).max(1e-9));
                sum += p * (p / q).ln().abs();
            }
        }
        sum
    }

    /// The range with the least `cost`: one end is moved, then the other, and once more.
    fn least(&self, cost: impl Fn(Range) -> f64) -> Range {
        let mut best = self.seen();
        for _ in 0..2 {
            for low_end in [false, true] {
                let candidates = (1..=100).map(|part| {
                    let part = part as f32 / 100.0;
                    let mut range = best;
                    if low_end {
                        range.low = self.minimum * part;
                    } else {
                        range.high = self.maximum * part;
                    }
                    (cost(range), range)
                });
                let least = candidates.min_by(|a, b| a.0.total_cmp(&b.0));
                best = least.map_or(best, |(_, range)| range);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.add(values);
        histogram
    }

    #[test]
    fn a_growing_range_loses_no_value() {
        let mut histogram = of(&[0.1, -0.2, 0.3]);
        histogram.add(&[-5.0, 1.0]);
        assert_eq!(histogram.counts.iter().sum::<u64>(), 5);
        let seen = histogram.range(Calibration::MinMax);
        assert!(
            (seen.low + 5.0).abs() < 1e-6 && (seen.high - 1.0).abs() < 1e-6,
            "{seen:?}"
        );
    }

    #[test]
    fn one_outlier_is_clipped_but_by_min_max() {
        // Most values near zero, as after a GELU.
        let value = |i: i32| (i as f32 / 1e5).powi(5);
        let mut values: Vec<f32> = (-50_000..100_000).map(value).collect();
        values.push(30.0);
        let histogram = of(&values);
        for rule in [
            Calibration::Percentile,
            Calibration::MeanSquare,
            Calibration::Entropy,
        ] {
            let range = histogram.range(rule);
            assert!((0.3..28.0).contains(&range.high), "{rule:?}: {range:?}");
            assert!((-0.04..=0.0).contains(&range.low), "{rule:?}: {range:?}");
        }
        let seen = histogram.range(Calibration::MinMax);
        let best = histogram.range(Calibration::MeanSquare);
        assert!(histogram.relative_error(best) < histogram.relative_error(seen));
    }

    #[test]
    fn the_zero_point_is_zero() {
        let range = Range {
            low: -0.17,
            high: 3.0,
        };
        let zero = f32::from(range.zero_point()) * range.scale() + range.low;
        assert!(zero.abs() < range.scale() / 2.0 + 1e-6, "{zero}");
        let positive = Range {
            low: 0.0,
            high: 2.0,
        };
        assert_eq!(positive.zero_point(), 0);
    }

    #[test]
    fn values_that_are_all_zero_have_no_range() {
        let range = of(&[0.0; 4]).range(Calibration::MeanSquare);
        assert_eq!((range.low, range.high), (0.0, 0.0));
    }
}
