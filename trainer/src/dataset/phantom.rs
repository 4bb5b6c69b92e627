//! `trainer dataset phantom`: synthetic patients as a folder that `dataset index` understands.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::GrayImage;
use phantom::{Heart, Phantom, dicom};

use super::Dataset;
use super::entry::{Entry, Split};
use crate::report::Progress;

/// Short-axis slices that cover a heart from base to apex.
const SLICES: usize = 10;
/// Golden ratio: phases of any number of frames spread over the beat.
const PHASE_STEP: f64 = 0.618_033_988_749_895;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub n_patients: usize,
    /// Of each patient.
    pub n_frames: usize,
    pub seed: u64,
    /// Rows and columns.
    pub size: usize,
}

/// Writes `PATIENT/dicom/N.dcm` and `PATIENT/label/N.png` below `root`; everyone is for training.
pub fn create(root: &Path, options: &Options) -> Result<Dataset> {
    ensure!(options.n_patients > 0, "--patients is 0: write at least 1");
    ensure!(options.n_frames > 0, "--frames is 0: write at least 1");
    ensure!(
        (32..=2048).contains(&options.size),
        "--size is {}: write 32 to 2048 px",
        options.size
    );
    let progress = Progress::images("phantoms", (options.n_patients * options.n_frames) as u64);
    let mut entries = Vec::with_capacity(options.n_patients * options.n_frames);
    for patient in 1..=options.n_patients {
        let seed = options
            .seed
            .wrapping_mul(1_000_003)
            .wrapping_add(patient as u64);
        let heart = Heart::new(seed);
        for frame in 0..options.n_frames {
            let phantom = view(&heart, frame, options);
            entries.push(write(root, &phantom, patient as u32, frame as u32 + 1)?);
            progress.images_done(entries.len() as u64);
        }
    }
    Dataset::assemble(root.to_owned(), entries)
}

/// Frames are spread from base to apex, each at another phase.
fn view(heart: &Heart, frame: usize, options: &Options) -> Phantom {
    let slice = (2 * frame + 1) * SLICES / (2 * options.n_frames);
    let phase = (frame as f64 * PHASE_STEP).fract();
    heart.slice_sized(slice, SLICES, phase, options.size)
}

fn write(root: &Path, phantom: &Phantom, patient: u32, number: u32) -> Result<Entry> {
    let ids = dicom::Ids::new(phantom, patient, number);
    let image = place(root, &ids.patient_id, "dicom", &format!("{number}.dcm"))?;
    dicom::write(&image, phantom, &ids)?;
    let labels = place(root, &ids.patient_id, "label", &format!("{number}.png"))?;
    let map = &phantom.labels;
    GrayImage::from_raw(map.cols as u32, map.rows as u32, map.data.clone())
        .context("a label map has a value for each pixel")?
        .save(&labels)
        .with_context(|| format!("cannot write labels {}", labels.display()))?;
    Ok(Entry {
        image,
        labels,
        patient: ids.patient_id,
        split: Split::Train,
        slice: None,
        plane: None,
    })
}

/// Path of a file in `root/patient/kind`, which exists afterwards.
fn place(root: &Path, patient: &str, kind: &str, name: &str) -> Result<PathBuf> {
    let folder = root.join(patient).join(kind);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create folder {}", folder.display()))?;
    Ok(folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::index::{self, index};
    use crate::dataset::label::LabelRule;
    use crate::dataset::split::SplitRule;
    use crate::dataset::write_list;

    const OPTIONS: Options = Options {
        n_patients: 2,
        n_frames: 3,
        seed: 4,
        size: 128,
    };

    #[test]
    fn the_folder_indexes_to_the_same_data_set() {
        let folder = tempfile::tempdir().unwrap();
        let made = create(folder.path(), &OPTIONS).unwrap();
        assert_eq!(
            (made.entries.len(), made.classes.as_slice()),
            (6, &[1_u8][..])
        );
        let list = folder.path().join("list.csv");
        write_list(&made.entries, &list).unwrap();
        let read = Dataset::read(&list).unwrap();
        assert_eq!(read.fingerprint, made.fingerprint);
        assert_eq!(
            read.patients(Split::Train),
            ["PHANTOM-0001", "PHANTOM-0002"]
        );
        let all = |patient: &str| vec![patient.to_owned()];
        let split = SplitRule::Patients {
            train: all("PHANTOM-0001"),
            validation: all("PHANTOM-0002"),
            test: Vec::new(),
        };
        let indexed = index(folder.path(), &index::Options { split, plane: None }).unwrap();
        assert_eq!(indexed.entries.len(), 6);
        assert_eq!(indexed.patients(Split::Validation), ["PHANTOM-0002"]);
    }

    #[test]
    fn a_file_decodes_to_the_drawn_pixels_and_labels() {
        let folder = tempfile::tempdir().unwrap();
        let made = create(folder.path(), &OPTIONS).unwrap();
        let heart = Heart::new(4 * 1_000_003 + 2);
        for (frame, entry) in made.entries[3..].iter().enumerate() {
            let phantom = view(&heart, frame, &OPTIONS);
            let sample = made.load(entry, &LabelRule::Combine).unwrap();
            assert_eq!(sample.image, phantom.image);
            assert_eq!(sample.labels.data, phantom.labels.data);
            let spacing = sample.spacing_mm.unwrap();
            assert!(
                (spacing[0] - phantom.spacing_mm[0]).abs() < 1e-6,
                "{spacing:?}"
            );
        }
    }

    #[test]
    fn two_runs_write_the_same_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = create(a.path(), &OPTIONS).unwrap();
        assert_eq!(
            first.fingerprint,
            create(b.path(), &OPTIONS).unwrap().fingerprint
        );
        let other = Options { seed: 5, ..OPTIONS };
        assert_ne!(
            first.fingerprint,
            create(b.path(), &other).unwrap().fingerprint
        );
    }
}
