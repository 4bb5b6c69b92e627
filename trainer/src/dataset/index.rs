//! A folder of labelled images becomes a data set.
//!
//! Known layouts: `PATIENT/dicom/N.dcm` beside `PATIENT/label/N.png` at any depth; `images/` beside
//! `masks/` or `labels/` with PNG, JPEG, TIFF or DICOM; the same, or `imagesTr/` beside `labelsTr/`,
//! with NIfTI volumes, of which each slice that has labels becomes an entry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::doubt;
use super::entry::{Entry, Split};
use super::grid::Plane;
use super::names::{self, Named, file_name, stem_of};
use super::nifti::is_nifti;
use super::split::SplitRule;
use super::volume::{Cut, LabelledVolume};
use super::{Dataset, ensure_same_size, label, scan};

const IMAGE_FOLDERS: [&str; 2] = ["imagesTr", "images"];
const LABEL_FOLDERS: [&str; 3] = ["labelsTr", "labels", "masks"];

/// How to index a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub split: SplitRule,
    /// In which volumes are cut; `None` for the one of the acquisition.
    pub plane: Option<Plane>,
}

/// An image file, its labels, and the patient as far as the path tells.
struct Pair {
    image: PathBuf,
    labels: PathBuf,
    patient: String,
}

/// Recognises the layout of `root`, checks every pair, and assigns the split.
pub fn index(root: &Path, options: &Options) -> Result<Dataset> {
    ensure!(root.is_dir(), "{} is not a folder", root.display());
    let mut pairs = beside_dicom(root)?;
    if pairs.is_empty() {
        pairs = image_and_label_folders(root)?;
    }
    ensure!(
        !pairs.is_empty(),
        "no known layout in {}: expected PATIENT/dicom beside PATIENT/label, images beside masks \
         or labels, or imagesTr beside labelsTr",
        root.display()
    );
    let mut entries = Vec::new();
    for pair in pairs {
        entries.extend(if is_nifti(&pair.image) || is_nifti(&pair.labels) {
            slices(pair, options.plane)?
        } else {
            vec![frame(pair)?]
        });
    }
    assign(&mut entries, &options.split)?;
    Dataset::assemble(root.to_owned(), entries)
}

fn assign(entries: &mut Vec<Entry>, rule: &SplitRule) -> Result<()> {
    let patients: BTreeSet<String> = entries.iter().map(|entry| entry.patient.clone()).collect();
    let patients: Vec<String> = patients.into_iter().collect();
    let splits: BTreeMap<String, Split> = rule.assign(&patients)?;
    entries.retain_mut(|entry| {
        let split = splits.get(&entry.patient);
        entry.split = split.copied().unwrap_or(entry.split);
        split.is_some()
    });
    Ok(())
}

fn beside_dicom(root: &Path) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for folder in folders(root)? {
        if folder.file_name().is_none_or(|name| name != "dicom") {
            continue;
        }
        let parent = folder.parent().context("a dicom folder has a parent")?;
        let labels = parent.join("label");
        if !labels.is_dir() {
            continue;
        }
        let patient = first_folder(root, &folder);
        let found = files(&folder)?;
        let (by_stem, by_name) = (Named::new(&found, stem_of), Named::new(&found, file_name));
        // Only some phases of a cine series are annotated, so images without labels are normal.
        for labels in files(&labels)?
            .into_iter()
            .filter(|path| names::is_named_as_image(path))
        {
            let stem = stem_of(&labels);
            // `X.png` or `X.dcm.png` for `X.dcm`.
            let image = match by_stem.get(&stem)? {
                None => by_name.get(&stem)?,
                found => found,
            };
            let Some(image) = image else {
                bail!(
                    "labels {} have no image in {}",
                    labels.display(),
                    folder.display()
                );
            };
            pairs.push(Pair {
                image: image.clone(),
                labels,
                patient: patient.clone(),
            });
        }
    }
    Ok(pairs)
}

