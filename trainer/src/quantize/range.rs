//! How large a layer's inputs get, and where to clip them.

/// Bins of a histogram: fine enough that a step of int8 covers sixteen.
const BINS: usize = 4096;
const LEVELS: f64 = 127.0;

/// How the clip of an input is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clip {
    /// The largest magnitude seen.
    MinMax,
    /// The magnitude that 99.99 % of the values stay below.
    Percentile,
    /// The one with the least mean squared error of rounding and clipping together.
    MeanSquare,
}

/// Counts of magnitudes in equal bins from 0 to `range`, which doubles when a value exceeds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    range: f32,
    maximum: f32,
}

impl Histogram {
    pub fn add(&mut self, values: &[f32]) {
        let top = values.iter().fold(0f32, |top, value| top.max(value.abs()));
        if top == 0.0 && self.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.counts = vec![0; BINS];
            self.range = top;
        }
        while top > self.range {
            for bin in 0..BINS {
                self.counts[bin] = match 2 * bin {
                    pair if pair < BINS => self.counts[pair] + self.counts[pair + 1],
                    _ => 0,
                };
            }
            self.range *= 2.0;
        }
        self.maximum = self.maximum.max(top);
        let scale = BINS as f32 / self.range;
        for value in values {
            self.counts[((value.abs() * scale) as usize).min(BINS - 1)] += 1;
        }
    }

    pub fn maximum(&self) -> f32 {
        self.maximum
    }

    pub fn clip(&self, rule: Clip) -> f32 {
        match rule {
            Clip::MinMax => self.maximum,
            Clip::Percentile => self.percentile(0.9999).min(self.maximum),
            Clip::MeanSquare => self.least_error(),
        }
    }

    /// Root mean square error with this clip, relative to the root mean square of the values.
    pub fn relative_error(&self, clip: f32) -> f32 {
        let power: f64 = self
            .bins()
            .map(|(centre, count)| count * centre * centre)
            .sum();
        let count: f64 = self.bins().map(|(_, count)| count).sum();
        (self.squared_error(f64::from(clip)) * count / power.max(f64::MIN_POSITIVE)).sqrt() as f32
    }

    /// Magnitudes (bin centres) with their counts.
    fn bins(&self) -> impl Iterator<Item = (f64, f64)> {
        let width = f64::from(self.range) / BINS as f64;
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(move |(bin, count)| ((bin as f64 + 0.5) * width, *count as f64))
    }

    fn percentile(&self, part: f64) -> f32 {
        let total: f64 = self.bins().map(|(_, count)| count).sum();
        let width = f64::from(self.range) / BINS as f64;
        let mut below = 0.0;
        for (centre, count) in self.bins() {
            below += count;
            if below >= part * total {
                return (centre + 0.5 * width) as f32;
            }
        }
        self.maximum
    }

    /// Mean squared error: a step of rounding spreads evenly, a clipped value loses its excess.
    fn squared_error(&self, clip: f64) -> f64 {
        let step = clip / LEVELS;
        let (mut sum, mut total) = (0.0, 0.0);
        for (centre, count) in self.bins() {
            let error = if centre > clip {
                (centre - clip).powi(2)
            } else {
                step * step / 12.0
            };
            sum += count * error;
            total += count;
        }
        sum / f64::max(total, 1.0)
    }

    fn least_error(&self) -> f32 {
        (1..=200)
            .map(|step| f64::from(self.maximum) * f64::from(step) / 200.0)
            .map(|clip| (self.squared_error(clip), clip))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(self.maximum, |(_, clip)| clip as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_range_loses_no_value() {
        let mut histogram = Histogram::default();
        histogram.add(&[0.1, -0.2, 0.3]);
        histogram.add(&[-5.0, 1.0]);
        assert_eq!(histogram.counts.iter().sum::<u64>(), 5);
        assert!((histogram.maximum() - 5.0).abs() < f32::EPSILON);
        assert!((histogram.clip(Clip::MinMax) - 5.0).abs() < f32::EPSILON);
    }

    #[test]
    fn one_outlier_is_clipped_by_mean_square_and_kept_by_min_max() {
        let mut values: Vec<f32> = (0..100_000).map(|i| (i as f32 / 1e5) * 2.0 - 1.0).collect();
        values.push(8.0);
        let mut histogram = Histogram::default();
        histogram.add(&values);
        let clip = histogram.clip(Clip::MeanSquare);
        assert!((0.9..7.0).contains(&clip), "{clip}");
        assert!(histogram.relative_error(clip) < histogram.relative_error(8.0));
        let percentile = histogram.clip(Clip::Percentile);
        assert!((0.99..1.02).contains(&percentile), "{percentile}");
    }

    #[test]
    fn values_that_are_all_zero_have_no_range() {
        let mut histogram = Histogram::default();
        histogram.add(&[0.0; 4]);
        assert!(histogram.clip(Clip::MeanSquare).abs() < f32::EPSILON);
    }
}
