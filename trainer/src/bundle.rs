//! A bundle on disk: graph, golden pair, sealed manifest. It appears under its name only after it was
//! opened again and has reproduced its own golden mask.

pub mod command;
mod sign;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use contract::bundle::{Bundle, ClassMask, GOLDEN_IMAGE, GOLDEN_MASK, MANIFEST, file_digest};
use contract::geometry::InputRules;
use contract::manifest::{Class, Kind, Output, Precision, Provenance, SCHEMA};
use contract::mask::Logits;
use contract::signature::SIGNATURE;
use contract::{Image, LabelMap, Manifest};
use segmenter::infer::{self, Probe};
use segmenter::{OpenOptions, Segmenter};
use tiff::encoder::colortype::{Gray32Float, RGB32Float};
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder};

use crate::onnx::OPSET;
use crate::onnx::automatic::{INPUT, OUTPUT};

const GRAPH: &str = "model.onnx";
const QUANTIZATION: &str = "quantization.json";

/// Everything that goes into a bundle.
#[derive(Debug, Clone)]
pub struct BundleSpec {
    pub name: String,
    pub version: String,
    pub counter: u64,
    pub licence: String,
    pub classes: Vec<Class>,
    pub input: InputRules,
    /// Side of the graph's logits, px.
    pub side: usize,
    pub precision: Precision,
    pub provenance: Provenance,
    /// The graph, serialized.
    pub onnx: Vec<u8>,
    /// Modality values.
    pub golden: Image,
    /// What quantization did, layer by layer, as JSON.
    pub quantization: Option<String>,
}

/// Opens a bundle, on request as a daemon with `models.half_precision` does.
pub fn open(path: &Path, half_precision: bool) -> Result<Segmenter> {
    ensure!(
        !half_precision || infer::half_precision().is_some(),
        "this CPU multiplies no numbers of 16 bits: leave --half-precision out"
    );
    let options = OpenOptions {
        half_precision,
        ..OpenOptions::default()
    };
    Ok(Segmenter::open_with(path, &options)?)
}

