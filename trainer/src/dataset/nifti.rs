//! NIfTI volumes, one axial slice at a time.

use std::path::Path;

use ::nifti::{IntoNdArray, NiftiObject, NiftiVolume, ReaderOptions};
use anyhow::{Context, Result, ensure};
use contract::{Image, LabelMap};

/// Voxels after the header's slope and intercept: columns run along x, rows along y, slices along z; not reoriented.
#[derive(Debug)]
pub(super) struct Volume {
    n_cols: usize,
    n_rows: usize,
    n_slices: usize,
    /// Distance between rows, between columns.
    pub(super) spacing_mm: [f64; 2],
    data: Vec<f32>,
}

pub(super) fn is_nifti(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".nii") || name.ends_with(".nii.gz")
}

impl Volume {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let object = ReaderOptions::new()
            .read_file(path)
            .with_context(|| format!("cannot read volume {}", path.display()))?;
        let [_, dx, dy, ..] = object.header().pixdim;
        let volume = object.into_volume();
        let dim: Vec<usize> = volume.dim().iter().map(|&n| usize::from(n)).collect();
        ensure!(
            (2..=7).contains(&dim.len()) && dim.iter().skip(3).all(|&n| n == 1),
            "volume {} has the dimensions {dim:?}: keep one volume a file",
            path.display()
        );
        // Rescaled by the header; the array is in the file's order, columns fastest.
        let (data, _) = volume
            .into_ndarray::<f32>()
            .with_context(|| format!("cannot read voxels of {}", path.display()))?
            .into_raw_vec_and_offset();
        Ok(Self {
            n_cols: dim[0],
            n_rows: dim[1],
            n_slices: dim.get(2).copied().unwrap_or(1),
            spacing_mm: [f64::from(dy.abs()), f64::from(dx.abs())],
            data,
        })
    }

    pub(super) fn n_slices(&self) -> usize {
        self.n_slices
    }

    pub(super) fn shape(&self) -> [usize; 3] {
        [self.n_cols, self.n_rows, self.n_slices]
    }

    pub(super) fn slice(&self, slice: Option<usize>) -> Result<Image> {
        let data = self.voxels(slice)?.to_vec();
        Ok(Image {
            rows: self.n_rows,
            cols: self.n_cols,
            channels: 1,
            data,
        })
    }

    pub(super) fn label_slice(&self, slice: Option<usize>) -> Result<LabelMap> {
        let data = self
            .voxels(slice)?
            .iter()
            .map(|&value| {
                ensure!(
                    value.fract() == 0.0 && (0.0..=255.0).contains(&value),
                    "voxel value {value} is no class id (0 to 255)"
                );
                Ok(value as u8)
            })
            .collect::<Result<_>>()?;
        Ok(LabelMap {
            rows: self.n_rows,
            cols: self.n_cols,
            data,
        })
    }

    fn voxels(&self, slice: Option<usize>) -> Result<&[f32]> {
        let n = self.n_slices;
        let slice = match slice {
            None if n == 1 => 0,
            None => anyhow::bail!("{n} slices: name one in the list's column slice"),
            Some(slice) => slice,
        };
        ensure!(slice < n, "slice is {slice}, the volume has {n}");
        let area = self.n_rows * self.n_cols;
        Ok(&self.data[slice * area..(slice + 1) * area])
    }
}
