//! Labelled images: list files, the split by patient, and what one entry loads to.
//!
//! A list is a CSV with the header `image,labels,patient,split[,slice[,plane]]` and paths relative to its
//! own folder. The reference's lists (`image_path,mask_path`, no header) are read too.

pub mod command;
mod doubt;
mod entry;
mod fingerprint;
mod grid;
pub mod index;
mod label;
mod list;
mod names;
mod nifti;
pub mod phantom;
mod split;
mod volume;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use contract::{Image, LabelMap};
use segmenter::decode::{DecodeError, Limits, Scan, decode};
use sha2::{Digest, Sha256};

pub use entry::{Entry, Split};
pub use grid::Plane;
pub use label::LabelRule;
pub use list::write_list;
pub use split::SplitRule;

use self::entry::holds_volume;
use self::volume::{Cut, LabelledVolume};

/// A loaded entry at its native size.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Image path relative to the list, with `#slice` where there is one.
    pub name: String,
    pub patient: String,
    pub image: Image,
    /// After the label rule: 0 is background, 1.. are the classes of the network.
    pub labels: LabelMap,
    /// Distance between rows, between columns.
    pub spacing_mm: Option<[f64; 2]>,
}

#[derive(Debug)]
pub struct Dataset {
    /// Folder that names and fingerprint are relative to.
    pub root: PathBuf,
    pub entries: Vec<Entry>,
    /// Grey values above 0 that occur in the label files.
    pub classes: Vec<u8>,
    /// Hex SHA-256 over the sorted contents of all entries with patient and split: where the files
    /// lie does not matter.
    pub fingerprint: String,
    known: HashMap<Place, Known>,
    /// The volume read last: neighbouring entries are slices of the same two files.
    volume: Mutex<Option<(Cut, Arc<LabelledVolume>)>>,
}

/// An image file and what of it is the entry's.
type Place = (PathBuf, Option<usize>, Option<Plane>);

#[derive(Debug)]
struct Known {
    name: String,
    /// SHA-256 of the image file, with the slice.
    image: String,
    /// What the fingerprint has of this entry: a line.
    content: String,
}

impl Dataset {
    /// Reads a list file and hashes every file in it.
    pub fn read(list: &Path) -> Result<Self> {
        let root = list::folder_of(list);
        let entries = list::read(list)?;
        let mut dataset =
            Self::assemble(root, entries).with_context(|| format!("in list {}", list.display()))?;
        dataset.sort();
        Ok(dataset)
    }

    /// Concatenates lists; a patient must be in the same split in all of them.
    pub fn read_many(lists: &[PathBuf]) -> Result<Self> {
        let (first, rest) = lists
            .split_first()
            .context("no dataset list given: set data.lists in the config")?;
        let mut all = Self::read(first)?;
        for list in rest {
            let more = Self::read(list)?;
            for (place, known) in more.known {
                let twice = format!("{} is in two lists: keep it in one", known.name);
                ensure!(all.known.insert(place, known).is_none(), twice);
            }
            all.entries.extend(more.entries);
            let classes: BTreeSet<u8> = all.classes.iter().copied().chain(more.classes).collect();
            all.classes = classes.into_iter().collect();
        }
        all.sort();
        all.check_split()?;
        all.fingerprint = all.digest();
        Ok(all)
    }

