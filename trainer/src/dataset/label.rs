//! Label files: grey values on disk, and the rule that turns them into the network's classes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use contract::LabelMap;
use image::DynamicImage;
use serde::{Deserialize, Serialize};

use super::nifti::{self, Volume};

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

/// Grey values of a PNG label file as they are.
pub(super) fn read_grey(path: &Path) -> Result<LabelMap> {
    let decoded = image::ImageReader::open(path)
        .with_context(|| format!("cannot read labels {}", path.display()))?
        .with_guessed_format()
        .with_context(|| format!("cannot read labels {}", path.display()))?
        .decode()
        .with_context(|| format!("cannot decode labels {}", path.display()))?;
    let (cols, rows) = (decoded.width() as usize, decoded.height() as usize);
    let data = grey_values(decoded).with_context(|| format!("labels {}", path.display()))?;
    Ok(LabelMap { rows, cols, data })
}

fn grey_values(decoded: DynamicImage) -> Result<Vec<u8>> {
    match decoded {
        DynamicImage::ImageLuma8(grey) => Ok(grey.into_raw()),
        DynamicImage::ImageLuma16(grey) => grey
            .into_raw()
            .into_iter()
            .map(|value| {
                u8::try_from(value)
                    .ok()
                    .with_context(|| format!("grey value {value}: class ids end at 255"))
            })
            .collect(),
        colour => {
            let rgba = colour.to_rgba8();
            ensure!(
                rgba.pixels()
                    .all(|pixel| pixel.0[0] == pixel.0[1] && pixel.0[1] == pixel.0[2]),
                "the file has colours: store the class id as a grey value"
            );
            Ok(rgba.pixels().map(|pixel| pixel.0[0]).collect())
        }
    }
}

/// Grey values that occur in a label file of either format.
pub(super) fn values(path: &Path) -> Result<BTreeSet<u8>> {
    let mut seen = [false; 256];
    if nifti::is_nifti(path) {
        let volume = Volume::read(path)?;
        for slice in 0..volume.n_slices() {
            let labels = volume
                .label_slice(Some(slice))
                .with_context(|| format!("labels {}", path.display()))?;
            labels
                .data
                .iter()
                .for_each(|&value| seen[usize::from(value)] = true);
        }
    } else {
        read_grey(path)?
            .data
            .iter()
            .for_each(|&value| seen[usize::from(value)] = true);
    }
    Ok((0..=255)
        .filter(|&value| seen[usize::from(value)])
        .collect())
}
