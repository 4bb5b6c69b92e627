//! What differs from patient to patient. Lengths in mm, angles in turns, the centre of the left
//! ventricle is the origin.

use crate::draw::{Draw, Point, direction};
use crate::tissue::Signals;

/// How the scanner's distortion correction cuts the picture; outside it stores zeros.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Window {
    Whole,
    /// Radius.
    Circle(f64),
    /// Left and right borders bend inwards: half width in the middle row, additional half width at
    /// the top and bottom.
    Barrel(f64, f64),
}

#[derive(Debug, Clone)]
pub(crate) struct Anatomy {
    /// Width and height of the picture.
    pub field_of_view: f64,
    pub slice_thickness: f64,
    /// From the centre of the picture to the centre of the left ventricle at mid-height.
    pub position: Point,
    /// How the whole scene is turned.
    pub axis: Point,
    pub ventricle: Ventricle,
    pub right: RightVentricle,
    pub body: Body,
    pub signals: Signals,
    pub coil: Coil,
    pub window: Window,
    /// For smooth fields.
    pub texture: u64,
}

/// Left ventricle at the base at the end of diastole.
#[derive(Debug, Clone)]
pub(crate) struct Ventricle {
    pub radius: f64,
    pub wall: f64,
    /// By how much of itself the radius shrinks until the end of systole.
    pub contraction: f64,
    /// How far the centre moves from base to apex.
    pub drift: Point,
    /// Cosine and sine coefficients of the outline's harmonics 2, 3 and 4.
    pub outline: [Point; 3],
    pub papillaries: [Papillary; 2],
    /// Depth of the trabeculae at the wall.
    pub trabeculae: f64,
}

#[derive(Debug, Clone)]
pub(crate) struct Papillary {
    pub towards: Point,
    /// Distance from the centre and semi-axes, in cavity radii.
    pub distance: f64,
    pub semi_axes: Point,
}

#[derive(Debug, Clone)]
pub(crate) struct RightVentricle {
    /// From the left ventricle.
    pub towards: Point,
    /// How far it reaches beyond the left ventricle's wall at the base.
    pub reach: f64,
    /// Semi-axis along the septum.
    pub half_length: f64,
    pub wall: f64,
    pub fat: f64,
}

/// Everything around the heart.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub centre: Point,
    pub semi_axes: Point,
    pub skin_fat: f64,
    pub muscle: f64,
    /// Distance from the heart's lower border to the abdomen.
    pub diaphragm: f64,
    pub liver_border: f64,
    pub stomach: Point,
    pub spleen: Point,
    pub kidney: Point,
    pub spine: Point,
}

#[derive(Debug, Clone)]
pub(crate) struct Coil {
    /// One element in front of the chest, one behind it.
    pub elements: [Point; 2],
    pub gains: Point,
    pub reach: f64,
    /// Standard deviation of the noise in each of the two receiver channels.
    pub noise: f64,
}

impl Anatomy {
    pub(crate) fn draw(seed: u64) -> Self {
        let draw = &mut Draw::new(&[seed]);
        let field_of_view = draw.between(322.0, 358.0);
        let slice_thickness = if draw.unit() < 0.5 { 8.0 } else { 10.0 };
        // Most planners turn the picture little; some follow the ventricle's axis.
        let turn = if draw.unit() < 0.8 { 0.05 } else { 0.2 };
        Self {
            field_of_view,
            slice_thickness,
            position: [draw.between(-14.0, 16.0), draw.between(-24.0, 10.0)],
            axis: direction(draw.between(-turn, turn)),
            ventricle: Ventricle::draw(draw),
            right: RightVentricle::draw(draw),
            body: Body::draw(draw),
            signals: Signals::draw(draw),
            coil: Coil::draw(draw),
            window: Window::draw(draw, field_of_view),
            texture: draw.bits(),
        }
    }
}

impl Ventricle {
    fn draw(draw: &mut Draw) -> Self {
        let radius = draw.between(22.0, 34.0);
        let mut outline = [[0.0; 2]; 3];
        for (harmonic, size) in outline.iter_mut().zip([0.06, 0.025, 0.012]) {
            *harmonic = [draw.between(-size, size), draw.between(-size, size)];
        }
        Self {
            radius,
            wall: draw.between(8.0, 13.0),
            contraction: draw.between(0.16, 0.4),
            drift: [draw.between(-4.0, 12.0), draw.between(-6.0, 8.0)],
            outline,
            papillaries: [(0.05, 0.2), (-0.22, -0.06)].map(|(low, high)| Papillary {
                towards: direction(draw.between(low, high)),
                distance: draw.between(0.58, 0.76),
                semi_axes: [draw.between(0.13, 0.22), draw.between(0.12, 0.18)],
            }),
            trabeculae: draw.between(1.0, 4.5),
        }
    }
}

impl RightVentricle {
    fn draw(draw: &mut Draw) -> Self {
        Self {
            towards: direction(0.5 + draw.between(-0.1, 0.07)),
            reach: draw.between(20.0, 40.0),
            half_length: draw.between(30.0, 44.0),
            wall: draw.between(2.0, 4.0),
            fat: draw.between(2.0, 8.0),
        }
    }
}

impl Body {
    fn draw(draw: &mut Draw) -> Self {
        let size = draw.between(215.0, 245.0);
        let shape = draw.between(0.9, 1.12);
        // The chest wall passes this far from the heart, up and to the left of it.
        let distance = draw.between(84.0, 108.0);
        let [cos, sin] = direction(draw.between(0.13, 0.2));
        let skin_fat = draw.between(7.0, 22.0);
        let apart = size - distance;
        Self {
            centre: [cos * apart, sin * apart],
            semi_axes: [size * shape, size / shape],
            skin_fat,
            muscle: draw.between(8.0, 15.0),
            diaphragm: draw.between(-1.0, 9.0),
            liver_border: draw.between(-30.0, 25.0),
            stomach: [draw.between(-10.0, 30.0), draw.between(16.0, 26.0)],
            spleen: [draw.between(85.0, 110.0), draw.between(25.0, 60.0)],
            kidney: [draw.between(50.0, 95.0), draw.between(85.0, 115.0)],
            spine: [draw.between(125.0, 150.0), draw.between(20.0, 80.0)],
        }
    }
}

impl Coil {
    fn draw(draw: &mut Draw) -> Self {
        Self {
            elements: [
                [draw.between(-110.0, -40.0), draw.between(-120.0, -40.0)],
                [draw.between(130.0, 190.0), draw.between(0.0, 150.0)],
            ],
            gains: [draw.between(0.8, 2.2), draw.between(0.4, 2.2)],
            reach: draw.between(45.0, 75.0),
            noise: draw.between(4.0, 12.0),
        }
    }
}

impl Window {
    fn draw(draw: &mut Draw, field_of_view: f64) -> Self {
        let half = field_of_view / 2.0;
        match draw.unit() {
            kind if kind < 0.35 => Self::Whole,
            kind if kind < 0.5 => Self::Circle(half * draw.between(0.82, 0.95)),
            _ => Self::Barrel(
                half * draw.between(0.86, 0.96),
                half * draw.between(0.03, 0.12),
            ),
        }
    }
}