    pub fn of(&self, split: Split) -> Vec<&Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.split == split)
            .collect()
    }

    /// Patients of a split, sorted.
    pub fn patients(&self, split: Split) -> Vec<&str> {
        let patients: BTreeSet<&str> = self
            .of(split)
            .into_iter()
            .map(|entry| entry.patient.as_str())
            .collect();
        patients.into_iter().collect()
    }

    pub fn load(&self, entry: &Entry, labels: &LabelRule) -> Result<Sample> {
        let (mut image, grey, spacing_mm) = if holds_volume(entry) {
            self.slice(entry)?
        } else {
            let (image, spacing_mm) = frame(entry)?;
            (image, label::read_picture(&entry.labels)?, spacing_mm)
        };
        ensure_same_size(entry, &image, &grey)?;
        let doubts =
            doubt::mend(&mut image).with_context(|| format!("image {}", entry.image.display()))?;
        doubt::say(&doubts, &entry.image, entry.slice);
        let labels = labels
            .apply(grey)
            .with_context(|| format!("labels {}", entry.labels.display()))?;
        Ok(Sample {
            name: self.known(entry).name.clone(),
            patient: entry.patient.clone(),
            image,
            labels,
            spacing_mm,
        })
    }

    fn assemble(root: PathBuf, entries: Vec<Entry>) -> Result<Self> {
        ensure!(
            !entries.is_empty(),
            "there is no entry: nothing to train on"
        );
        let mut classes = BTreeSet::new();
        let mut known = HashMap::with_capacity(entries.len());
        let mut files = fingerprint::Files::default();
        for entry in &entries {
            let image = files.image(entry)?;
            if !files.has(&entry.labels) {
                classes.extend(label::values(&entry.labels)?);
            }
            let labels = files.hash(&entry.labels)?;
            let (patient, split) = (&entry.patient, entry.split.name());
            let content = format!("{image}\t{labels}\t{patient}\t{split}\n");
            let name = name_of(&root, entry);
            let place = place(entry);
            let found = Known {
                name,
                image,
                content,
            };
            if known.insert(place, found).is_some() {
                bail!("{} is listed twice: remove one line", entry.image.display());
            }
        }
        classes.remove(&0);
        let mut dataset = Self {
            root,
            entries,
            classes: classes.into_iter().collect(),
            fingerprint: String::new(),
            known,
            volume: Mutex::new(None),
        };
        dataset.check_split()?;
        dataset.fingerprint = dataset.digest();
        Ok(dataset)
    }

    fn known(&self, entry: &Entry) -> &Known {
        &self.known[&place(entry)]
    }

    /// An order that depends on content alone, as the fingerprint does: who trains in the order of
    /// `entries` is a function of the fingerprint.
    fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by_cached_key(|entry| self.known(entry).content.clone());
        self.entries = entries;
    }

    fn digest(&self) -> String {
        let mut lines: Vec<&str> = self.known.values().map(|it| it.content.as_str()).collect();
        lines.sort_unstable();
        hex::encode(Sha256::digest(lines.concat()))
    }

    /// Frames of one patient look alike: seen in training, they would flatter the test figures. A
    /// copy of an image under another name would do the same.
    fn check_split(&self) -> Result<()> {
        let mut patients: HashMap<&str, Split> = HashMap::new();
        let mut images: HashMap<&str, &Entry> = HashMap::new();
        for entry in &self.entries {
            let first = *patients.entry(&entry.patient).or_insert(entry.split);
            ensure!(
                first == entry.split,
                "patient {} is in two splits, {} and {}: keep all frames of a patient in one",
                entry.patient,
                first.name(),
                entry.split.name(),
            );
            let first = images.entry(&self.known(entry).image).or_insert(entry);
            ensure!(
                first.split == entry.split,
                "{} ({}) and {} ({}) are the same image: keep it in one split",
                first.image.display(),
                first.split.name(),
                entry.image.display(),
                entry.split.name(),
            );
        }
        Ok(())
    }

    fn slice(&self, entry: &Entry) -> Result<(Image, LabelMap, Option<[f64; 2]>)> {
        let volume = self.volume(entry)?;
        let slice = volume
            .find(entry.slice)
            .with_context(|| format!("image {}", entry.image.display()))?;
        Ok((
            volume.image(slice),
            volume.labels(slice),
            Some(volume.spacing_mm),
        ))
    }

    fn volume(&self, entry: &Entry) -> Result<Arc<LabelledVolume>> {
        let mut last = self.volume.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = Cut::of(entry);
        if let Some((cached, volume)) = &*last
            && *cached == cut
        {
            return Ok(Arc::clone(volume));
        }
        // Not both in memory at once.
        *last = None;
        let volume = Arc::new(LabelledVolume::read(&cut)?);
        *last = Some((cut, Arc::clone(&volume)));
        Ok(volume)
    }
}

fn frame(entry: &Entry) -> Result<(Image, Option<[f64; 2]>)> {
    let mut scan = scan(&entry.image)?;
    let n_frames = scan.frames.len();
    let frame = match (entry.slice, n_frames) {
        (None, 1) => 0,
        (Some(frame), n) if frame < n => frame,
        (None, n) => bail!(
            "{} has {n} frames: name one in the list's column slice",
            entry.image.display()
        ),
        (Some(frame), n) => {
            bail!("slice is {frame}, {} has {n} frames", entry.image.display())
        }
    };
    Ok((scan.frames.swap_remove(frame), scan.spacing.of(frame)))
}

fn scan(path: &Path) -> Result<Scan> {
    let bytes =
        std::fs::read(path).with_context(|| format!("cannot read image {}", path.display()))?;
    let decoded = decode(&bytes, &Limits::STANDARD).map_err(|error| match error {
        DecodeError::OtherFormat { name } => {
            anyhow!(
                "the content is {name}; convert it to DICOM, PNG, TIFF or NIfTI-1 (.nii, .nii.gz)"
            )
        }
        other => other.into(),
    });
    decoded.with_context(|| format!("cannot decode image {}", path.display()))
}

fn ensure_same_size(entry: &Entry, image: &Image, labels: &LabelMap) -> Result<()> {
    ensure!(
        (image.rows, image.cols) == (labels.rows, labels.cols),
        "image {} has {} x {} px (rows x columns), its labels {} have {} x {} px: \
         labels must have the image's native size",
        entry.image.display(),
        image.rows,
        image.cols,
        entry.labels.display(),
        labels.rows,
        labels.cols,
    );
    Ok(())
}

fn place(entry: &Entry) -> Place {
    (entry.image.clone(), entry.slice, entry.plane)
}

fn name_of(root: &Path, entry: &Entry) -> String {
    let path = relative(root, &entry.image);
    match (entry.slice, entry.plane) {
        (Some(slice), Some(plane)) => format!("{path}#{}-{slice}", plane.name()),
        (Some(slice), None) => format!("{path}#{slice}"),
        (None, _) => path,
    }
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
pub(crate) mod tests;
