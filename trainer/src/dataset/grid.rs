//! Where the voxels of a volume lie in the patient, and the order in which DICOM shows them.
//!
//! Coordinates are those of DICOM (LPS): x grows to the patient's left, y to the back, z to the head, in
//! the unit of the file. NIfTI counts x and y the other way; its reader turns them around.

use std::fmt;

use anyhow::{Result, bail, ensure};

/// Patient axes.
const LEFT: usize = 0;
const BACK: usize = 1;
const HEAD: usize = 2;

/// One spacing has to exceed both others by this factor to be the distance between thick slices.
const THICK: f64 = 1.05;
/// How far voxels of two files may lie apart and still be the same, in voxels. Headers hold 32-bit numbers, and a
/// quaternion near half a turn turns the far end of a volume by some hundredths of a voxel.
const SAME_PLACE: f64 = 0.05;
/// Cosine of the angle between two axes of a volume above which it is sheared (half a degree).
const SHEAR: f64 = 0.01;
/// Below this a step between voxels is none, mm.
const SHORTEST: f64 = 1e-9;

/// The plane in which a volume is cut into slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Plane {
    Axial,
    Coronal,
    Sagittal,
}

impl Plane {
    pub fn name(self) -> &'static str {
        match self {
            Self::Axial => "axial",
            Self::Coronal => "coronal",
            Self::Sagittal => "sagittal",
        }
    }

    fn across(normal: usize) -> Self {
        match normal {
            LEFT => Self::Sagittal,
            BACK => Self::Coronal,
            _ => Self::Axial,
        }
    }

    /// Patient axis and whether it runs backwards, for columns, rows and slices. The patient's left is on the
    /// right of the picture, the front above or on the left, the head above.
    fn directions(self) -> [(usize, bool); 3] {
        match self {
            Self::Axial => [(LEFT, false), (BACK, false), (HEAD, false)],
            Self::Coronal => [(LEFT, false), (HEAD, true), (BACK, false)],
            Self::Sagittal => [(BACK, false), (HEAD, true), (LEFT, false)],
        }
    }
}

/// Voxel (i, j, k) lies at `origin + i * steps[0] + j * steps[1] + k * steps[2]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grid {
    pub(super) shape: [usize; 3],
    pub(super) steps: [[f64; 3]; 3],
    pub(super) origin: [f64; 3],
}

/// Which axis of a file gives columns, rows and slices, and which of them are read from their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) axes: [usize; 3],
    pub(super) reversed: [bool; 3],
}

impl Grid {
    /// Refuses what no place in the patient follows from.
    pub(super) fn check(&self) -> Result<()> {
        let mut all = self.steps.iter().chain([&self.origin]).flatten();
        ensure!(
            all.all(|value| value.is_finite()),
            "the affine holds a number that is not finite: correct sform or qform in the header"
        );
        let spacing = self.spacing();
        if let Some(axis) = spacing.iter().position(|&step| step < SHORTEST) {
            bail!(
                "the affine has no length along voxel axis {axis} (from 0): correct sform or qform in the header"
            );
        }
        for (first, second) in [(0, 1), (0, 2), (1, 2)] {
            let product = dot(self.steps[first], self.steps[second]);
            let cosine = product / (spacing[first] * spacing[second]);
            ensure!(
                cosine.abs() <= SHEAR,
                "the affine is sheared, voxel axes {first} and {second} (from 0) stand at {:.1} degrees: \
                 resample the volume to a grid of right angles",
                cosine.clamp(-1.0, 1.0).acos().to_degrees()
            );
        }
        Ok(())
    }

    /// Distance of neighbours along each axis.
    pub(super) fn spacing(&self) -> [f64; 3] {
        self.steps.map(|step| dot(step, step).sqrt())
    }

