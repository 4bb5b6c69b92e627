//! The heart cut at one height at one phase of the beat.

use crate::anatomy::{Anatomy, RightVentricle, Ventricle};
use crate::body::Surroundings;
use crate::draw::{Field, Point, length, minus, smooth, turned};
use crate::tissue::Tissue;

pub(crate) struct Section<'a> {
    anatomy: &'a Anatomy,
    /// 0 at the base, 1 at the apex.
    depth: f64,
    centre: Point,
    /// Mean radius of the left cavity.
    pub cavity: f64,
    /// Mean radius of the left ventricle with its wall.
    pub outer: f64,
    /// Semi-axes of the right ventricle across and along the septum; none near the apex.
    right: Option<Point>,
    surroundings: Surroundings<'a>,
    rough: Field,
    fine: Field,
}

impl<'a> Section<'a> {
    pub(crate) fn new(anatomy: &'a Anatomy, depth: f64, phase: f64) -> Self {
        let ventricle = &anatomy.ventricle;
        let systole = contraction(phase);
        // Half an ellipsoid, cut before its tip.
        let taper = (1.0 - 0.88 * depth * depth).sqrt();
        let relaxed = ventricle.radius * taper;
        let wall = ventricle.wall * (1.0 - 0.3 * depth);
        let cavity = relaxed * (1.0 - ventricle.contraction * systole);
        // Muscle keeps its volume, and the heart gets shorter: the ring's area grows a little.
        let ring =
            ((relaxed + wall) * (relaxed + wall) - relaxed * relaxed) * (1.0 + 0.12 * systole);
        let outer = (cavity * cavity + ring).sqrt();
        let centre = ventricle.drift.map(|drift| drift * (depth - 0.5));
        Self {
            anatomy,
            depth,
            centre,
            cavity,
            outer,
            right: right_axes(&anatomy.right, depth, systole, outer),
            surroundings: Surroundings::new(anatomy, depth, centre[1] + outer),
            rough: Field::new(anatomy.texture ^ 1, 4.5),
            fine: Field::new(anatomy.texture ^ 2, 9.0),
        }
    }

    /// `point` in mm from the centre of the left ventricle at mid-height.
    pub(crate) fn tissue(&self, point: Point) -> Tissue {
        let from_centre = minus(point, self.centre);
        self.left(from_centre)
            .or_else(|| self.right(from_centre))
            .or_else(|| self.fat_around(from_centre))
            .unwrap_or_else(|| self.surroundings.tissue(point))
    }

    fn left(&self, point: Point) -> Option<Tissue> {
        let radius = length(point) / outline(&self.anatomy.ventricle, point);
        if radius > self.outer {
            return None;
        }
        if radius > self.cavity {
            return Some(Tissue::Myocardium);
        }
        let muscle = self.papillary(point) || self.trabecula(point, radius);
        Some(if muscle {
            Tissue::Papillary
        } else {
            Tissue::Blood
        })
    }

    fn papillary(&self, point: Point) -> bool {
        // They rise from the lower half of the wall and end in strings before the valve.
        let size = 1.25 * smooth(self.depth / 0.25) * smooth((1.0 - self.depth) / 0.3);
        size > 0.3
            && self.anatomy.ventricle.papillaries.iter().any(|papillary| {
                let along = turned(point, papillary.towards);
                let x = (along[0] / self.cavity - papillary.distance) / papillary.semi_axes[0];
                let y = along[1] / self.cavity / papillary.semi_axes[1];
                x * x + y * y < size * size * (0.7 + 0.6 * self.rough.at(point))
            })
    }

    fn trabecula(&self, point: Point, radius: f64) -> bool {
        // The septum is smooth.
        let septum = self.anatomy.right.towards;
        let facing = (point[0] * septum[0] + point[1] * septum[1]) / self.cavity;
        let depth = self.anatomy.ventricle.trabeculae * (1.0 - smooth(facing + 0.2));
        let height = (self.rough.at(point) - 0.45).max(0.0) / 0.55 * depth * 1.6;
        self.cavity - radius < height.min(0.35 * self.cavity)
    }

    /// Distance beyond the right ventricle's outer border, negative inside.
    fn beyond_right(&self, point: Point) -> Option<f64> {
        let axes = self.right?;
        let along = turned(point, self.anatomy.right.towards);
        // The crescent hugs the left ventricle: its tips bend back.
        let bent = along[0] + along[1] * along[1] / (3.2 * self.outer);
        let centre = self.outer * 0.55;
        let (x, y) = ((bent - centre) / axes[0], along[1] / axes[1]);
        Some(((x * x + y * y).sqrt() - 1.0) * axes[0].min(axes[1]))
    }

    fn right(&self, point: Point) -> Option<Tissue> {
        let beyond = self.beyond_right(point)?;
        if beyond > 0.0 {
            return None;
        }
        let rough = 7.0 * (self.rough.at(point) - 0.55).max(0.0);
        if -beyond < self.anatomy.right.wall * 0.8 + rough {
            return Some(Tissue::RightWall);
        }
        // Trabeculae cross the cavity.
        let crossed = self.rough.at([point[0] + 300.0, point[1]]) > 0.86;
        Some(if crossed {
            Tissue::RightWall
        } else {
            Tissue::RightBlood
        })
    }

    fn fat_around(&self, point: Point) -> Option<Tissue> {
        let left = length(point) - self.outer * outline(&self.anatomy.ventricle, point);
        let beyond = self
            .beyond_right(point)
            .map_or(left, |right| right.min(left));
        let septum = self.anatomy.right.towards;
        let facing = (point[0] * septum[0] + point[1] * septum[1]) / length(point).max(1.0);
        let share = 0.35 + 0.65 * smooth(facing + 0.5);
        let thickness = self.anatomy.right.fat * share * (2.2 * self.fine.at(point) - 0.4);
        (beyond < thickness).then_some(Tissue::Fat)
    }
}

/// Radius of the outline in the direction of `point`, relative to its mean.
fn outline(ventricle: &Ventricle, point: Point) -> f64 {
    let distance = length(point).max(1e-9);
    let [cos, sin] = point.map(|value| value / distance);
    let mut angle = [cos, sin];
    let mut radius = 1.0;
    for [even, odd] in ventricle.outline {
        angle = [
            angle[0] * cos - angle[1] * sin,
            angle[1] * cos + angle[0] * sin,
        ];
        radius += even * angle[0] + odd * angle[1];
    }
    radius
}

fn right_axes(right: &RightVentricle, depth: f64, systole: f64, outer: f64) -> Option<Point> {
    let taper = 1.0 - smooth((depth - 0.15) / 0.8);
    let reach = right.reach * taper * (1.0 - 0.3 * systole);
    let across = 0.45 * outer + reach;
    let along = right.half_length * (0.5 + 0.5 * taper) * (1.0 - 0.1 * systole);
    (reach > 5.0).then_some([across, along])
}

/// 0 at the end of diastole, 1 at the end of systole.
fn contraction(phase: f64) -> f64 {
    const SYSTOLE: f64 = 0.35;
    const FILLED: f64 = 0.75;
    if phase < SYSTOLE {
        smooth(phase / SYSTOLE)
    } else {
        1.0 - smooth((phase - SYSTOLE) / (FILLED - SYSTOLE))
    }
}
