//! Where a frame lies, in numbers, and how far the planes of a volume are from each other.

use super::slice::Slice;
use crate::decode::source::numbers;

/// Scanners repeat a position with noise in its last digits.
pub(super) const SAME_PLACE_MM: f64 = 0.01;
/// Of the cosines.
const PARALLEL: f64 = 1e-3;
/// Of a step, and of the spacing of pixels.
const EVEN: f64 = 0.01;
/// Steps that are no multiples of the smallest may be multiples of a part of it.
const PARTS_MAX: u32 = 4;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Space {
    orientation: [f64; 6],
    position: [f64; 3],
    /// Between rows, between columns.
    spacing: [f64; 2],
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Space {
    /// Of an object's frame, both from 0.
    pub(super) fn of(slices: &[Slice], (slice, frame): (usize, usize)) -> Option<Self> {
        let slice = slices.get(slice).filter(|slice| slice.has_planes())?;
        let plane = slice.source.planes.get(frame)?;
        Some(Self {
            orientation: numbers(&plane.orientation)?.try_into().ok()?,
            position: numbers(&plane.position)?.try_into().ok()?,
            spacing: numbers(&plane.spacing)?.try_into().ok()?,
        })
    }

    fn axes(&self) -> [[f64; 3]; 3] {
        let [a, b, c, x, y, z] = self.orientation;
        let normal = [b * z - c * y, c * x - a * z, a * y - b * x];
        [[a, b, c], [x, y, z], normal]
    }

    pub(super) fn is_parallel(&self, other: &Self) -> bool {
        let mut pairs = self.orientation.iter().zip(&other.orientation);
        let mut spacings = self.spacing.iter().zip(&other.spacing);
        pairs.all(|(a, b)| (a - b).abs() < PARALLEL)
            && spacings.all(|(a, b)| (a - b).abs() < EVEN * a)
    }

    pub(super) fn pixel_mm(&self) -> f64 {
        self.spacing[0].min(self.spacing[1])
    }

    pub(super) fn pixel_mm2(&self) -> f64 {
        self.spacing[0] * self.spacing[1]
    }

    fn way_to(&self, other: &Self) -> [f64; 3] {
        std::array::from_fn(|axis| other.position[axis] - self.position[axis])
    }

    /// Along the normal, mm.
    pub(super) fn distance_to(&self, other: &Self) -> f64 {
        dot(self.axes()[2], self.way_to(other))
    }

    /// Along rows and columns, mm.
    pub(super) fn in_plane(&self, other: &Self) -> [f64; 2] {
        let [row, column, _] = self.axes();
        let way = self.way_to(other);
        [dot(row, way), dot(column, way)]
    }
}

/// The planes of a volume, from the lowest.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Steps {
    /// Between neighbours, mm.
    pub(super) gaps: Vec<f64>,
    /// Of a grid on which every plane lies, mm.
    pub(super) grid: Option<f64>,
    /// Every step is one of the grid.
    pub(super) even: bool,
    /// Planes of the grid that are absent, where the grid is that of the smallest step.
    pub(super) missing: usize,
}

impl Steps {
    /// `at`: along the normal, ascending, mm.
    pub(super) fn of(at: &[f64]) -> Self {
        let gaps: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let smallest = gaps.iter().copied().fold(f64::INFINITY, f64::min);
        let mut steps = Self {
            gaps,
            grid: None,
            even: true,
            missing: 0,
        };
        if steps.gaps.is_empty() {
            return steps;
        }
        let total: f64 = steps.gaps.iter().sum();
        for part in 1..=PARTS_MAX {
            let Some(n) = steps.of_multiples(smallest / f64::from(part)) else {
                continue;
            };
            steps.grid = Some(total / n);
            steps.even = part == 1 && n as usize == steps.gaps.len();
            if part == 1 {
                steps.missing = n as usize - steps.gaps.len();
            }
            return steps;
        }
        steps.even = false;
        steps
    }

    /// How many steps of this size all gaps together are, if each is a whole number of them.
    fn of_multiples(&self, step: f64) -> Option<f64> {
        let mut n = 0.0;
        for gap in &self.gaps {
            let times = (gap / step).round().max(1.0);
            // Positions are rounded, too.
            let tolerance = (EVEN * step * times).max(2.0 * SAME_PLACE_MM);
            if (gap - times * step).abs() > tolerance.min(step / 4.0) {
                return None;
            }
            n += times;
        }
        Some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(at: &[f64]) -> (Option<f64>, bool, usize) {
        let steps = Steps::of(at);
        let grid = steps.grid.map(|grid| (grid * 1e4).round() / 1e4);
        (grid, steps.even, steps.missing)
    }

    #[test]
    fn the_grid_is_the_true_distance_and_a_hole_stays_one() {
        assert_eq!(steps(&[]), (None, true, 0));
        assert_eq!(steps(&[7.0]), (None, true, 0));
        assert_eq!(steps(&[0.0, 6.5, 13.0, 19.5]), (Some(6.5), true, 0));
        // Rounded positions: the mean does not drift.
        assert_eq!(steps(&[0.0, 0.83, 1.67, 2.5]), (Some(0.8333), true, 0));
        assert_eq!(steps(&[0.0, 3.0, 9.0, 12.0]), (Some(3.0), false, 1));
        assert_eq!(steps(&[0.0, 3.0, 103.0 - 1.0, 105.0]).2, 32);
        assert_eq!(steps(&[0.0, 3.0, 6.0, 11.0, 16.0]), (Some(1.0), false, 0));
        assert_eq!(steps(&[0.0, 3.0, 6.1, 9.0]), (None, false, 0));
    }
}
