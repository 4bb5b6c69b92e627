//! A verified bundle with its graph loaded and its golden pair reproduced.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use contract::bundle::{Bundle, BundleError, ClassMask, GOLDEN_IMAGE, GOLDEN_MASK};
use contract::geometry::Placement;
use contract::manifest::Kind;
use contract::mask::{Logits, Overlap, RleError};
use contract::signature::TrustedKeys;
use contract::{Image, LabelMap, Manifest};
use tempfile::TempDir;

use crate::decode::{DecodeError, Limits, decode};
use crate::infer::profile::Profile;
use crate::infer::{Graph, InferError, LoadOptions, half_precision};
use crate::unpack::{UnpackError, unpack};

/// Processors round differently: a few boundary pixels may move, more means another network.
const GOLDEN_MIN_DICE: f64 = 0.99;
/// In a class of a few pixels one that moves is already more than that.
const GOLDEN_SLACK_PX: u64 = 4;

/// How long each stage of one image took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    pub preprocess: Duration,
    pub infer: Duration,
    pub postprocess: Duration,
}

/// What was made of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmented {
    /// At the image's native size.
    pub labels: LabelMap,
    pub timing: Timing,
    /// One value everywhere after the window: the network saw nothing.
    pub is_flat: bool,
}

/// One bundle, ready to segment.
pub struct Segmenter {
    bundle: Bundle,
    graph: Graph,
    half_precision: Option<&'static str>,
    /// Holds the files of a `.tar` as long as the golden pair may be asked for.
    _unpacked: Option<TempDir>,
}

/// How a bundle is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions<'a> {
    /// One of these has to have signed it.
    pub keys: Option<&'a TrustedKeys>,
    /// As [`LoadOptions::half_precision`].
    pub half_precision: bool,
}

/// What the golden self-test measured.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfTest {
    /// Class id, Dice between the computed and the expected mask; 1 when absent from both.
    pub dice: Vec<(u8, f64)>,
    pub timing: Timing,
}

