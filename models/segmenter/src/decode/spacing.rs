//! How large a pixel is in the patient, frame by frame, and which attribute says so.
//!
//! The order of preference: Pixel Spacing (of a frame's functional group, of the shared one, of the object); in projection
//! radiography what holds in the patient before what holds at the detector; regions of ultrasound; the nominal
//! spacing of a scanned film. Pixel Aspect Ratio alone has no unit and gives none.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde::{Deserialize, Serialize};

use super::attributes::{float, functional_groups, integer, present, text};
use crate::warning::Warning;

/// Where the spacing of an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SpacingFrom {
    PixelSpacing,
    /// Pixel Spacing of a projection, corrected as its Pixel Spacing Calibration Type says.
    PixelSpacingCalibrated,
    /// Object Pixel Spacing in Center of Beam, of enhanced XA and XRF.
    ObjectPixelSpacingInCenterOfBeam,
    /// Imager Pixel Spacing by Estimated Radiographic Magnification Factor.
    ImagerPixelSpacingByMagnification,
    /// It holds at the detector: in the patient a pixel is smaller.
    ImagerPixelSpacing,
    /// Physical Delta X and Y of Sequence of Ultrasound Regions.
    UltrasoundRegion,
    /// It holds on the film that was scanned.
    NominalScannedPixelSpacing,
}

/// The size of a pixel in each frame: distance between rows, between columns, mm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spacing {
    /// `None` where no frame has a spacing.
    pub from: Option<SpacingFrom>,
    by_frame: Vec<Option<[f64; 2]>>,
}

impl Spacing {
    /// Of the first source in the order of preference that any frame has.
    pub(super) fn read(object: &InMemDicomObject, n_frames: usize) -> Self {
        let sources = [
            pixel_spacing,
            object_spacing,
            imager_spacing,
            ultrasound_regions,
            nominal_spacing,
        ];
        for source in sources {
            let found: Vec<Option<Found>> = (0..n_frames).map(|n| source(object, n)).collect();
            if let Some((_, from)) = found.iter().flatten().next() {
                return Self {
                    from: Some(*from),
                    by_frame: found.into_iter().map(|one| Some(one?.0)).collect(),
                };
            }
        }
        Self::default()
    }

    pub fn uniform(spacing_mm: [f64; 2], from: SpacingFrom, n_frames: usize) -> Self {
        Self {
            from: Some(from),
            by_frame: vec![Some(spacing_mm); n_frames],
        }
    }

    /// Of one frame, from 0.
    pub fn of(&self, frame: usize) -> Option<[f64; 2]> {
        self.by_frame.get(frame).copied().flatten()
    }

    /// That of all frames; `None` where they differ or have none.
    pub fn common(&self) -> Option<[f64; 2]> {
        let first = self.of(0);
        let same = self.by_frame.iter().all(|spacing| *spacing == first);
        if same { first } else { None }
    }

    /// One for each frame, where they differ.
    pub fn differing(&self) -> Option<&[Option<[f64; 2]>]> {
        let (first, rest) = self.by_frame.split_first()?;
        let differ = rest.iter().any(|spacing| spacing != first);
        differ.then_some(&self.by_frame)
    }

    pub(super) fn warning(&self) -> Option<Warning> {
        match self.from {
            None => Some(Warning::SpacingUnknown),
            Some(_) if self.by_frame.contains(&None) => Some(Warning::SpacingUnknown),
            Some(SpacingFrom::ImagerPixelSpacing) => Some(Warning::SpacingAtDetector),
            Some(SpacingFrom::NominalScannedPixelSpacing) => Some(Warning::SpacingNominal),
            Some(_) => None,
        }
    }
}

type Found = ([f64; 2], SpacingFrom);

/// An unreadable spacing counts as none: areas then have no unit, which is right.
fn pair(object: &InMemDicomObject, tag: Tag) -> Option<[f64; 2]> {
    let values = present(object, tag)?.to_multi_float64().ok()?;
    let good = |value: &f64| value.is_finite() && *value > 0.0;
    let spacing: [f64; 2] = values.try_into().ok()?;
    spacing.iter().all(good).then_some(spacing)
}

/// In the frame's functional group, the shared one, or the object itself.
fn nearest(object: &InMemDicomObject, group: Tag, tag: Tag, frame: usize) -> Option<[f64; 2]> {
    let mut places = functional_groups(object, group, frame).chain([object]);
    places.find_map(|place| pair(place, tag))
}

