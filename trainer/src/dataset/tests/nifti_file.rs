//! NIfTI files that the tests write, and the slices that come of them.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::by_name;
use crate::dataset::grid::{Grid, Order};
use crate::dataset::index::{Options, index};
use crate::dataset::*;

/// A NIfTI-1 file; rows of sform are RAS.
#[derive(Clone)]
pub(super) struct Nifti {
    pub(super) dim: Vec<i16>,
    pub(super) datatype: i16,
    pub(super) spacing: [f32; 3],
    pub(super) slope: [f32; 2],
    pub(super) sform: Option<[[f32; 4]; 3]>,
    pub(super) voxels: Vec<u8>,
}

impl Nifti {
    pub(super) fn bytes(&self, patch: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut header = vec![0_u8; 352];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &348_i32.to_le_bytes());
        put(40, &(self.dim.len() as i16).to_le_bytes());
        for (i, n) in self.dim.iter().enumerate() {
            put(42 + 2 * i, &n.to_le_bytes());
        }
        put(70, &self.datatype.to_le_bytes());
        put(76, &1_f32.to_le_bytes());
        for (i, distance) in self.spacing.iter().enumerate() {
            put(80 + 4 * i, &distance.to_le_bytes());
        }
        put(108, &352_f32.to_le_bytes());
        for (i, number) in self.slope.iter().enumerate() {
            put(112 + 4 * i, &number.to_le_bytes());
        }
        if let Some(rows) = self.sform {
            put(254, &1_i16.to_le_bytes());
            for (i, number) in rows.iter().flatten().enumerate() {
                put(280 + 4 * i, &number.to_le_bytes());
            }
        }
        put(344, b"n+1\0");
        patch(&mut header);
        header.extend(&self.voxels);
        header
    }

    pub(super) fn write(&self, path: &Path) {
        self.write_patched(path, |_| ());
    }

    pub(super) fn write_patched(&self, path: &Path, patch: impl Fn(&mut [u8])) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = self.bytes(patch);
        if path.extension().unwrap() == "gz" {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&bytes).unwrap();
            bytes = packed.finish().unwrap();
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// The same voxels at the same places, stored in another order.
    pub(super) fn stored_as(&self, order: Order) -> Self {
        let shape = [0, 1, 2].map(|axis| self.dim[axis] as usize);
        let rows = self.sform.unwrap().map(|row| row.map(f64::from));
        let column = |at: usize| [rows[0][at], rows[1][at], rows[2][at]];
        let grid = Grid {
            shape,
            steps: [column(0), column(1), column(2)],
            origin: column(3),
        };
        let grid = grid.in_order(order);
        let width = self.voxels.len() / shape.iter().product::<usize>();
        let indices: Vec<usize> = (0..self.voxels.len() / width).collect();
        let voxels = order.arrange(&indices, shape);
        Self {
            dim: grid.shape.map(|n| n as i16).to_vec(),
            spacing: grid.spacing().map(|step| step as f32),
            sform: Some([0, 1, 2].map(|row| {
                let steps = &grid.steps;
                [
                    steps[0][row],
                    steps[1][row],
                    steps[2][row],
                    grid.origin[row],
                ]
                .map(|number| number as f32)
            })),
            voxels: voxels
                .into_iter()
                .flat_map(|i| self.voxels[i * width..(i + 1) * width].to_vec())
                .collect(),
            ..self.clone()
        }
    }
}

/// 5 x 4 x 3 voxels of 1.5 x 1.25 x 6 mm, to the left, the back and the head, with a number of its own each.
pub(super) fn image() -> Nifti {
    Nifti {
        dim: vec![5, 4, 3],
        datatype: 4,
        spacing: [1.5, 1.25, 6.0],
        slope: [1.0, 0.0],
        sform: Some([
            [-1.5, 0.0, 0.0, 40.0],
            [0.0, -1.25, 0.0, 30.0],
            [0.0, 0.0, 6.0, -20.0],
        ]),
        voxels: (0..60_i16)
            .flat_map(|i| (i * 7 % 61).to_le_bytes())
            .collect(),
    }
}

/// Something in each slice.
pub(super) fn labels() -> Nifti {
    Nifti {
        datatype: 2,
        voxels: (0..60_u8)
            .map(|i| u8::from(i % 20 < 7 + i / 20) * (1 + i % 3))
            .collect(),
        ..image()
    }
}

/// The 48 ways to store a volume.
pub(super) fn orders() -> Vec<Order> {
    let axes = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let signs = (0..8).map(|bits| [0, 1, 2].map(|axis| bits >> axis & 1 == 1));
    signs
        .flat_map(|reversed| axes.map(|axes| Order { axes, reversed }))
        .collect()
}

/// Pixels, labels and spacing of each slice.
pub(super) type Slices = Vec<(Vec<f32>, Vec<u8>, [f64; 2])>;

/// Writes a pair and loads all that `index` finds: pixels, labels and spacing of each slice.
pub(super) fn slices_of(image: &Nifti, labels: &Nifti, options: &Options) -> Result<Slices> {
    let folder = tempfile::tempdir().unwrap();
    image.write(&folder.path().join("images/p.nii"));
    labels.write(&folder.path().join("labels/p.nii.gz"));
    let dataset = index(folder.path(), options)?;
    let mut entries: Vec<&Entry> = dataset.entries.iter().collect();
    entries.sort_by_key(|entry| entry.slice);
    let load = |entry: &Entry| {
        let sample = dataset.load(entry, &LabelRule::Classes { n: 3 })?;
        let spacing = sample.spacing_mm.unwrap();
        Ok((sample.image.data, sample.labels.data, spacing))
    };
    entries.into_iter().map(load).collect()
}

pub(super) fn options() -> Options {
    by_name(&[], &[], &[])
}
