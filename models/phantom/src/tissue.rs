//! What a point is made of, and how it shines in balanced steady-state cine MR.

use crate::draw::Draw;

/// Grey values of [`crate::Phantom::structures`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Structure {
    Background = 0,
    /// Cavity of the left ventricle, papillary muscles included.
    LeftVentricle = 1,
    /// Wall of the left ventricle.
    Myocardium = 2,
    /// Cavity of the right ventricle.
    RightVentricle = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tissue {
    Air,
    Fat,
    Muscle,
    Lung,
    /// Vessel in lung or liver.
    Vessel,
    Liver,
    Spleen,
    Kidney,
    Stomach,
    Bowel,
    Marrow,
    Myocardium,
    /// Wall of the right ventricle.
    RightWall,
    /// Papillary muscle or trabecula inside the left cavity.
    Papillary,
    Blood,
    RightBlood,
}

impl Tissue {
    pub(crate) fn structure(self) -> Structure {
        match self {
            Self::Blood | Self::Papillary => Structure::LeftVentricle,
            Self::Myocardium => Structure::Myocardium,
            Self::RightBlood => Structure::RightVentricle,
            _ => Structure::Background,
        }
    }
}

/// Signal of each tissue in arbitrary units, before the coil's sensitivity.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    fat: f64,
    muscle: f64,
    lung: f64,
    liver: f64,
    stomach: f64,
    myocardium: f64,
    blood: f64,
}

impl Signals {
    pub(crate) fn draw(draw: &mut Draw) -> Self {
        let gain = draw.between(0.75, 1.3);
        let blood = gain * draw.between(195.0, 290.0);
        Self {
            fat: gain * draw.between(230.0, 330.0),
            muscle: gain * draw.between(45.0, 75.0),
            lung: gain * draw.between(8.0, 28.0),
            liver: gain * draw.between(75.0, 125.0),
            stomach: gain * draw.between(110.0, 240.0),
            myocardium: blood * draw.between(0.24, 0.42),
            blood,
        }
    }

    /// Negative for fat: at the usual echo time fat and water point in opposite directions, so a
    /// voxel that holds both is dark, the thin black line around organs.
    pub(crate) fn of(&self, tissue: Tissue) -> f64 {
        match tissue {
            Tissue::Air => 0.0,
            Tissue::Fat => -self.fat,
            Tissue::Muscle => self.muscle,
            Tissue::Lung => self.lung,
            Tissue::Vessel => 0.6 * self.blood,
            Tissue::Liver => self.liver,
            Tissue::Spleen => 1.15 * self.liver,
            Tissue::Kidney => 1.3 * self.liver,
            Tissue::Stomach => self.stomach,
            Tissue::Bowel => 0.9 * self.muscle + 0.25 * self.stomach,
            Tissue::Marrow => 0.5 * self.fat,
            Tissue::Myocardium | Tissue::RightWall => self.myocardium,
            Tissue::Papillary => 1.1 * self.myocardium,
            Tissue::Blood => self.blood,
            Tissue::RightBlood => 0.97 * self.blood,
        }
    }
}
