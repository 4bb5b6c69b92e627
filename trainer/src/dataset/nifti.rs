//! NIfTI-1 files: the place of the voxels in the patient, and their values after slope and intercept.
//!
//! Of sform and qform the first with a code counts, as in nibabel; a file without either lies where nibabel puts
//! it. Axes of length 1 at the end are dropped, two dimensions are one slice, and four are refused: channels
//! or times, of which none may be taken for all.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use ::nifti::{Endianness, NiftiHeader};
use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;

use super::grid::Grid;
use super::names::extension_is;

const HEADER_BYTES: usize = 348;
/// `n+1`: the voxels follow in the same file, behind four bytes that announce extensions.
const SINGLE_FILE: &[u8; 4] = b"n+1\0";
const SHORTEST_OFFSET: u64 = 352;
/// Above this many voxels between sform and qform they are two places.
const ELSEWHERE: f64 = 0.5;
/// How far a scaled label may lie from a whole number.
const LABEL_RESIDUE: f64 = 0.25;

pub(super) fn is_nifti(path: &Path) -> bool {
    extension_is(path, ".nii") || extension_is(path, ".nii.gz")
}

/// A file whose header is read and whose voxels are not.
pub(super) struct Stored {
    header: NiftiHeader,
    pub(super) grid: Grid,
    /// What a person should know of the place that was read.
    pub(super) doubts: Vec<String>,
    rest: Box<dyn Read>,
}

impl Stored {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let mut rest = bytes_of(path)?;
            let mut start = Vec::with_capacity(HEADER_BYTES);
            rest.by_ref()
                .take(HEADER_BYTES as u64)
                .read_to_end(&mut start)
                .context("the file is damaged")?;
            let header = parse(&start)?;
            let (grid, doubts) = grid(&header)?;
            Ok(Self {
                header,
                grid,
                doubts,
                rest,
            })
        };
        open().with_context(|| format!("cannot read volume {}", path.display()))
    }

    /// Length of a unit of space, mm; a file that names none is taken for millimetres.
    pub(super) fn unit_mm(&self) -> f64 {
        match self.header.xyzt_units & 7 {
            1 => 1000.0,
            3 => 0.001,
            _ => 1.0,
        }
    }

    /// Values in the order of the file, scaled in double precision.
    pub(super) fn image(self) -> Result<Vec<f32>> {
        let scale = scale(&self.header)?;
        let voxels = self.voxels()?;
        Ok(voxels.map(|value| scale(value) as f32))
    }

    /// Class ids in the order of the file. A float image saved with an integer header comes back beside the
    /// whole number that was meant; what lies between two of them is no label.
    pub(super) fn labels(self) -> Result<Vec<u8>> {
        let scale = scale(&self.header)?;
        let shape = self.grid.shape;
        let values = self.voxels()?.map(scale);
        let class = |(index, value): (usize, f64)| {
            let nearest = value.round();
            // Not the other way round: NaN has to fail.
            let fits = (value - nearest).abs() <= LABEL_RESIDUE && (0.0..=255.0).contains(&nearest);
            ensure!(
                fits,
                "voxel ({}, {}, {}) is {value}, no class id (a whole number, 0 to 255): is this a label file?",
                index % shape[0],
                index / shape[0] % shape[1],
                index / (shape[0] * shape[1])
            );
            Ok(nearest as u8)
        };
        values.into_iter().enumerate().map(class).collect()
    }

    fn voxels(mut self) -> Result<Voxels> {
        let n_voxels: u64 = self.grid.shape.iter().map(|&n| n as u64).product();
        let size = size_of_voxel(&self.header)?;
        let offset = offset(&self.header)?;
        let mut skipped = self.rest.by_ref().take(offset - HEADER_BYTES as u64);
        std::io::copy(&mut skipped, &mut std::io::sink()).context("the file is damaged")?;
        let wanted = n_voxels * size;
        let mut bytes = Vec::new();
        let read = self.rest.take(wanted).read_to_end(&mut bytes);
        read.context("the file is damaged")?;
        ensure!(
            bytes.len() as u64 == wanted,
            "the file ends too early: {} of {wanted} bytes of voxels are there; copy it again",
            bytes.len()
        );
        Ok(Voxels {
            bytes,
            datatype: self.header.datatype,
            little: self.header.endianness == Endianness::Little,
        })
    }
}

/// The file's bytes, decompressed where it is gzip, whatever its name says.
fn bytes_of(path: &Path) -> Result<Box<dyn Read>> {
    let mut file = BufReader::new(File::open(path)?);
    let start = file.fill_buf()?;
    ensure!(!start.is_empty(), "the file is empty");
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    })
}