/// Writes the bundle folder `directory`, replacing an older bundle there.
pub fn write_bundle(directory: &Path, spec: &BundleSpec) -> Result<()> {
    if directory.exists() && !directory.join(MANIFEST).exists() {
        bail!(
            "{} exists and is no bundle: name another folder",
            directory.display()
        );
    }
    let parent = parent_of(directory);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let partial = sibling(directory, "partial")?;
    remove_all(&partial)?;
    fs::create_dir(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let written = fill(&partial, spec).and_then(|()| {
        Segmenter::open(&partial)
            .context("the new bundle does not open")
            .map(drop)
    });
    if let Err(error) = written {
        remove_all(&partial)?;
        return Err(error.context(format!("cannot write the bundle {}", directory.display())));
    }
    let old = sibling(directory, "old")?;
    remove_all(&old)?;
    if directory.exists() {
        fs::rename(directory, &old)
            .with_context(|| format!("cannot move {} aside", directory.display()))?;
    }
    fs::rename(&partial, directory)
        .with_context(|| format!("cannot put the bundle at {}", directory.display()))?;
    remove_all(&old)
}

fn fill(directory: &Path, spec: &BundleSpec) -> Result<()> {
    let labels = golden_mask(spec)?;
    ensure!(
        spec.classes
            .iter()
            .any(|class| labels.area_px(class.id) > 0),
        "the graph finds nothing in the golden image, so the pair would prove nothing: \
         train longer or give another golden image"
    );
    let masks: Vec<ClassMask> = spec
        .classes
        .iter()
        .map(|class| ClassMask {
            id: class.id,
            rle: labels.rle(class.id),
        })
        .collect();
    save(&directory.join(GRAPH), &spec.onnx)?;
    let golden = tiff(&spec.golden).context("cannot encode the golden image")?;
    save(&directory.join(GOLDEN_IMAGE), &golden)?;
    save(
        &directory.join(GOLDEN_MASK),
        serde_json::to_string_pretty(&masks)?.as_bytes(),
    )?;
    let quantization = spec.quantization.as_ref();
    if let Some(json) = quantization {
        save(&directory.join(QUANTIZATION), json.as_bytes())?;
    }
    let files = [GRAPH, GOLDEN_IMAGE, GOLDEN_MASK]
        .into_iter()
        .chain(quantization.map(|_| QUANTIZATION))
        .map(|name| Ok((name.to_owned(), file_digest(&directory.join(name))?)))
        .collect::<Result<_>>()?;
    let manifest = Manifest {
        schema: SCHEMA.to_owned(),
        name: spec.name.clone(),
        version: spec.version.clone(),
        counter: spec.counter,
        kind: Kind::Automatic {
            graph: GRAPH.to_owned(),
            input: INPUT.to_owned(),
            output: OUTPUT.to_owned(),
        },
        classes: spec.classes.clone(),
        input: spec.input,
        output: Output { side: spec.side },
        precision: spec.precision,
        opset: OPSET,
        licence: spec.licence.clone(),
        files,
        provenance: spec.provenance.clone(),
        digest: String::new(),
    };
    manifest.validate()?;
    save(
        &directory.join(MANIFEST),
        manifest.seal().to_json().as_bytes(),
    )
}

/// What this very graph makes of the golden image.
fn golden_mask(spec: &BundleSpec) -> Result<LabelMap> {
    let probe = Probe::open(&spec.onnx, spec.input.size, &[OUTPUT.to_owned()])
        .context("the exported graph does not load")?;
    let (chw, placement) = spec.input.prepare(&spec.golden);
    let logits = logits(&probe, &chw)?;
    ensure!(
        logits.classes == spec.classes.len() + 1,
        "the graph has {} classes with background, the bundle lists {} besides it",
        logits.classes,
        spec.classes.len()
    );
    Ok(placement.labels_from_logits(&logits))
}

/// TIFF with 32-bit floats: any modality value comes back as it was.
fn tiff(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let (cols, rows) = (u32::try_from(image.cols)?, u32::try_from(image.rows)?);
    let mut encoder =
        TiffEncoder::new(&mut bytes)?.with_compression(Compression::Deflate(DeflateLevel::Best));
    match image.channels {
        1 => encoder.write_image::<Gray32Float>(cols, rows, &image.data)?,
        _ => encoder.write_image::<RGB32Float>(cols, rows, &image.data)?,
    }
    Ok(bytes.into_inner())
}

/// The logits of a graph that was opened with [`OUTPUT`] as its only output.
pub fn logits(probe: &Probe, chw: &[f32]) -> Result<Logits> {
    let mut arrays = probe.run(chw).context("the exported graph does not run")?;
    let array = arrays.pop().context("the graph gave no output")?;
    let &[1, classes, rows, cols] = array.shape.as_slice() else {
        bail!(
            "the graph's {} have the shape {:?}, expected (1, C, h, w)",
            array.name,
            array.shape
        );
    };
    Ok(Logits {
        classes,
        rows,
        cols,
        data: array.data,
    })
}

/// Puts measured Dice values into the manifest of a bundle and seals it again.
pub fn record_dice(directory: &Path, dice: &BTreeMap<String, f64>) -> Result<()> {
    let mut manifest = Bundle::open(directory)?.manifest;
    manifest.provenance.dice.extend(dice.clone());
    replace_manifest(directory, manifest).map(drop)
}

/// Seals a changed manifest and puts it in place of the one that is there, whose signature goes.
fn replace_manifest(directory: &Path, manifest: Manifest) -> Result<Manifest> {
    match fs::remove_file(directory.join(SIGNATURE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| {
                format!("cannot remove the old signature of {}", directory.display())
            });
        }
        _ => {}
    }
    let manifest = manifest.seal();
    let partial = directory.join(format!(".{MANIFEST}.partial"));
    save(&partial, manifest.to_json().as_bytes())?;
    fs::rename(&partial, directory.join(MANIFEST))
        .with_context(|| format!("cannot replace the manifest of {}", directory.display()))?;
    Ok(manifest)
}