fn image_and_label_folders(root: &Path) -> Result<Vec<Pair>> {
    let existing = |names: &[&str]| {
        names
            .iter()
            .map(|n| root.join(n))
            .find(|path| path.is_dir())
    };
    let (Some(images), Some(labels)) = (existing(&IMAGE_FOLDERS), existing(&LABEL_FOLDERS)) else {
        return Ok(Vec::new());
    };
    let (in_images, in_labels) = (files_below(&images)?, files_below(&labels)?);
    let matches = names::pair((&images, &in_images), (&labels, &in_labels))?;
    let pairs = matches.into_iter().map(|found| {
        let patient = first_folder(&images, found.image.parent().unwrap_or(&images));
        Pair {
            patient: if patient.is_empty() {
                found.stem
            } else {
                patient
            },
            image: found.image,
            labels: found.labels,
        }
    });
    Ok(pairs.collect())
}

/// One entry for a single-frame file; DICOM's own PatientID wins over the path.
fn frame(pair: Pair) -> Result<Entry> {
    let mut scan = scan(&pair.image)?;
    ensure!(
        scan.frames.len() == 1,
        "{} has {} frames: labels are PNG files of one frame; write a list with the column slice",
        pair.image.display(),
        scan.frames.len()
    );
    let patient = scan.identifiers.patient_id.map(|id| id.trim().to_owned());
    let patient = patient.filter(|id| !id.is_empty()).unwrap_or(pair.patient);
    ensure!(
        !patient.is_empty(),
        "{} names no patient, nor does its path",
        pair.image.display()
    );
    let entry = Entry {
        image: pair.image,
        labels: pair.labels,
        patient,
        split: Split::Train,
        slice: None,
        plane: None,
    };
    ensure_same_size(
        &entry,
        &scan.frames[0],
        &label::read_picture(&entry.labels)?,
    )?;
    let doubts = doubt::mend(&mut scan.frames[0])
        .with_context(|| format!("image {}", entry.image.display()))?;
    doubt::say(&doubts, &entry.image, None);
    Ok(entry)
}

/// One entry for each slice of a volume that has labels.
fn slices(pair: Pair, plane: Option<Plane>) -> Result<Vec<Entry>> {
    let patient = pair.patient;
    let cut = Cut {
        image: pair.image,
        labels: pair.labels,
        plane,
    };
    let volume = LabelledVolume::read(&cut)?;
    let mut entries = Vec::new();
    for slice in 0..volume.n_slices() {
        if volume.labels(slice).data.iter().all(|&value| value == 0) {
            continue;
        }
        let mut image = volume.image(slice);
        let doubts = doubt::mend(&mut image)
            .with_context(|| format!("image {} slice {slice}", cut.image.display()))?;
        doubt::say(&doubts, &cut.image, Some(slice));
        entries.push(Entry {
            image: cut.image.clone(),
            labels: cut.labels.clone(),
            patient: patient.clone(),
            split: Split::Train,
            slice: Some(slice),
            plane,
        });
    }
    Ok(entries)
}

/// First folder of `path` below `root`; empty when it is `root` itself.
fn first_folder(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below
        .iter()
        .next()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Sorted, without hidden files (macOS leaves `._name` beside each file it touches).
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?
            .map(|child| Ok(child?.path()))
            .collect()
    };
    let mut paths = read().with_context(|| format!("cannot read folder {}", folder.display()))?;
    paths.retain(|path| {
        path.file_name()
            .is_some_and(|name| !name.to_string_lossy().starts_with('.'))
    });
    paths.sort();
    Ok(paths)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(children(folder)?
        .into_iter()
        .filter(|path| path.is_file())
        .collect())
}

/// `root` and all folders below it.
fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let inside = children(&found[next])?;
        // A link could lead back up.
        found.extend(
            inside
                .into_iter()
                .filter(|path| path.is_dir() && !path.is_symlink()),
        );
        next += 1;
    }
    Ok(found)
}

fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders(root)? {
        found.extend(files(&folder)?);
    }
    found.retain(|path| !names::is_beside_the_point(path));
    found.sort();
    Ok(found)
}