fn parse(start: &[u8]) -> Result<NiftiHeader> {
    ensure!(
        start.len() == HEADER_BYTES,
        "the file ends within its header of {HEADER_BYTES} bytes; copy it again"
    );
    let size = [start[0], start[1], start[2], start[3]];
    if [540_i32.to_le_bytes(), 540_i32.to_be_bytes()].contains(&size) {
        bail!("this is NIfTI-2: save it as NIfTI-1");
    }
    let header = NiftiHeader::from_reader(start)
        .context("this is no NIfTI-1 file (Analyze, or another format?): save it as NIfTI-1")?;
    ensure!(
        header.magic == *SINGLE_FILE,
        "this is the header of a pair of files (.hdr and .img): save it as one .nii"
    );
    Ok(header)
}

fn grid(header: &NiftiHeader) -> Result<(Grid, Vec<String>)> {
    let shape = shape(header)?;
    let place = |rows: [[f64; 4]; 3]| {
        // NIfTI counts to the right and to the front, DICOM to the left and to the back.
        let rows = [rows[0].map(|it| -it), rows[1].map(|it| -it), rows[2]];
        let column = |at: usize| [rows[0][at], rows[1][at], rows[2][at]];
        let mut steps = [column(0), column(1), column(2)];
        // A slice alone has no next one to point to.
        if shape[2] == 1 && steps[2].iter().all(|&value| value == 0.0) {
            steps[2] = unit(cross(steps[0], steps[1]));
        }
        Grid {
            shape,
            steps,
            origin: column(3),
        }
    };
    let qform = (header.qform_code > 0).then(|| qform(header)).transpose()?;
    let qform = qform.map(place);
    let sform = (header.sform_code > 0).then(|| place(sform(header)));
    let mut doubts = Vec::new();
    if let (Some(sform), Some(qform)) = (&sform, &qform)
        && sform.check().is_ok()
        && qform.check().is_ok()
    {
        let apart = sform.farthest(qform);
        if apart > ELSEWHERE {
            doubts.push(format!(
                "sform and qform lie up to {apart:.1} voxels apart; sform is taken, as by nibabel; ITK and SimpleITK \
                 may take the other"
            ));
        }
    }
    if sform.is_none() && qform.is_none() {
        doubts.push(
            "the header has neither sform nor qform; the first axis is taken to run to the patient's left, the \
             second to the front, the third to the head"
                .to_owned(),
        );
    }
    let grid = sform
        .or(qform)
        .unwrap_or_else(|| place(centred(header, shape)));
    grid.check()?;
    Ok((grid, doubts))
}

fn shape(header: &NiftiHeader) -> Result<[usize; 3]> {
    let n = usize::from(header.dim[0]);
    ensure!((1..=7).contains(&n), "the header names {n} dimensions");
    let mut dim: Vec<usize> = header.dim[1..=n].iter().map(|&n| usize::from(n)).collect();
    // Lengths are signed in the file.
    ensure!(
        dim.iter().all(|n| (1..1 << 15).contains(n)),
        "the header has the dimensions {dim:?}: each is 1 or more"
    );
    while dim.len() > 2 && dim.last() == Some(&1) {
        dim.pop();
    }
    match dim[..] {
        [columns, rows] => Ok([columns, rows, 1]),
        [columns, rows, slices] => Ok([columns, rows, slices]),
        [_] => bail!("the header has one dimension: an image has two or three"),
        _ => bail!(
            "the file has the dimensions {dim:?}: those behind the third are times or channels, and no one of them \
             stands for all; write one file for each (nibabel's four_to_three, fslsplit), or the one that counts"
        ),
    }
}

fn sform(header: &NiftiHeader) -> [[f64; 4]; 3] {
    [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from))
}

