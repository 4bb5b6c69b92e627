//! The list file: which image has which labels, whose it is, and its split.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use csv::{ReaderBuilder, StringRecord, Trim};

use super::entry::{Entry, Split};
use super::grid::Plane;
use super::names::stem_of;

/// The last is written only where a plane was named.
const HEADER: [&str; 6] = ["image", "labels", "patient", "split", "slice", "plane"];

pub(super) fn folder_of(list: &Path) -> PathBuf {
    match list.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

pub(super) fn read(list: &Path) -> Result<Vec<Entry>> {
    let root = folder_of(list);
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_path(list)
        .with_context(|| format!("cannot read list {}", list.display()))?;
    let records: Vec<StringRecord> = reader
        .records()
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is not a CSV file", list.display()))?;
    let (first, rest) = records
        .split_first()
        .with_context(|| format!("list {} is empty", list.display()))?;
    let headed = first.get(0) == Some(HEADER[0]);
    let rows = if headed { rest } else { &records };
    rows.iter()
        .map(|row| {
            if headed {
                own_row(&root, first, row)
            } else {
                reference_row(list, row)
            }
        })
        .zip(rows)
        .map(|(entry, row)| {
            let line = row.position().map_or(0, csv::Position::line);
            entry.with_context(|| format!("{} line {line}", list.display()))
        })
        .collect()
}

fn own_row(root: &Path, header: &StringRecord, row: &StringRecord) -> Result<Entry> {
    let field = |name: &str| {
        let column = header.iter().position(|title| title == name);
        column
            .and_then(|column| row.get(column))
            .filter(|text| !text.is_empty())
    };
    let required = |name: &str| {
        field(name).with_context(|| {
            format!("no {name}: a list has the columns image,labels,patient,split[,slice[,plane]]")
        })
    };
    let split = match required("split")? {
        "train" => Split::Train,
        "validation" | "val" => Split::Validation,
        "test" => Split::Test,
        other => bail!("split is {other:?}: write train, validation or test"),
    };
    let slice = field("slice")
        .map(|text| {
            text.parse()
                .with_context(|| format!("slice is {text:?}, not a number"))
        })
        .transpose()?;
    let plane = field("plane")
        .map(|text| {
            Plane::from_str(text, false).map_err(|_| {
                anyhow!("plane is {text:?}: write axial, coronal or sagittal, or nothing for the one of the acquisition")
            })
        })
        .transpose()?;
    Ok(Entry {
        image: root.join(required("image")?),
        labels: root.join(required("labels")?),
        patient: required("patient")?.to_owned(),
        split,
        slice,
        plane,
    })
}

/// The reference names no patient and no split: the first folder below `images` (or the file name)
/// stands for the one, the list's own name (`train...`, `val...`, `test...`) for the other.
fn reference_row(list: &Path, row: &StringRecord) -> Result<Entry> {
    ensure!(
        row.len() == 2 && row.iter().all(|text| !text.is_empty()),
        "{} fields: write image_path,mask_path, or give the list the header {}",
        row.len(),
        HEADER[..5].join(",")
    );
    let root = folder_of(list);
    let image = locate(&root, Path::new(&row[0]));
    let labels = locate(&root, Path::new(row[1].trim_start_matches('/')));
    let stem = list
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_lowercase());
    let split = match stem.as_deref() {
        Some(stem) if stem.starts_with("val") => Split::Validation,
        Some(stem) if stem.starts_with("test") => Split::Test,
        _ => Split::Train,
    };
    let below_images: Vec<Component<'_>> = image
        .strip_prefix(&root)
        .unwrap_or(&image)
        .components()
        .skip_while(|part| part.as_os_str() != "images")
        .skip(1)
        .collect();
    let patient = match below_images.as_slice() {
        [folder, _, ..] => folder.as_os_str().to_string_lossy().into_owned(),
        _ => stem_of(&image),
    };
    Ok(Entry {
        image,
        labels,
        patient,
        split,
        slice: None,
        plane: None,
    })
}

/// Paths in the reference's lists start with the data set's folder, in which the list may lie.
fn locate(root: &Path, path: &Path) -> PathBuf {
    let direct = root.join(path);
    if direct.exists() {
        return direct;
    }
    let mut parts = path.components();
    parts.next();
    let inside = root.join(parts.as_path());
    if inside.exists() { inside } else { direct }
}

/// Writes `list`; paths are relative to its folder where the files lie below it, absolute elsewhere.
pub fn write_list(entries: &[Entry], list: &Path) -> Result<()> {
    let folder = folder_of(list);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create folder {}", folder.display()))?;
    let folder = folder.canonicalize().context("the list's folder")?;
    let mut writer = csv::Writer::from_path(list)
        .with_context(|| format!("cannot write list {}", list.display()))?;
    let with_plane = entries.iter().any(|entry| entry.plane.is_some());
    let n_columns = HEADER.len() - usize::from(!with_plane);
    writer.write_record(&HEADER[..n_columns])?;
    for entry in entries {
        let mut slice = String::new();
        if let Some(number) = entry.slice {
            write!(slice, "{number}")?;
        }
        let (image, labels) = (
            written(&folder, &entry.image)?,
            written(&folder, &entry.labels)?,
        );
        let fields = [
            image.as_str(),
            &labels,
            &entry.patient,
            entry.split.name(),
            &slice,
            entry.plane.map(Plane::name).unwrap_or_default(),
        ];
        writer.write_record(&fields[..n_columns])?;
    }
    writer
        .flush()
        .with_context(|| format!("cannot write list {}", list.display()))
}

fn written(folder: &Path, path: &Path) -> Result<String> {
    let full = path
        .canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))?;
    let shown = full.strip_prefix(folder).unwrap_or(&full);
    let text = shown
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}
