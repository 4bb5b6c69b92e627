//! Chest wall, lung and abdomen around the heart.

use crate::anatomy::{Anatomy, Body};
use crate::draw::{Field, Point, length, minus};
use crate::tissue::Tissue;

pub(crate) struct Surroundings<'a> {
    body: &'a Body,
    /// Direction of the right ventricle, where fat fills the gap to the chest wall.
    front: Point,
    /// y of the abdomen's upper border below the heart.
    abdomen: f64,
    bend: [Field; 2],
    coarse: Field,
    middle: Field,
    fine: Field,
}

impl<'a> Surroundings<'a> {
    /// `floor`: y of the heart's lower border.
    pub(crate) fn new(anatomy: &'a Anatomy, depth: f64, floor: f64) -> Self {
        let field = |key, scale| Field::new(anatomy.texture ^ key, scale);
        Self {
            body: &anatomy.body,
            front: anatomy.right.towards,
            // Towards the apex the cut goes through more of the abdomen.
            abdomen: floor + anatomy.body.diaphragm - 6.0 * (depth - 0.5),
            bend: [field(10, 55.0), field(11, 55.0)],
            coarse: field(12, 24.0),
            middle: field(13, 11.0),
            fine: field(14, 4.5),
        }
    }

    pub(crate) fn tissue(&self, point: Point) -> Tissue {
        let shift = self.bend.map(|field| 22.0 * (field.at(point) - 0.5));
        let bent = [point[0] + shift[0], point[1] + shift[1]];
        let under = self.under_skin(bent);
        let body = self.body;
        let skin_fat = body.skin_fat * (0.6 + 0.8 * self.coarse.at(point));
        if under < 0.0 {
            Tissue::Air
        } else if under < 1.6 {
            Tissue::Muscle
        } else if under < skin_fat {
            Tissue::Fat
        } else if under < skin_fat + body.muscle {
            self.chest_wall(point)
        } else {
            self.inside(bent, under - skin_fat - body.muscle)
        }
    }

    /// Depth below the surface.
    fn under_skin(&self, point: Point) -> f64 {
        let [x, y] = minus(point, self.body.centre);
        let [width, height] = self.body.semi_axes;
        let (x, y) = (x / width, y / height);
        (1.0 - (x * x + y * y).sqrt()) * width.min(height)
    }

    fn chest_wall(&self, point: Point) -> Tissue {
        match self.middle.at(point) {
            value if value > 0.74 => Tissue::Fat,
            value if value < 0.16 => Tissue::Marrow,
            _ => Tissue::Muscle,
        }
    }

    /// `under`: depth below the chest wall's inner face.
    fn inside(&self, point: Point, under: f64) -> Tissue {
        let spread = point[0] - 15.0;
        let dome = self.abdomen + spread * spread / 900.0;
        if point[1] > dome {
            return self.abdomen(point, dome);
        }
        if within(point, self.body.spine, [24.0, 22.0]) {
            return Tissue::Marrow;
        }
        let pad = [self.front[0] * 72.0, self.front[1] * 72.0 + 14.0];
        if under < 1.5 || within(point, pad, [42.0, 24.0]) {
            return if self.fine.at(point) > 0.82 {
                Tissue::Vessel
            } else {
                Tissue::Fat
            };
        }
        let vessel = self.fine.at(point) > 0.9 && self.coarse.at(point) > 0.35;
        if vessel { Tissue::Vessel } else { Tissue::Lung }
    }

    fn abdomen(&self, point: Point, dome: f64) -> Tissue {
        let body = self.body;
        let below = point[1] - dome;
        let from_top = [point[0], point[1] - self.abdomen];
        if let Some(stomach) = self.stomach(point, from_top) {
            return stomach;
        }
        let border = body.liver_border - 0.9 * (below - 25.0);
        if point[0] < border && below > 1.5 {
            return if self.fine.at(point) > 0.92 {
                Tissue::Vessel
            } else {
                Tissue::Liver
            };
        }
        if within(from_top, body.spleen, [24.0, 40.0]) {
            return Tissue::Spleen;
        }
        if within(from_top, body.kidney, [26.0, 32.0]) {
            let hilum = minus(body.kidney, [6.0, 0.0]);
            return if within(from_top, hilum, [9.0, 13.0]) {
                Tissue::Fat
            } else {
                Tissue::Kidney
            };
        }
        match 0.6 * self.coarse.at(point) + 0.4 * self.middle.at(point) {
            value if value > 0.58 => Tissue::Fat,
            value if value > 0.36 => Tissue::Bowel,
            value if value > 0.3 => Tissue::Spleen,
            _ => Tissue::Muscle,
        }
    }

    fn stomach(&self, point: Point, from_top: Point) -> Option<Tissue> {
        let body = self.body;
        if !within(from_top, body.stomach, [44.0, 17.0]) {
            return None;
        }
        let wall = !within(from_top, body.stomach, [38.0, 12.0]);
        let fold = self.middle.at(point) > 0.7;
        Some(if wall || fold {
            Tissue::Bowel
        } else {
            Tissue::Stomach
        })
    }
}

fn within(point: Point, centre: Point, semi_axes: Point) -> bool {
    let [x, y] = minus(point, centre);
    length([x / semi_axes[0], y / semi_axes[1]]) < 1.0
}