#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    #[error("{0}")]
    Read(#[from] BundleError),
    #[error("{GOLDEN_IMAGE}: {0}")]
    Image(#[from] DecodeError),
    #[error("{GOLDEN_MASK}: {0}; export the bundle again")]
    Json(#[from] serde_json::Error),
    #[error("{GOLDEN_MASK}: class {class}: {source}; export the bundle again")]
    Mask { class: u8, source: RleError },
    #[error("{GOLDEN_MASK}: class {class} is not in manifest.json; export the bundle again")]
    Class { class: u8 },
    #[error("{GOLDEN_MASK} is empty, so it proves nothing; export the bundle again")]
    Empty,
    #[error("{0}")]
    Infer(#[from] InferError),
    #[error(
        "the golden image gives another mask than {GOLDEN_MASK}: class {class} has dice {dice:.4} \
         ({found_px} px, {expected_px} px expected), at least {GOLDEN_MIN_DICE} is required; \
         do not use this bundle on this machine, export it again"
    )]
    Mismatch {
        class: u8,
        dice: f64,
        found_px: u64,
        expected_px: u64,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Unpack(#[from] UnpackError),
    #[error("{0}")]
    Bundle(#[from] BundleError),
    #[error("{}: {source}", path.display())]
    Graph { path: PathBuf, source: InferError },
    #[error("{}: self-test: {source}", directory.display())]
    SelfTest {
        directory: PathBuf,
        source: Box<SelfTestError>,
    },
}

impl OpenError {
    /// Stable code for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unpack(_) => "bundle_unpack",
            Self::Bundle(BundleError::Unsigned { .. } | BundleError::Signature { .. }) => {
                "bundle_signature"
            }
            Self::Bundle(_) => "bundle_damaged",
            Self::Graph { .. } => "bundle_graph",
            Self::SelfTest { .. } => "bundle_self_test",
        }
    }
}

impl Segmenter {
    /// Opens a bundle directory or `.tar`, verifies every file, loads the graph and runs the self-test.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// The same in another way than the usual one.
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let (unpacked, directory) = if path.is_file() {
            let (holder, directory) = unpack(path)?;
            (Some(holder), directory)
        } else {
            (None, path.to_path_buf())
        };
        let bundle = match options.keys {
            Some(keys) => Bundle::open_signed(&directory, keys)?,
            None => Bundle::open(&directory)?,
        };
        let Kind::Automatic { graph, .. } = &bundle.manifest.kind;
        let onnx = bundle.path(graph);
        let half_precision = options.half_precision.then(half_precision).flatten();
        let loading = LoadOptions {
            half_precision: half_precision.is_some(),
            ..LoadOptions::default()
        };
        let graph = Graph::open_with(&onnx, &bundle.manifest, &loading)
            .map_err(|source| OpenError::Graph { path: onnx, source })?;
        let segmenter = Self {
            bundle,
            graph,
            half_precision,
            _unpacked: unpacked,
        };
        segmenter
            .self_test()
            .map_err(|source| OpenError::SelfTest {
                directory,
                source: Box::new(source),
            })?;
        Ok(segmenter)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.bundle.manifest
    }

    /// What f32 is multiplied as, "f16" or "bf16"; `None` where it is f32.
    pub fn half_precision(&self) -> Option<&'static str> {
        self.half_precision
    }

    /// Path of a file of the bundle, there for as long as `self`: an archive lies unpacked until then.
    pub fn path(&self, name: &str) -> PathBuf {
        self.bundle.path(name)
    }

    /// Segments the golden image and compares with the expected masks.
    pub fn self_test(&self) -> Result<SelfTest, SelfTestError> {
        let mut scan = decode(&self.bundle.read(GOLDEN_IMAGE)?, &Limits::STANDARD)?;
        let image = scan.frames.remove(0);
        let masks: Vec<ClassMask> = serde_json::from_slice(&self.bundle.read(GOLDEN_MASK)?)?;
        let mut expected = LabelMap::new(image.rows, image.cols);
        for mask in masks {
            let class = mask.id;
            if self
                .manifest()
                .classes
                .iter()
                .all(|known| known.id != class)
            {
                return Err(SelfTestError::Class { class });
            }
            mask.rle
                .paint(&mut expected, class)
                .map_err(|source| SelfTestError::Mask { class, source })?;
        }
        if expected.data.iter().all(|&label| label == 0) {
            return Err(SelfTestError::Empty);
        }
        let (found, timing) = self.segment(&image)?;
        let mut all = Vec::new();
        for class in self.manifest().classes.iter().map(|class| class.id) {
            let overlap = Overlap::of(&found, &expected, class);
            let dice = overlap.dice().unwrap_or(1.0);
            let moved_px = overlap.predicted + overlap.truth - 2 * overlap.intersection;
            if dice < GOLDEN_MIN_DICE && moved_px > GOLDEN_SLACK_PX {
                let (found_px, expected_px) = (overlap.predicted, overlap.truth);
                return Err(SelfTestError::Mismatch {
                    class,
                    dice,
                    found_px,
                    expected_px,
                });
            }
            all.push((class, dice));
        }
        Ok(SelfTest { dice: all, timing })
    }

    /// Class logits at the network's output grid, and where the image lies in the frame.
    pub fn logits(&self, image: &Image) -> Result<(Logits, Placement), InferError> {
        let (chw, placement) = self.manifest().input.prepare(image);
        Ok((self.graph.run(&chw)?, placement))
    }

    /// Where the time of inference goes, on the golden image; the graph is loaded once more without some of
    /// [`passes`](crate::infer::passes).
    pub fn profile(
        &self,
        runs: usize,
        by_node: bool,
        without: &[String],
    ) -> Result<Profile, SelfTestError> {
        let mut scan = decode(&self.bundle.read(GOLDEN_IMAGE)?, &Limits::STANDARD)?;
        let (chw, _) = self.manifest().input.prepare(&scan.frames.remove(0));
        let Kind::Automatic { graph, .. } = &self.manifest().kind;
        let loading = LoadOptions {
            without: without.to_vec(),
            half_precision: self.half_precision.is_some(),
        };
        let graph = Graph::open_with(&self.path(graph), self.manifest(), &loading)?;
        Ok(graph.profile(&chw, runs, by_node)?)
    }

    /// Label map at the image's native size.
    pub fn segment(&self, image: &Image) -> Result<(LabelMap, Timing), InferError> {
        let Segmented { labels, timing, .. } = self.segment_noting(image)?;
        Ok((labels, timing))
    }

    /// The same, and whether the network saw anything.
    pub fn segment_noting(&self, image: &Image) -> Result<Segmented, InferError> {
        let start = Instant::now();
        let input = &self.manifest().input;
        let (scaled, placement) = input.scaled(image);
        let next = scaled.data.iter().skip(scaled.channels);
        let mut pairs = scaled.data.iter().zip(next);
        let is_flat = pairs.all(|(one, next)| one.to_bits() == next.to_bits());
        let chw = input.normalized(scaled);
        let prepared = Instant::now();
        let logits = self.graph.run(&chw)?;
        let inferred = Instant::now();
        let labels = placement.labels_from_logits(&logits);
        let timing = Timing {
            preprocess: prepared - start,
            infer: inferred - prepared,
            postprocess: inferred.elapsed(),
        };
        Ok(Segmented {
            labels,
            timing,
            is_flat,
        })
    }
}
