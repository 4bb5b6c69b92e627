//! Random numbers and smooth random fields, equal on every platform.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A point or direction in mm: x to the right, y downwards.
pub(crate) type Point = [f64; 2];

pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub(crate) fn new(keys: &[u64]) -> Self {
        Self(ChaCha8Rng::seed_from_u64(
            keys.iter().fold(0, |hash, &key| mix(hash ^ key)),
        ))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        f64::from(self.0.next_u32()) / 4_294_967_296.0
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Close to the normal distribution with mean 0 and variance 1: the sum of twelve uniform
    /// numbers, which needs no logarithm.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// Bit mixer (the finalizer of SplitMix64).
pub(crate) fn mix(key: u64) -> u64 {
    let z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A smooth random function of the plane with values in 0..1 and features of `scale` mm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    seed: u64,
    scale: f64,
}

impl Field {
    pub(crate) fn new(seed: u64, scale: f64) -> Self {
        Self { seed, scale }
    }

    pub(crate) fn at(&self, point: Point) -> f64 {
        let [x, y] = point.map(|value| value / self.scale);
        let (left, top) = (x.floor(), y.floor());
        let (u, v) = (smooth(x - left), smooth(y - top));
        let corner = |dx: i64, dy: i64| {
            let column = (left as i64 + dx) as u64;
            let row = (top as i64 + dy) as u64;
            (mix(self.seed ^ mix(column ^ mix(row))) >> 11) as f64 / 9_007_199_254_740_992.0
        };
        let upper = corner(0, 0) * (1.0 - u) + corner(1, 0) * u;
        let lower = corner(0, 1) * (1.0 - u) + corner(1, 1) * u;
        upper * (1.0 - v) + lower * v
    }
}

/// From 0 at 0 to 1 at 1 without a kink; constant outside.
pub(crate) fn smooth(t: f64) -> f64 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Cosine and sine of an angle in turns: short series for an eighth of it, then doubled three times.
pub(crate) fn direction(turns: f64) -> Point {
    let x = (turns - (turns + 0.5).floor()) * std::f64::consts::TAU / 8.0;
    let square = x * x;
    let mut cos =
        1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0 * (1.0 - square / 56.0)));
    let mut sin = x * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0)));
    for _ in 0..3 {
        (cos, sin) = (cos * cos - sin * sin, 2.0 * sin * cos);
    }
    [cos, sin]
}

/// `point` seen from axes that are turned by the angle of `axis`.
pub(crate) fn turned(point: Point, axis: Point) -> Point {
    [
        point[0] * axis[0] + point[1] * axis[1],
        point[1] * axis[0] - point[0] * axis[1],
    ]
}

pub(crate) fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1]]
}

pub(crate) fn length(point: Point) -> f64 {
    (point[0] * point[0] + point[1] * point[1]).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_cosine_and_sine() {
        for i in -40..40 {
            let turns = f64::from(i) / 16.0;
            let [cos, sin] = direction(turns);
            let angle = turns * std::f64::consts::TAU;
            assert!((cos - angle.cos()).abs() < 1e-6, "{turns}: {cos}");
            assert!((sin - angle.sin()).abs() < 1e-6, "{turns}: {sin}");
        }
    }

    #[test]
    fn a_field_is_continuous_and_between_0_and_1() {
        let field = Field::new(5, 7.0);
        for i in 0..2000 {
            let x = f64::from(i) * 0.05 - 50.0;
            let (a, b) = (field.at([x, 3.0]), field.at([x + 0.01, 3.0]));
            assert!(
                (0.0..=1.0).contains(&a) && (a - b).abs() < 0.01,
                "{x}: {a} {b}"
            );
        }
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let mut draw = Draw::new(&[1]);
        let values: Vec<f64> = (0..20_000).map(|_| draw.normal()).collect();
        let mean = values.iter().sum::<f64>() / 2e4;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 2e4;
        assert!(
            mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05,
            "{mean} {variance}"
        );
    }
}