    /// The axis of the file that is nearest to each axis of the patient: of the six ways the one with the
    /// largest cosines together.
    fn file_axes(&self) -> [usize; 3] {
        const WAYS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        let spacing = self.spacing();
        let score = |way: &[usize; 3]| -> f64 {
            (0..3)
                .map(|patient| {
                    let unit = self.steps[way[patient]].map(|value| value / spacing[way[patient]]);
                    // Where two ways are equally near (at 45 degrees), the sign of a product decides, which no
                    // order of storage changes.
                    let tie = unit[patient] * unit[(patient + 1) % 3];
                    unit[patient].abs() + 1e-4 * tie
                })
                .sum()
        };
        let best = WAYS.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
        *best.expect("there are six ways")
    }

    /// The plane in which the volume was acquired, as far as its voxels tell: across the only axis of one
    /// voxel, or across the axis of the largest spacing; axial where no spacing is the largest.
    pub(super) fn acquired(&self) -> Plane {
        let (axes, spacing) = (self.file_axes(), self.spacing());
        let across = |axis: usize| {
            let normal = axes.iter().position(|&it| it == axis);
            Plane::across(normal.expect("each axis of the file has one of the patient"))
        };
        let mut thickest = [0, 1, 2];
        thickest.sort_by(|&a, &b| spacing[b].total_cmp(&spacing[a]));
        let mut single = thickest.iter().filter(|&&axis| self.shape[axis] == 1);
        match (single.next(), single.next()) {
            (Some(&only), None) => across(only),
            _ if spacing[thickest[0]] > THICK * spacing[thickest[1]] => across(thickest[0]),
            _ => Plane::Axial,
        }
    }

    /// The order in which DICOM shows the slices of a plane: the first slice is the lowest, the foremost or
    /// the rightmost of the patient.
    pub(super) fn display(&self, plane: Plane) -> Order {
        let file_axes = self.file_axes();
        let directions = plane.directions();
        let axes = directions.map(|(patient, _)| file_axes[patient]);
        let reversed = directions.map(|(patient, backwards)| {
            (self.steps[file_axes[patient]][patient] < 0.0) != backwards
        });
        Order { axes, reversed }
    }

    /// The order in which this grid runs as `other` does; whether both are the same then is another question.
    pub(super) fn order_of(&self, other: &Grid) -> Order {
        let cosine = |axis: usize, theirs: usize| {
            let step = self.steps[axis];
            dot(step, other.steps[theirs]) / dot(step, step).sqrt()
        };
        let mut left = vec![0, 1, 2];
        let mut order = Order {
            axes: [0; 3],
            reversed: [false; 3],
        };
        for theirs in 0..3 {
            let nearest = left
                .iter()
                .copied()
                .max_by(|&a, &b| cosine(a, theirs).abs().total_cmp(&cosine(b, theirs).abs()))
                .expect("each turn takes one of three");
            left.retain(|&axis| axis != nearest);
            order.axes[theirs] = nearest;
            order.reversed[theirs] = cosine(nearest, theirs) < 0.0;
        }
        order
    }

    pub(super) fn in_order(&self, order: Order) -> Grid {
        let mut origin = self.origin;
        for (axis, reversed) in order.axes.into_iter().zip(order.reversed) {
            if reversed {
                let last = self.shape[axis] as f64 - 1.0;
                origin = add(origin, self.steps[axis], last);
            }
        }
        let steps = [0, 1, 2].map(|to| {
            let sign = if order.reversed[to] { -1.0 } else { 1.0 };
            self.steps[order.axes[to]].map(|value| sign * value)
        });
        Grid {
            shape: order.axes.map(|axis| self.shape[axis]),
            steps,
            origin,
        }
    }

    /// What keeps `labels` from being voxels of this grid, both in the order of display; `None` if nothing does.
    pub(super) fn difference(&self, labels: &Grid) -> Option<Difference> {
        if self.shape != labels.shape {
            return Some(Difference::Shape(self.shape, labels.shape));
        }
        if self.farthest(labels) <= SAME_PLACE {
            return None;
        }
        let (here, there) = (self.spacing(), labels.spacing());
        let extent = |axis: usize| (self.shape[axis] as f64 - 1.0).max(0.0);
        let stretched = |axis: usize| (there[axis] - here[axis]).abs() / here[axis] * extent(axis);
        if (0..3).any(|axis| stretched(axis) > SAME_PLACE) {
            return Some(Difference::Spacing(here, there));
        }
        let turned = (0..3).filter(|&axis| self.shape[axis] > 1).map(|axis| {
            let cosine = dot(self.steps[axis], labels.steps[axis]) / (here[axis] * there[axis]);
            cosine.clamp(-1.0, 1.0).acos()
        });
        let turned = turned.fold(0.0, f64::max);
        let widest = (0..3).map(extent).fold(1.0, f64::max);
        if turned * widest > SAME_PLACE {
            return Some(Difference::Turned(turned.to_degrees()));
        }
        Some(Difference::Shifted(
            [0, 1, 2].map(|i| labels.origin[i] - self.origin[i]),
        ))
    }

