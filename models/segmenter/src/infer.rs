//! The graph, run by tract, which only this file and its folder name.

mod lowering;
mod ops;
pub mod profile;
mod threads;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::Manifest;
use contract::manifest::Kind;
use contract::mask::Logits;
use tract_onnx::prelude::*;

pub use lowering::{LoadOptions, half_precision, passes};
pub use threads::{alone, set_threads};

#[derive(Debug, thiserror::Error)]
pub enum InferError {
    #[error("{}: cannot be read: {source}; check the bundle's files", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the graph cannot be loaded: {detail}; export the bundle again")]
    Load { detail: String },
    #[error(
        "the graph's input is {found:?}, the manifest names {expected:?}; export the bundle again"
    )]
    InputName {
        expected: String,
        found: Vec<String>,
    },
    #[error("the graph takes {expected} values, the image has {found}; give 3 x size x size")]
    InputLength { expected: usize, found: usize },
    #[error("the graph failed: {detail}; run the bundle's self-test")]
    Run { detail: String },
    #[error(
        "the graph gives {found:?}, the manifest promises {expected:?}; export the bundle again"
    )]
    OutputShape {
        expected: [usize; 4],
        found: Vec<usize>,
    },
    #[error("the graph gives values that are no finite numbers; export the bundle again")]
    NotFinite,
}

impl InferError {
    /// Stable code for messages and quarantine.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Read { .. } => "graph_unreadable",
            Self::Load { .. } => "graph_broken",
            Self::InputName { .. } => "graph_input",
            Self::InputLength { .. } => "input_length",
            Self::Run { .. } => "inference_failed",
            Self::OutputShape { .. } => "output_shape",
            Self::NotFinite => "output_not_finite",
        }
    }
}

type Plan = Arc<TypedRunnableModel>;

/// A loaded automatic graph: image (1, 3, size, size) -> class logits (1, classes + 1, side, side).
pub struct Graph {
    plan: Plan,
    size: usize,
    output: [usize; 4],
}

impl Graph {
    /// Maps `path` and loads it with the input size, class count and output side of `manifest`.
    pub fn open(path: &Path, manifest: &Manifest) -> Result<Self, InferError> {
        Self::open_with(path, manifest, &LoadOptions::default())
    }

    /// The same in another way than the usual one.
    pub fn open_with(
        path: &Path,
        manifest: &Manifest,
        options: &LoadOptions,
    ) -> Result<Self, InferError> {
        let read = |source| InferError::Read {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        #[expect(
            unsafe_code,
            reason = "a graph of many megabytes is parsed without a copy of it"
        )]
        // SAFETY: the map is read only and dropped before this function returns. A bundle's files
        // are replaced by rename, never written in place; another process that truncated the file
        // in these milliseconds would end this one with a bus error, not with wrong masks.
        let onnx = unsafe { memmap2::Mmap::map(&file) }.map_err(read)?;
        let Kind::Automatic { input, output, .. } = &manifest.kind;
        let size = manifest.input.size;
        let outputs = [output.clone()];
        let plan = load(&onnx, size, Some(input), &outputs, options)?;
        let side = manifest.output.side;
        Ok(Self {
            plan,
            size,
            output: [1, manifest.classes.len() + 1, side, side],
        })
    }

    /// `chw` is 3 x size x size, as `InputRules::prepare` gives it.
    pub fn run(&self, chw: &[f32]) -> Result<Logits, InferError> {
        let mut outputs = run(&self.plan, self.size, chw)?;
        let (shape, data) = outputs.swap_remove(0);
        if shape != self.output {
            return Err(InferError::OutputShape {
                expected: self.output,
                found: shape,
            });
        }
        if !data.iter().all(|value| value.is_finite()) {
            return Err(InferError::NotFinite);
        }
        let [_, classes, rows, cols] = self.output;
        Ok(Logits {
            classes,
            rows,
            cols,
            data,
        })
    }
}

/// A named output of a [`Probe`].
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// A model loaded once with chosen outputs (inner tensors too), for calibration and parity checks.
pub struct Probe {
    plan: Plan,
    size: usize,
    names: Vec<String>,
}

