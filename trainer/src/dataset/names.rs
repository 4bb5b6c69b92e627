//! File names: which labels belong to which image.
//!
//! Only the extensions of image formats are taken off. What stands behind the last dot of a DICOM file
//! may be the end of its UID, and then belongs to the name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// In lower case; longer ones before their endings.
const EXTENSIONS: [&str; 20] = [
    ".nii.gz", ".nii", ".dcm", ".dicom", ".ima", ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".tif",
    ".tiff", ".bmp", ".gif", ".webp", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy",
];
/// What exporters and file managers leave beside images.
const NO_IMAGES: [&str; 10] = [
    ".json", ".txt", ".md", ".csv", ".tsv", ".xml", ".bval", ".bvec", ".db", ".ini",
];
/// nnU-Net ends the names of images in the number of a channel: `X_0000.nii.gz` has the labels `X.nii.gz`.
const CHANNEL_DIGITS: usize = 4;

/// An image, its labels, and the name that both have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) image: PathBuf,
    pub(super) labels: PathBuf,
    pub(super) stem: String,
}

/// Case is ignored.
pub(super) fn extension_is(path: &Path, extension: &str) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    name.len() > extension.len() && name.ends_with(extension)
}

/// A file with the extension of an image format.
pub(super) fn is_named_as_image(path: &Path) -> bool {
    EXTENSIONS.iter().any(|it| extension_is(path, it))
}

/// A file that nobody means as an image.
pub(super) fn is_beside_the_point(path: &Path) -> bool {
    NO_IMAGES.iter().any(|it| extension_is(path, it))
}

/// File name without the extension of an image format.
pub(super) fn stem_of(path: &Path) -> String {
    let name = file_name(path);
    let extension = EXTENSIONS.iter().find(|it| extension_is(path, it));
    let length = name.len() - extension.map_or(0, |it| it.len());
    name[..length].to_owned()
}

pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Files by a key of theirs. Two files of one key are an error only when somebody asks for it.
pub(super) struct Named(BTreeMap<String, Vec<PathBuf>>);

impl Named {
    pub(super) fn new(files: &[PathBuf], key: impl Fn(&Path) -> String) -> Self {
        let mut named: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for file in files {
            named.entry(key(file)).or_default().push(file.clone());
        }
        Self(named)
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<&PathBuf>> {
        match self.0.get(key).map(Vec::as_slice) {
            None => Ok(None),
            Some([only]) => Ok(Some(only)),
            Some(several) => bail!(
                "{} have one name, {key:?}, so it is not clear which is meant: keep one of them",
                listed(several)
            ),
        }
    }
}

/// Pairs each image with its labels. Names count in this order: the same path below the two folders, the
/// image's path with its extension, or without nnU-Net's channel number, and the same file name in another
/// folder, where no other image and no other label file has it.
pub(super) fn pair(images: (&Path, &[PathBuf]), labels: (&Path, &[PathBuf])) -> Result<Vec<Match>> {
    let by_path = Named::new(labels.1, |path| below(labels.0, path, stem_of(path)));
    let by_name = Named::new(labels.1, stem_of);
    let mut owners: BTreeMap<&PathBuf, Vec<PathBuf>> = BTreeMap::new();
    let mut matches = Vec::new();
    let mut left = Vec::new();
    for image in images.1 {
        let (stem, whole) = (stem_of(image), file_name(image));
        let mut found = by_path.get(&below(images.0, image, stem.clone()))?;
        if found.is_none() {
            found = by_path.get(&below(images.0, image, whole))?;
        }
        match found {
            Some(found) => {
                owners.entry(found).or_default().push(image.clone());
                matches.push((image, found, stem));
            }
            None => left.push(image),
        }
    }
    let taken: BTreeSet<&PathBuf> = owners.keys().copied().collect();
    for image in left {
        let mut stem = stem_of(image);
        let mut found = None;
        if let Some(short) = without_channel(&stem) {
            let length = short.len();
            found = by_path.get(&below(images.0, image, short.to_owned()))?;
            found = found.filter(|it| !taken.contains(it));
            if found.is_some() {
                stem.truncate(length);
            }
        }
        if found.is_none() {
            found = by_name.get(&stem)?.filter(|it| !taken.contains(it));
        }
        let Some(found) = found else {
            bail!(
                "image {} has no labels in {}",
                image.display(),
                labels.0.display()
            );
        };
        owners.entry(found).or_default().push(image.clone());
        matches.push((image, found, stem));
    }
    for (labels, images) in &owners {
        refuse_several(labels, images)?;
    }
    let unused = labels.1.iter().filter(|it| !owners.contains_key(it));
    for labels in unused {
        tracing::warn!(file = %labels.display(), "labels have no image and are left out");
    }
    let matches = matches.into_iter().map(|(image, labels, stem)| Match {
        image: image.clone(),
        labels: labels.clone(),
        stem,
    });
    Ok(matches.collect())
}

fn refuse_several(labels: &Path, images: &[PathBuf]) -> Result<()> {
    if images.len() < 2 {
        return Ok(());
    }
    let channels = images
        .iter()
        .all(|it| without_channel(&stem_of(it)).is_some());
    if channels {
        bail!(
            "{} are {} channels of one image (labels {}): several channels are not supported; keep the one to \
             train on in the folder",
            listed(images),
            images.len(),
            labels.display()
        );
    }
    bail!(
        "{} would all have the labels {}, so it is not clear which is meant: keep one of them",
        listed(images),
        labels.display()
    );
}

/// Path below the folder, with `name` for the file's.
fn below(folder: &Path, path: &Path, name: String) -> String {
    let parent = path.parent().unwrap_or(folder);
    let parent = parent.strip_prefix(folder).unwrap_or(parent);
    parent.join(name).to_string_lossy().into_owned()
}

fn without_channel(name: &str) -> Option<&str> {
    let (stem, digits) = name.rsplit_once('_')?;
    let number = digits.len() == CHANNEL_DIGITS && digits.bytes().all(|it| it.is_ascii_digit());
    (number && !stem.is_empty()).then_some(stem)
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|it| it.display().to_string()).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