    /// Largest distance between voxels of the same index, in voxels of this grid; it is at a corner.
    pub(super) fn farthest(&self, other: &Grid) -> f64 {
        let spacing = self.spacing();
        let corners = (0..8).map(|corner| {
            let at = |grid: &Grid| {
                (0..3).fold(grid.origin, |place, axis| {
                    let far = corner >> axis & 1 == 1;
                    let index = if far { self.shape[axis] - 1 } else { 0 };
                    add(place, grid.steps[axis], index as f64)
                })
            };
            let (here, there) = (at(self), at(other));
            let apart = [0, 1, 2].map(|i| there[i] - here[i]);
            (0..3)
                .map(|axis| (dot(apart, self.steps[axis]) / spacing[axis].powi(2)).abs())
                .fold(0.0, f64::max)
        });
        corners.fold(0.0, f64::max)
    }
}

impl Order {
    /// The order in which the voxels lie in the file already.
    pub(super) fn is_file_order(self) -> bool {
        self.axes == [0, 1, 2] && self.reversed == [false; 3]
    }

    /// Voxels with the first axis fastest, as files have them, in this order.
    pub(super) fn arrange<T: Copy>(self, voxels: &[T], shape: [usize; 3]) -> Vec<T> {
        let strides = [1, shape[0], shape[0] * shape[1]];
        let counts = self.axes.map(|axis| shape[axis]);
        let index = |to: usize, i: usize| {
            let i = if self.reversed[to] {
                counts[to] - 1 - i
            } else {
                i
            };
            i * strides[self.axes[to]]
        };
        let mut arranged = Vec::with_capacity(voxels.len());
        for slice in 0..counts[2] {
            for row in 0..counts[1] {
                let start = index(2, slice) + index(1, row);
                arranged.extend((0..counts[0]).map(|column| voxels[start + index(0, column)]));
            }
        }
        arranged
    }
}

/// As axes of the file: `+0-1+2`.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (axis, reversed) in self.axes.into_iter().zip(self.reversed) {
            write!(f, "{}{axis}", if reversed { '-' } else { '+' })?;
        }
        Ok(())
    }
}

/// How the grid of labels differs from the image's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Difference {
    Shape([usize; 3], [usize; 3]),
    Spacing([f64; 3], [f64; 3]),
    /// Degrees.
    Turned(f64),
    Shifted([f64; 3]),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Shape([c, r, s], [c2, r2, s2]) => write!(
                f,
                "the image has {c} x {r} x {s} voxels (columns x rows x slices), the labels have {c2} x {r2} x {s2}"
            ),
            Self::Spacing([c, r, s], [c2, r2, s2]) => write!(
                f,
                "voxels of the image are {c:.4} x {r:.4} x {s:.4} mm (columns x rows x slices), \
                 those of the labels {c2:.4} x {r2:.4} x {s2:.4}"
            ),
            Self::Turned(degrees) => {
                write!(f, "the labels are turned by {degrees:.2} degrees")
            }
            Self::Shifted([left, back, head]) => write!(
                f,
                "the labels are shifted by {left:.3} mm to the left, {back:.3} to the back, {head:.3} to the head"
            ),
        }
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|i| a[i] * b[i]).sum()
}

/// `place + count * step`.
fn add(place: [f64; 3], step: [f64; 3], count: f64) -> [f64; 3] {
    [0, 1, 2].map(|i| place[i] + count * step[i])
}