impl Probe {
    /// `onnx` with its image input fixed to (1, 3, size, size) and these tensors as outputs.
    pub fn open(onnx: &[u8], size: usize, output_names: &[String]) -> Result<Self, InferError> {
        let plan = load(onnx, size, None, output_names, &LoadOptions::default())?;
        Ok(Self {
            plan,
            size,
            names: output_names.to_vec(),
        })
    }

    /// One array for each output name, in the order given to `open`.
    pub fn run(&self, chw: &[f32]) -> Result<Vec<Array>, InferError> {
        let outputs = run(&self.plan, self.size, chw)?;
        let named = self.names.iter().zip(outputs);
        let arrays = named.map(|(name, (shape, data))| Array {
            name: name.clone(),
            shape,
            data,
        });
        Ok(arrays.collect())
    }
}

fn load(
    onnx: &[u8],
    size: usize,
    input: Option<&String>,
    outputs: &[String],
    options: &LoadOptions,
) -> Result<Plan, InferError> {
    // tract asserts on some malformed graphs; a bad bundle must not end the daemon.
    let guarded = |options: &LoadOptions| {
        catch_unwind(AssertUnwindSafe(|| {
            load_unguarded(onnx, size, input, outputs, options)
        }))
        .unwrap_or_else(|_| {
            Err(InferError::Load {
                detail: "tract panicked on it".into(),
            })
        })
    };
    // A graph of another maker may look like what a pass is for and have other shapes: it runs as it is.
    guarded(options).or_else(|_| {
        guarded(&LoadOptions {
            without: passes().map(String::from).collect(),
            ..options.clone()
        })
    })
}

fn load_unguarded(
    onnx: &[u8],
    size: usize,
    input: Option<&String>,
    outputs: &[String],
    options: &LoadOptions,
) -> Result<Plan, InferError> {
    let broken = |error: TractError| InferError::Load {
        detail: format!("{error:#}"),
    };
    let mut bytes = onnx;
    let reader = lowering::reader();
    let mut proto = reader.proto_model_for_read(&mut bytes).map_err(broken)?;
    let image = [1, 3, size, size];
    let operations = proto.graph.as_mut().map_or_else(Default::default, |graph| {
        lowering::fuse(graph, &image, outputs, options)
    });
    let mut model = reader.model_for_proto_model(&proto).map_err(broken)?;
    lowering::fill(&mut model, &operations);
    let names: Vec<String> = model
        .inputs
        .iter()
        .map(|outlet| model.nodes[outlet.node].name.clone())
        .collect();
    if let Some(expected) = input
        && names != [expected.as_str()]
    {
        return Err(InferError::InputName {
            expected: expected.clone(),
            found: names,
        });
    }
    let fact = f32::fact(image);
    model.set_input_fact(0, fact.into()).map_err(broken)?;
    model.select_outputs_by_name(outputs).map_err(broken)?;
    model
        .into_typed()
        .and_then(lowering::lower)
        .and_then(TypedModel::into_optimized)
        .and_then(IntoRunnable::into_runnable)
        .map_err(broken)
}

/// Shape and values.
type Plain = (Vec<usize>, Vec<f32>);

/// The outputs.
fn run(plan: &Plan, size: usize, chw: &[f32]) -> Result<Vec<Plain>, InferError> {
    let input = image_tensor(size, chw)?;
    threads::on_one(|| {
        let outputs = plan.run(tvec!(input.into()));
        let outputs = outputs.map_err(|error| InferError::Run {
            detail: format!("{error:#}"),
        })?;
        outputs.iter().map(plain).collect()
    })
}

fn image_tensor(size: usize, chw: &[f32]) -> Result<Tensor, InferError> {
    let expected = 3 * size * size;
    if chw.len() != expected {
        return Err(InferError::InputLength {
            expected,
            found: chw.len(),
        });
    }
    Tensor::from_shape(&[1, 3, size, size], chw).map_err(|error| InferError::Run {
        detail: format!("{error:#}"),
    })
}

/// Integer tensors become f32.
fn plain(value: &TValue) -> Result<Plain, InferError> {
    let failed = |error: TractError| InferError::Run {
        detail: format!("{error:#}"),
    };
    let tensor = value.cast_to::<f32>().map_err(failed)?;
    let view = tensor.try_as_plain_ram().map_err(failed)?;
    let data = view.as_slice::<f32>().map_err(failed)?.to_vec();
    Ok((value.shape().to_vec(), data))
}
