//! The demo's patients: one phantom slice each, the same ones at every run.

use phantom::dicom::{DicomError, Ids, to_bytes};
use phantom::{Heart, Phantom};

/// Not among the seeds that the shipped bundle was trained on.
const FIRST_SEED: u64 = 900_000;
const SLICES: usize = 9;
/// End of diastole and of systole, as clinicians contour them.
const PHASES: [f64; 2] = [0.0, 0.35];

/// Slice of patient `number`, from the base to above the apex.
pub(super) fn slice(number: u32) -> Phantom {
    let heart = Heart::new(FIRST_SEED + u64::from(number));
    let slice = 1 + number as usize % (SLICES - 3);
    heart.slice(slice, SLICES, PHASES[number as usize % PHASES.len()])
}

/// The file that a scanner would send.
pub(super) fn dicom(number: u32) -> Result<Vec<u8>, DicomError> {
    let phantom = slice(number);
    let ids = Ids::new(&phantom, number + 1, 1);
    to_bytes(&phantom, &ids)
}

pub(super) fn file_name(number: u32) -> String {
    format!("phantom-{number:03}.dcm")
}
