//! Label files: grey values on disk, and the rule that turns them into the network's classes.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use contract::LabelMap;
use segmenter::decode::orientation::{orientation, turned};
use segmenter::decode::{Format, Limits, decode, sniff};
use serde::{Deserialize, Serialize};

use super::nifti::{self, Stored};

/// Why labels are refused that were stored as photographs are.
const LOSSY: &str = "which changes class ids along every border: draw or export the labels as PNG";

/// How grey values of a label file become classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelRule {
    /// Class 1 where the grey value is `class`, background elsewhere.
    Binary { class: u8 },
    /// Class 1 where the grey value is above 0 (the reference's `combine_all`).
    Combine,
    /// The grey value is the class id, 0 to `n`.
    Classes { n: u8 },
}

/// As recipes write it.
impl fmt::Display for LabelRule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Binary { class } => write!(f, "{{ binary = {{ class = {class} }} }}"),
            Self::Combine => write!(f, "\"combine\""),
            Self::Classes { n } => write!(f, "{{ classes = {{ n = {n} }} }}"),
        }
    }
}

impl LabelRule {
    pub fn apply(&self, mut labels: LabelMap) -> Result<LabelMap> {
        match *self {
            Self::Binary { class } => {
                labels
                    .data
                    .iter_mut()
                    .for_each(|value| *value = u8::from(*value == class));
            }
            Self::Combine => {
                labels
                    .data
                    .iter_mut()
                    .for_each(|value| *value = u8::from(*value > 0));
            }
            Self::Classes { n } => {
                let values: BTreeSet<u8> = labels.data.iter().copied().collect();
                if values.iter().any(|&value| value > n) {
                    bail!(
                        "grey values {values:?}, but data.target = {self} knows 0 to {n}: correct the file, \
                         raise n, or choose \"combine\" for masks of 0 and 255"
                    );
                }
            }
        }
        Ok(labels)
    }
}

/// Grey values of a PNG or TIFF label file as they are; of a palette PNG the indices, which are the class ids.
pub(super) fn read_picture(path: &Path) -> Result<LabelMap> {
    let bytes =
        std::fs::read(path).with_context(|| format!("cannot read labels {}", path.display()))?;
    let decoded = match sniff(&bytes) {
        Some(Format::Png) => decode_png(&bytes),
        Some(Format::Tiff) => decode_tiff(&bytes),
        Some(Format::Jpeg) => Err(anyhow!("this is JPEG, {LOSSY}")),
        Some(other) => Err(anyhow!(
            "this is {}: store labels as PNG, or as NIfTI beside a NIfTI image",
            other.name().to_uppercase()
        )),
        None => Err(anyhow!(
            "this is no PNG: store labels as PNG, or as NIfTI beside a NIfTI image"
        )),
    };
    decoded.with_context(|| format!("labels {}", path.display()))
}

fn decode_tiff(bytes: &[u8]) -> Result<LabelMap> {
    // JPEG in its two forms, WebP and JPEG XL.
    const LOSSY_COMPRESSIONS: [u32; 4] = [6, 7, 50_001, 50_002];
    let mut header =
        tiff::decoder::Decoder::new(Cursor::new(bytes)).context("the TIFF file is damaged")?;
    let compression: Option<u32> = header
        .find_tag_unsigned(tiff::tags::Tag::Compression)
        .context("the TIFF file is damaged")?;
    if let Some(number) = compression {
        ensure!(
            !LOSSY_COMPRESSIONS.contains(&number),
            "this TIFF file is compressed as a photograph, {LOSSY}"
        );
    }
    let palette = header.find_tag(tiff::tags::Tag::ColorMap);
    ensure!(
        palette.context("the TIFF file is damaged")?.is_none(),
        "this TIFF file has a palette: export the labels as PNG, whose indices are class ids"
    );
    let mut scan = decode(bytes, &Limits::STANDARD)?;
    ensure!(
        scan.frames.len() == 1,
        "this TIFF file has {} pages: labels are files of one picture",
        scan.frames.len()
    );
    let image = scan.frames.swap_remove(0);
    let class = |pixel: &[f32]| {
        let nearest = pixel[0] as u8;
        // The cast cuts and saturates, so that what is no class id differs from it.
        let wanted = f32::from(nearest);
        ensure!(
            pixel.iter().all(|it| (it - wanted).abs() < f32::EPSILON),
            "a pixel has the value {pixel:?}, no class id (a grey value, 0 to 255)"
        );
        Ok(nearest)
    };
    Ok(LabelMap {
        rows: image.rows,
        cols: image.cols,
        data: image
            .data
            .chunks_exact(image.channels)
            .map(class)
            .collect::<Result<_>>()?,
    })
}

