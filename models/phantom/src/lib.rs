//! Labelled synthetic cardiac MR: short-axis cine slices whose truth is known.
//!
//! A heart is drawn from a seed: size, wall, right ventricle, papillary muscles, surrounding organs,
//! signal of each tissue, coil and noise. The images resemble balanced steady-state cine MR well
//! enough to exercise a network trained on patients. They are no substitute for patients.
//!
//! The same seed, slice and phase give the same pixels on every platform: noise is ChaCha, and the
//! geometry uses only operations that IEEE 754 rounds exactly (no sine, logarithm or power of the
//! platform's mathematical library).

mod anatomy;
mod body;
pub mod dicom;
mod draw;
mod render;
mod section;
mod tissue;

use contract::{Image, LabelMap};

use crate::anatomy::Anatomy;
use crate::section::Section;
pub use crate::tissue::Structure;

/// Rows and columns of a slice unless asked otherwise.
pub const SIZE: usize = 256;

/// A synthetic patient.
#[derive(Debug, Clone)]
pub struct Heart {
    seed: u64,
    anatomy: Anatomy,
}

/// One slice at one phase of the heart beat.
#[derive(Debug, Clone)]
pub struct Phantom {
    /// Integers from 0 to 4095 in arbitrary units, as a scanner stores them.
    pub image: Image,
    /// 1 is the cavity of the left ventricle, 0 the rest.
    pub labels: LabelMap,
    /// Values of [`Structure`].
    pub structures: LabelMap,
    /// Distance between rows, between columns.
    pub spacing_mm: [f64; 2],
    pub slice_thickness_mm: f64,
    pub seed: u64,
    /// From 0 (base) to `n_slices - 1` (apex).
    pub slice: usize,
    pub n_slices: usize,
    /// From 0 (end of diastole) to below 1.
    pub phase: f64,
}

impl Heart {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            anatomy: Anatomy::draw(seed),
        }
    }

    /// Slice `index` of `n_slices` from base to apex, [`SIZE`] rows and columns. Of `phase` only the
    /// fraction counts: 0 is the end of diastole, about 0.35 the end of systole.
    pub fn slice(&self, index: usize, n_slices: usize, phase: f64) -> Phantom {
        self.slice_sized(index, n_slices, phase, SIZE)
    }

    /// The same field of view in `size` rows and columns.
    pub fn slice_sized(&self, index: usize, n_slices: usize, phase: f64, size: usize) -> Phantom {
        let index = index.min(n_slices.saturating_sub(1));
        let phase = phase - phase.floor();
        let depth = index as f64 / n_slices.saturating_sub(1).max(1) as f64;
        let section = Section::new(&self.anatomy, depth, phase);
        let mut noise = draw::Draw::new(&[self.seed, index as u64, phase.to_bits()]);
        let (image, structures) = render::render(&self.anatomy, &section, size, &mut noise);
        let labels = LabelMap {
            rows: size,
            cols: size,
            data: structures
                .data
                .iter()
                .map(|&value| u8::from(value == Structure::LeftVentricle as u8))
                .collect(),
        };
        Phantom {
            image,
            labels,
            structures,
            spacing_mm: [self.anatomy.field_of_view / size as f64; 2],
            slice_thickness_mm: self.anatomy.slice_thickness,
            seed: self.seed,
            slice: index,
            n_slices,
            phase,
        }
    }
}

#[cfg(test)]
mod tests;