/// Rows of the affine that quaternion, offset and pixdim stand for.
fn qform(header: &NiftiHeader) -> Result<[[f64; 4]; 3]> {
    let [mut b, mut c, mut d] =
        [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let squares = b * b + c * c + d * d;
    ensure!(
        squares < 1.01,
        "the quaternion of the qform is longer than 1: correct the header, or set sform"
    );
    let rest = 1.0 - squares;
    // A turn by 180 degrees, but for rounding.
    let a = if rest < 3.0 * f64::from(f32::EPSILON) {
        let length = squares.sqrt();
        [b, c, d] = [b / length, c / length, d / length];
        0.0
    } else {
        rest.sqrt()
    };
    let turn = [
        [
            a * a + b * b - c * c - d * d,
            2.0 * (b * c - a * d),
            2.0 * (b * d + a * c),
        ],
        [
            2.0 * (b * c + a * d),
            a * a + c * c - b * b - d * d,
            2.0 * (c * d - a * b),
        ],
        [
            2.0 * (b * d - a * c),
            2.0 * (c * d + a * b),
            a * a + d * d - b * b - c * c,
        ],
    ];
    let [x, y, z] = spacing(header);
    let z = if header.pixdim[0] < 0.0 { -z } else { z };
    let offset = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
    Ok([0, 1, 2].map(|i| [turn[i][0] * x, turn[i][1] * y, turn[i][2] * z, offset[i]]))
}

/// The place of a volume that names none: its middle is the origin, its first axis runs to the left.
fn centred(header: &NiftiHeader, shape: [usize; 3]) -> [[f64; 4]; 3] {
    let spacing = spacing(header);
    let mut rows = [[0.0; 4]; 3];
    for axis in 0..3 {
        let step = if axis == 0 {
            -spacing[axis]
        } else {
            spacing[axis]
        };
        rows[axis][axis] = step;
        rows[axis][3] = -step * (shape[axis] as f64 - 1.0) / 2.0;
    }
    rows
}

fn spacing(header: &NiftiHeader) -> [f64; 3] {
    [1, 2, 3].map(|axis| f64::from(header.pixdim[axis]).abs())
}

/// Slope and intercept as a function. A slope of 0 or without a value means none, and then no intercept either.
fn scale(header: &NiftiHeader) -> Result<impl Fn(f64) -> f64 + use<>> {
    let (slope, intercept) = (f64::from(header.scl_slope), f64::from(header.scl_inter));
    let scaled = slope.is_finite() && slope != 0.0;
    ensure!(
        !scaled || intercept.is_finite(),
        "scl_inter is {intercept} beside scl_slope {slope}: correct the header"
    );
    Ok(move |value: f64| {
        if scaled {
            value * slope + intercept
        } else {
            value
        }
    })
}

/// Of the types with one number a voxel.
fn size_of_voxel(header: &NiftiHeader) -> Result<u64> {
    Ok(match header.datatype {
        2 | 256 => 1,
        4 | 512 => 2,
        8 | 16 | 768 => 4,
        64 | 1024 | 1280 => 8,
        other => {
            let name = match other {
                1 => "single bits",
                32 | 1792 | 2048 => "complex numbers",
                128 => "RGB colours",
                1536 => "numbers of 128 bits",
                2304 => "RGBA colours",
                _ => "of an unknown type",
            };
            bail!("voxels are {name} (datatype {other}): save them as whole numbers or floats")
        }
    })
}

fn offset(header: &NiftiHeader) -> Result<u64> {
    let offset = header.vox_offset;
    // A file above 4 GiB of extensions is none.
    ensure!(
        offset.is_finite() && (0.0..4e9).contains(&offset),
        "vox_offset is {offset}: correct the header"
    );
    Ok((offset as u64).max(SHORTEST_OFFSET))
}

struct Voxels {
    bytes: Vec<u8>,
    datatype: i16,
    little: bool,
}

impl Voxels {
    #[expect(clippy::cast_lossless, reason = "one expression for ten types")]
    fn map<T>(&self, function: impl Fn(f64) -> T) -> Vec<T> {
        macro_rules! numbers {
            ($number:ty) => {
                self.bytes
                    .chunks_exact(size_of::<$number>())
                    .map(|bytes| {
                        let bytes = bytes.try_into().expect("chunks of this size");
                        let number = if self.little {
                            <$number>::from_le_bytes(bytes)
                        } else {
                            <$number>::from_be_bytes(bytes)
                        };
                        function(number as f64)
                    })
                    .collect()
            };
        }
        match self.datatype {
            2 => numbers!(u8),
            4 => numbers!(i16),
            8 => numbers!(i32),
            16 => numbers!(f32),
            64 => numbers!(f64),
            256 => numbers!(i8),
            512 => numbers!(u16),
            768 => numbers!(u32),
            1024 => numbers!(i64),
            1280 => numbers!(u64),
            _ => unreachable!("size_of_voxel knows these types alone"),
        }
    }
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| {
        let (j, k) = ((i + 1) % 3, (i + 2) % 3);
        a[j] * b[k] - a[k] * b[j]
    })
}

fn unit(vector: [f64; 3]) -> [f64; 3] {
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    vector.map(|value| value / length)
}