/// Packs a bundle folder, with its signature if there is one, into one `.tar`, the same bytes every time.
pub fn pack(directory: &Path, out: &Path) -> Result<()> {
    let bundle = Bundle::open(directory)?;
    let folder = parent_of(out);
    ensure!(
        folder.is_dir(),
        "{}: there is no folder {}; make it first",
        out.display(),
        folder.display()
    );
    let partial = sibling(out, "partial")?;
    let file =
        File::create(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let mut archive = tar::Builder::new(file);
    let names = bundle.manifest.files.keys().map(String::as_str);
    let signature = bundle.path(SIGNATURE).exists().then_some(SIGNATURE);
    for name in [MANIFEST].into_iter().chain(signature).chain(names) {
        let path = bundle.path(name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive
            .append_data(&mut header, name, bytes.as_slice())
            .with_context(|| format!("cannot add {name} to {}", partial.display()))?;
    }
    archive.into_inner()?.sync_all()?;
    fs::rename(&partial, out)
        .with_context(|| format!("cannot put the archive at {}", out.display()))
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn parent_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// `.NAME.suffix` beside `path`.
fn sibling(path: &Path, suffix: &str) -> Result<PathBuf> {
    let name = path
        .file_name()
        .with_context(|| format!("{} names nothing", path.display()))?;
    Ok(parent_of(path).join(format!(".{}.{suffix}", name.to_string_lossy())))
}

fn remove_all(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use contract::geometry::Fit;
    use contract::intensity::{Normalize, Window};
    use contract::signature::TrustedKeys;
    use ct_codecs::{Base64, Decoder, Encoder};
    use nets::tiny_vit::Stem;

    use super::sign::Release;
    use super::*;
    use crate::onnx::testing::{SIZE, config, image, random_state};
    use crate::onnx::{lower_automatic, serialize};
    use nets::ops::Activation;

    fn spec() -> BundleSpec {
        let lowered = lower_automatic(
            &random_state(&config(Stem::Stride4)),
            Activation::Gelu,
            SIZE,
        )
        .unwrap();
        let golden = image(0.0)[..SIZE * SIZE]
            .iter()
            .map(|x| 900.0 * x - 20.0)
            .collect();
        let class = |id: u8| Class {
            id,
            label: format!("class {id}"),
            snomed: None,
            color: [id; 3],
        };
        BundleSpec {
            name: "small".into(),
            version: "0.1.0".into(),
            counter: 1,
            licence: "Apache-2.0".into(),
            classes: vec![class(1), class(2)],
            input: InputRules {
                size: SIZE,
                fit: Fit::Stretch,
                window: Window::MinMax,
                normalize: Normalize::MinMax,
            },
            side: lowered.side,
            precision: Precision::F32,
            provenance: Provenance {
                command: "test".into(),
                recipe_digest: String::new(),
                data_fingerprint: String::new(),
                teacher: String::new(),
                dice: BTreeMap::new(),
                code_version: "0".into(),
            },
            onnx: serialize(&lowered.model),
            golden: Image {
                rows: SIZE,
                cols: SIZE,
                channels: 1,
                data: golden,
            },
            quantization: None,
        }
    }

    #[test]
    fn a_written_bundle_opens_and_a_second_one_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zoo/small");
        write_bundle(&path, &spec()).unwrap();
        write_bundle(
            &path,
            &BundleSpec {
                counter: 2,
                ..spec()
            },
        )
        .unwrap();
        let segmenter = Segmenter::open(&path).unwrap();
        assert_eq!(segmenter.manifest().counter, 2);
        let beside: Vec<_> = fs::read_dir(folder.path().join("zoo")).unwrap().collect();
        assert_eq!(beside.len(), 1, "{beside:?}");
    }

    #[test]
    fn the_golden_image_keeps_fractions_and_negative_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        let mut spec = spec();
        spec.input.window = Window::Level {
            center: 40.0,
            width: 400.0,
        };
        spec.golden
            .data
            .iter_mut()
            .for_each(|value| *value -= 300.25);
        write_bundle(&path, &spec).unwrap();
        let bytes = Bundle::open(&path).unwrap().read(GOLDEN_IMAGE).unwrap();
        let scan = segmenter::decode::decode(&bytes, &segmenter::decode::Limits::STANDARD);
        assert_eq!(scan.unwrap().frames, [spec.golden]);
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let error = write_bundle(folder.path(), &spec()).unwrap_err();
        assert!(error.to_string().contains("is no bundle"), "{error}");
        assert!(folder.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_broken_graph_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        let broken = BundleSpec {
            onnx: spec().onnx[..1000].to_vec(),
            ..spec()
        };
        assert!(write_bundle(&path, &broken).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn dice_is_recorded_under_a_new_seal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        write_bundle(&path, &spec()).unwrap();
        record_dice(&path, &BTreeMap::from([("f32 tract test".into(), 0.875)])).unwrap();
        let manifest = Bundle::open(&path).unwrap().manifest;
        assert_eq!(
            manifest.provenance.dice,
            BTreeMap::from([("f32 tract test".into(), 0.875)])
        );
    }

    #[test]
    fn an_archive_opens_and_is_the_same_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        write_bundle(&path, &spec()).unwrap();
        let archives = ["a.tar", "b.tar"].map(|name| folder.path().join(name));
        for archive in &archives {
            pack(&path, archive).unwrap();
        }
        assert_eq!(
            fs::read(&archives[0]).unwrap(),
            fs::read(&archives[1]).unwrap()
        );
        assert_eq!(
            Segmenter::open(&archives[0]).unwrap().manifest().name,
            "small"
        );
    }

    #[test]
    fn a_release_gets_its_counter_and_version_when_it_is_signed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("small"), folder.path().join("box.key"));
        write_bundle(&path, &spec()).unwrap();
        sign::keygen(&key, true).unwrap();
        let public = fs::read_to_string(folder.path().join("box.key.pub")).unwrap();
        let keys = TrustedKeys::parse(&[public.lines().nth(1).unwrap()]).unwrap();
        let release = |counter, version| Release {
            counter: Some(counter),
            version: Some(version),
        };
        // The second time over a signature that is there.
        for (counter, version) in [(2, "0.2.0"), (7, "1.0.0-rc.1"), (7, "1.0.0")] {
            sign::sign(&path, &key, &release(counter, version)).unwrap();
            let manifest = Bundle::open_signed(&path, &keys).unwrap().manifest;
            assert_eq!((manifest.counter, &*manifest.version), (counter, version));
            let signature = fs::read_to_string(path.join(SIGNATURE)).unwrap();
            let comment = format!("small {version} counter {counter}");
            assert!(signature.contains(&comment), "{signature}");
        }
        Segmenter::open(&path).unwrap();

        let before = fs::read(path.join(MANIFEST)).unwrap();
        for (release, words) in [
            (release(6, "1.0.1"), "--counter 6: the bundle has 7 already"),
            (release(8, " "), "--version \" \""),
            (release(8, "1\n"), "--version"),
        ] {
            let error = sign::sign(&path, &key, &release).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        // A key that cannot be read changes nothing.
        let no_key = folder.path().join("no.key");
        sign::sign(&path, &no_key, &release(9, "2.0.0")).unwrap_err();
        assert_eq!(fs::read(path.join(MANIFEST)).unwrap(), before);
        Bundle::open_signed(&path, &keys).unwrap();
    }

    #[test]
    fn a_bundle_that_is_not_there_is_said_to_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (
            folder.path().join("hart.tar"),
            folder.path().join("box.key"),
        );
        for error in [
            pack(&path, &folder.path().join("out.tar")).unwrap_err(),
            sign::sign(&path, &key, &Release::default()).unwrap_err(),
            open(&path, false).err().unwrap(),
        ] {
            let text = format!("{error:#}");
            assert!(
                text.contains("hart.tar: cannot be read, nothing is there"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_signed_bundle_opens_for_who_trusts_the_key_and_an_edit_ends_that() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("small"), folder.path().join("box.key"));
        write_bundle(&path, &spec()).unwrap();
        sign::keygen(&key, true).unwrap();
        assert!(sign::keygen(&key, true).is_err(), "a key is never replaced");
        let public = fs::read_to_string(folder.path().join("box.key.pub")).unwrap();
        let keys = TrustedKeys::parse(&[public.lines().nth(1).unwrap()]).unwrap();
        let unsigned = Bundle::open_signed(&path, &keys).unwrap_err().to_string();
        assert!(unsigned.contains("is missing"), "{unsigned}");
        sign::sign(&path, &key, &Release::default()).unwrap();
        let archive = folder.path().join("a.tar");
        pack(&path, &archive).unwrap();
        let options = OpenOptions {
            keys: Some(&keys),
            half_precision: false,
        };
        Segmenter::open_with(&archive, &options).unwrap();

        // As the minisign tool writes a key without a password: no checksum.
        let text = fs::read_to_string(&key).unwrap();
        let (comment, line) = text.split_once('\n').unwrap();
        let mut bytes = Base64::decode_to_vec(line.trim(), None).unwrap();
        let whole = bytes.len() - 32;
        bytes[whole..].fill(0);
        let line = Base64::encode_to_string(&bytes).unwrap();
        fs::write(&key, format!("{comment}\n{line}\n")).unwrap();
        sign::sign(&path, &key, &Release::default()).unwrap();
        Bundle::open_signed(&path, &keys).unwrap();
        fs::write(&key, format!("{comment}\n{}\n", &line[..20])).unwrap();
        let error = sign::sign(&path, &key, &Release::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("is no minisign secret key"), "{error}");

        let manifest = path.join(MANIFEST);
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("small", "swall")).unwrap();
        let edited = Bundle::open_signed(&path, &keys).unwrap_err().to_string();
        assert!(edited.contains("does not belong"), "{edited}");
        fs::write(&manifest, text).unwrap();
        record_dice(&path, &BTreeMap::new()).unwrap();
        assert!(!path.join(SIGNATURE).exists());
    }
}
