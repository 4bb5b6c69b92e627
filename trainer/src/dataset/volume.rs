//! An image and its labels as volumes of the same patient, cut into slices as DICOM shows them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use contract::{Image, LabelMap};

use super::entry::Entry;
use super::grid::{Grid, Order, Plane};
use super::nifti::{Stored, is_nifti};

/// Voxels in the order of display: columns, rows, slices, the first fastest.
#[derive(Debug)]
pub(super) struct LabelledVolume {
    shape: [usize; 3],
    /// Distance between rows, between columns.
    pub(super) spacing_mm: [f64; 2],
    image: Vec<f32>,
    labels: Vec<u8>,
}

/// Which two files are read, and in which plane they are cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Cut {
    pub(super) image: PathBuf,
    pub(super) labels: PathBuf,
    /// The one of the acquisition unless it is named.
    pub(super) plane: Option<Plane>,
}

impl Cut {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            image: entry.image.clone(),
            labels: entry.labels.clone(),
            plane: entry.plane,
        }
    }
}

/// How two files become one volume; read from their headers alone.
pub(super) struct Fit {
    image: Stored,
    labels: Stored,
    shown: Grid,
    pub(super) image_order: Order,
    labels_order: Order,
}

impl Fit {
    /// Refuses labels that lie on another grid than the image: no pixel of theirs belongs to one of the image.
    pub(super) fn read(cut: &Cut) -> Result<Self> {
        let (image_path, labels_path) = (&cut.image, &cut.labels);
        let both = || {
            format!(
                "image {} and labels {}",
                image_path.display(),
                labels_path.display()
            )
        };
        ensure_both_volumes(image_path, labels_path).with_context(both)?;
        let (image, labels) = (Stored::open(image_path)?, Stored::open(labels_path)?);
        let plane = cut.plane.unwrap_or_else(|| image.grid.acquired());
        let image_order = image.grid.display(plane);
        let shown = image.grid.in_order(image_order);
        let labels_order = labels.grid.order_of(&shown);
        if let Some(difference) = shown.difference(&labels.grid.in_order(labels_order)) {
            bail!(
                "{} lie on different grids: {difference}; resample the labels to the image's grid (nearest neighbour), \
                 or correct the header that is wrong",
                both()
            );
        }
        Ok(Self {
            image,
            labels,
            shown,
            image_order,
            labels_order,
        })
    }

    /// What a person should know of the headers: the file, and words.
    pub(super) fn doubts(&self) -> [&[String]; 2] {
        [&self.image.doubts, &self.labels.doubts]
    }
}

fn ensure_both_volumes(image: &Path, labels: &Path) -> Result<()> {
    ensure!(
        is_nifti(image) && is_nifti(labels),
        "a NIfTI file says where it lies in the patient, and the other file does not say it in the same way: give \
         both as NIfTI, or both as DICOM or PNG images with PNG labels"
    );
    Ok(())
}

impl LabelledVolume {
    pub(super) fn read(cut: &Cut) -> Result<Self> {
        let fit = Fit::read(cut)?;
        let [column, row, _] = fit.shown.spacing().map(|step| step * fit.image.unit_mm());
        let (image_shape, labels_shape) = (fit.image.grid.shape, fit.labels.grid.shape);
        let image = fit
            .image
            .image()
            .with_context(|| format!("image {}", cut.image.display()))?;
        let labels = fit
            .labels
            .labels()
            .with_context(|| format!("labels {}", cut.labels.display()))?;
        Ok(Self {
            shape: fit.shown.shape,
            spacing_mm: [row, column],
            image: fit.image_order.arrange(&image, image_shape),
            labels: fit.labels_order.arrange(&labels, labels_shape),
        })
    }

    pub(super) fn n_slices(&self) -> usize {
        self.shape[2]
    }

    /// The slice that a list names; it may be left out where there is one only.
    pub(super) fn find(&self, slice: Option<usize>) -> Result<usize> {
        let n = self.n_slices();
        match slice {
            None if n == 1 => Ok(0),
            None => bail!("{n} slices: name one in the list's column slice"),
            Some(slice) if slice < n => Ok(slice),
            Some(slice) => bail!("slice is {slice}, the volume has {n} slices as DICOM shows them"),
        }
    }

    pub(super) fn image(&self, slice: usize) -> Image {
        let [cols, rows, _] = self.shape;
        Image {
            rows,
            cols,
            channels: 1,
            data: self.of(slice, &self.image).to_vec(),
        }
    }

    pub(super) fn labels(&self, slice: usize) -> LabelMap {
        let [cols, rows, _] = self.shape;
        LabelMap {
            rows,
            cols,
            data: self.of(slice, &self.labels).to_vec(),
        }
    }

    fn of<'a, T>(&self, slice: usize, voxels: &'a [T]) -> &'a [T] {
        let area = self.shape[0] * self.shape[1];
        &voxels[slice * area..(slice + 1) * area]
    }
}