/// Pixel Spacing that equals Imager Pixel Spacing was not corrected (PS3.3 10.7.1.3): it is the detector's.
fn pixel_spacing(object: &InMemDicomObject, frame: usize) -> Option<Found> {
    let (group, tag) = (tags::PIXEL_MEASURES_SEQUENCE, tags::PIXEL_SPACING);
    let spacing = nearest(object, group, tag, frame)?;
    let calibration = text(object, tags::PIXEL_SPACING_CALIBRATION_TYPE);
    if calibration.is_some_and(|word| matches!(&*word, "GEOMETRY" | "FIDUCIAL")) {
        return Some((spacing, SpacingFrom::PixelSpacingCalibrated));
    }
    match at_detector(object, frame) {
        Some(detector) if close(detector, spacing) => imager_spacing(object, frame),
        _ => Some((spacing, SpacingFrom::PixelSpacing)),
    }
}

fn object_spacing(object: &InMemDicomObject, frame: usize) -> Option<Found> {
    let group = tags::PROJECTION_PIXEL_CALIBRATION_SEQUENCE;
    let tag = tags::OBJECT_PIXEL_SPACING_IN_CENTER_OF_BEAM;
    let spacing = nearest(object, group, tag, frame)?;
    Some((spacing, SpacingFrom::ObjectPixelSpacingInCenterOfBeam))
}

fn at_detector(object: &InMemDicomObject, frame: usize) -> Option<[f64; 2]> {
    let group = tags::FRAME_PIXEL_DATA_PROPERTIES_SEQUENCE;
    nearest(object, group, tags::IMAGER_PIXEL_SPACING, frame)
}

fn imager_spacing(object: &InMemDicomObject, frame: usize) -> Option<Found> {
    let spacing = at_detector(object, frame)?;
    let tag = tags::ESTIMATED_RADIOGRAPHIC_MAGNIFICATION_FACTOR;
    let factor = float(object, tag, "magnification").ok().flatten();
    // The detector is behind the patient, so no beam makes anything smaller.
    Some(match factor.filter(|factor| *factor >= 1.0) {
        Some(factor) => {
            let in_patient = spacing.map(|value| value / factor);
            (in_patient, SpacingFrom::ImagerPixelSpacingByMagnification)
        }
        None => (spacing, SpacingFrom::ImagerPixelSpacing),
    })
}

/// What all regions of two dimensions agree on; one that is not in cm leaves the image without.
fn ultrasound_regions(object: &InMemDicomObject, _frame: usize) -> Option<Found> {
    const TWO_DIMENSIONS: u32 = 1;
    const CENTIMETERS: u32 = 3;
    const MM_PER_CM: f64 = 10.0;
    let number = |region: &InMemDicomObject, tag| integer(region, tag, "region").ok().flatten();
    let regions = object.get(tags::SEQUENCE_OF_ULTRASOUND_REGIONS)?.items()?;
    let mut agreed = None;
    for region in regions {
        if number(region, tags::REGION_SPATIAL_FORMAT) != Some(TWO_DIMENSIONS) {
            continue;
        }
        let distance = |unit: Tag, delta: Tag| {
            let in_cm = number(region, unit) == Some(CENTIMETERS);
            let delta = float(region, delta, "delta").ok().flatten()?.abs() * MM_PER_CM;
            (in_cm && delta > 0.0).then_some(delta)
        };
        let spacing = [
            distance(tags::PHYSICAL_UNITS_Y_DIRECTION, tags::PHYSICAL_DELTA_Y)?,
            distance(tags::PHYSICAL_UNITS_X_DIRECTION, tags::PHYSICAL_DELTA_X)?,
        ];
        if !close(*agreed.get_or_insert(spacing), spacing) {
            return None;
        }
    }
    Some((agreed?, SpacingFrom::UltrasoundRegion))
}

fn nominal_spacing(object: &InMemDicomObject, _frame: usize) -> Option<Found> {
    let spacing = pair(object, tags::NOMINAL_SCANNED_PIXEL_SPACING)?;
    Some((spacing, SpacingFrom::NominalScannedPixelSpacing))
}

/// But for the rounding of decimal strings.
fn close(a: [f64; 2], b: [f64; 2]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-3 * b)
}

#[cfg(test)]
mod tests;