fn decode_png(bytes: &[u8]) -> Result<LabelMap> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().context("the PNG file is damaged")?;
    let size = reader
        .output_buffer_size()
        .context("the image is too large for this machine")?;
    let mut buffer = vec![0; size];
    let frame = reader
        .next_frame(&mut buffer)
        .context("the PNG file is damaged")?;
    let (rows, cols) = (frame.height as usize, frame.width as usize);
    let bits = frame.bit_depth as usize;
    let n_channels = frame.color_type.samples();
    let mut samples = Vec::with_capacity(rows * cols * n_channels);
    for row in buffer.chunks_exact(frame.line_size).take(rows) {
        samples.extend((0..cols * n_channels).map(|at| sample(row, at, bits)));
    }
    let data = class_ids(&samples, frame.color_type, bits)?;
    let (data, rows, cols) = turned(&data, (rows, cols), 1, orientation(bytes));
    Ok(LabelMap { rows, cols, data })
}

/// Number `at` of a row of PNG samples, of which several may share a byte.
fn sample(row: &[u8], at: usize, bits: usize) -> u16 {
    match bits {
        16 => u16::from_be_bytes([row[2 * at], row[2 * at + 1]]),
        8 => row[at].into(),
        _ => {
            let first = at * bits;
            let shift = 8 - bits - first % 8;
            u16::from(row[first / 8]) >> shift & ((1 << bits) - 1)
        }
    }
}

fn class_ids(samples: &[u16], color: png::ColorType, bits: usize) -> Result<Vec<u8>> {
    let id = |value: u16| {
        u8::try_from(value).ok().with_context(|| {
            format!("grey value {value}: class ids end at 255, store them as they are")
        })
    };
    let grey = |pixel: &[u16]| {
        ensure!(
            pixel.iter().all(|value| *value == pixel[0]),
            "a pixel has the colour {pixel:?}: store the class id as a grey value or as the index of a palette"
        );
        id(pixel[0])
    };
    let opaque = |value: u8, alpha: u16| {
        ensure!(
            value == 0 || alpha > 0,
            "a pixel of the grey value {value} is transparent: say by its grey value what it is, without alpha"
        );
        Ok(value)
    };
    match color {
        png::ColorType::Indexed => samples.iter().map(|&value| id(value)).collect(),
        // Fewer than 8 bits stand for fewer of the 256 grey values: 1 bit for 0 and 255.
        png::ColorType::Grayscale if bits < 8 => {
            let step = 255 / ((1 << bits) - 1);
            samples.iter().map(|&value| id(value * step)).collect()
        }
        png::ColorType::Grayscale => samples.iter().map(|&value| id(value)).collect(),
        png::ColorType::Rgb => samples.chunks_exact(3).map(grey).collect(),
        png::ColorType::GrayscaleAlpha => samples
            .chunks_exact(2)
            .map(|pixel| opaque(id(pixel[0])?, pixel[1]))
            .collect(),
        png::ColorType::Rgba => samples
            .chunks_exact(4)
            .map(|pixel| opaque(grey(&pixel[..3])?, pixel[3]))
            .collect(),
    }
}

/// Grey values that occur in a label file of either format.
pub(super) fn values(path: &Path) -> Result<BTreeSet<u8>> {
    let labels = if nifti::is_nifti(path) {
        Stored::open(path)?
            .labels()
            .with_context(|| format!("labels {}", path.display()))?
    } else {
        read_picture(path)?.data
    };
    let mut seen = [false; 256];
    for value in labels {
        seen[usize::from(value)] = true;
    }
    Ok((0..=255)
        .filter(|&value| seen[usize::from(value)])
        .collect())
}
