//! What was typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Encoder, Method, Scope};
use crate::dataset::Plane;
use crate::report::CODE_VERSION;

/// Fine-tune Segment Anything, distil it into a ViT-T and export a bundle for `scansided`.
#[derive(Debug, Parser)]
#[command(name = "trainer", version = CODE_VERSION)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make and inspect dataset lists.
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Fine-tune a SAM: the teacher.
    Finetune(FinetuneArgs),
    /// Distil a fine-tuned teacher into a ViT-T: the student.
    Distill(DistillArgs),
    /// Turn a run into two bundles, f32 and int8.
    Export(ExportArgs),
    /// Work with bundles.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Say what a checkpoint is, make it safetensors, fold LoRA into plain weights.
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Measure Dice and IoU of a run folder, a bundle, or a checkpoint with box prompts.
    Eval(EvalArgs),
}

#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// Index a folder of labelled images into a list (CSV) with patient-level splits.
    Index {
        /// Folder with PATIENT/dicom + PATIENT/label, images + masks, or imagesTr + labelsTr.
        root: PathBuf,
        /// Where the list goes.
        #[arg(long)]
        out: PathBuf,
        /// Patients of each split; a suffix of the id is enough.
        #[arg(long, value_delimiter = ',')]
        train: Vec<String>,
        #[arg(long, value_delimiter = ',')]
        validation: Vec<String>,
        #[arg(long, value_delimiter = ',')]
        test: Vec<String>,
        /// Without patients: seed of the random 70 / 15 / 15 split.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How volumes are cut into slices. Without it as they were acquired: across the thickest voxels, axial where
        /// none are.
        #[arg(long, value_enum)]
        plane: Option<Plane>,
    },
    /// Write synthetic labelled cardiac MR: DICOM files, label PNGs and OUT/list.csv.
    Phantom {
        /// Folder to write.
        out: PathBuf,
        /// How many patients.
        #[arg(long, default_value_t = 16)]
        patients: usize,
        /// Frames of each patient, spread over slices and phases.
        #[arg(long, default_value_t = 6)]
        frames: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Rows and columns.
        #[arg(long, default_value_t = phantom::SIZE)]
        size: usize,
    },
    /// Count images, patients and label values of a list.
    Show { list: PathBuf },
}

/// Where the configuration comes from; the same for every training command.
#[derive(Debug, Args)]
pub struct Recipe {
    /// Recipe file: what differs from config/train.toml.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// `key.path=value` in TOML syntax; wins over the recipe.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Run folder.
    #[arg(long)]
    pub run: PathBuf,
    /// Go on with an interrupted run.
    #[arg(long)]
    pub resume: bool,
    /// Print the resolved configuration, what trains and how long an epoch is; start nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct FinetuneArgs {
    #[command(flatten)]
    pub recipe: Recipe,
    /// Wins over `model.encoder`.
    #[arg(long)]
    pub encoder: Option<Encoder>,
    /// Wins over `finetune.scope`.
    #[arg(long)]
    pub scope: Option<Scope>,
    /// Wins over `finetune.method`.
    #[arg(long)]
    pub method: Option<Method>,
    /// Reproduce finetune-SAM, its defects included.
    #[arg(long)]
    pub strict_reference: bool,
}

#[derive(Debug, Args)]
pub struct DistillArgs {
    #[command(flatten)]
    pub recipe: Recipe,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SplitArg {
    Train,
    Validation,
    Test,
    All,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Run folder, bundle folder or .tar, or with --boxes a checkpoint file.
    pub subject: PathBuf,
    /// Dataset lists.
    #[arg(long, required = true)]
    pub list: Vec<PathBuf>,
    #[arg(long, value_enum, default_value_t = SplitArg::Test)]
    pub split: SplitArg,
    /// Prompt with the ground-truth box, wider by so many px on each side; for promptable checkpoints.
    #[arg(long, value_name = "MARGIN_PX")]
    pub boxes: Option<f32>,
    /// Keys of [input] to change, as `input.window="min_max"`, for a checkpoint; a run and a bundle have their own.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "boxes")]
    pub overrides: Vec<String>,
    /// Label value that counts as foreground, for a bundle or checkpoint (a run knows its own).
    #[arg(long, default_value_t = 1)]
    pub class: u8,
    /// Every label value above 0 counts as foreground.
    #[arg(long, conflicts_with = "class")]
    pub combine: bool,
    /// Multiply a bundle's f32 in 16 bits, as a daemon with `models.half_precision` does.
    #[arg(long, conflicts_with = "boxes")]
    pub half_precision: bool,
    /// Also write the report as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Also write the predicted label maps as PNG into this folder.
    #[arg(long)]
    pub masks: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Run folder of the student (or of a fine-tuned teacher).
    #[arg(long)]
    pub run: PathBuf,
    /// Folder for the bundles: OUT/f32 and OUT/int8.
    #[arg(long)]
    pub out: PathBuf,
    /// Keys of the configuration to change, as `export.name="x"`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Verify a bundle's digests and golden pair and print its manifest.
    Inspect { bundle: PathBuf },
    /// Pack a bundle folder into one .tar.
    Pack { bundle: PathBuf, out: PathBuf },
    /// Make a key pair to sign bundles with: FILE and FILE.pub, as the minisign tool has them.
    Keygen {
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Write the secret key as it is, for machines that sign without a person.
        #[arg(long)]
        no_password: bool,
    },
    /// Sign a bundle folder: writes manifest.minisig into it.
    Sign {
        bundle: PathBuf,
        /// Secret key of `keygen` or of the minisign tool.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Put this counter into the manifest first; a box takes no lower one than it had.
        #[arg(long)]
        counter: Option<u64>,
        /// And this version.
        #[arg(long)]
        version: Option<String>,
    },
    /// Say where the time of inference goes on this machine, operator by operator.
    Profile {
        bundle: PathBuf,
        /// Runs over the golden image, after five that do not count; times are those of the fastest.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
        /// Every node for itself.
        #[arg(long)]
        nodes: bool,
        /// Threads that multiply; 0: as many as the CPU has.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Passes of the loader to leave out, to see what they are worth: gelu, convolution, linear,
        /// window_attention, sum, activation, chain.
        #[arg(long, value_delimiter = ',', value_name = "PASS")]
        without: Vec<String>,
        /// Multiply f32 in 16 bits, as a daemon with `models.half_precision` does.
        #[arg(long)]
        half_precision: bool,
    },
    /// Write the network input and the logits of images (default: the golden one) as raw f32 files,
    /// for comparison with another runtime.
    Dump {
        bundle: PathBuf,
        /// Folder for N.input.f32 and N.logits.f32.
        out: PathBuf,
        /// PNG, JPEG, TIFF or DICOM files.
        images: Vec<PathBuf>,
    },
}

/// Where the weights come from.
#[derive(Debug, Args)]
pub struct WeightsSource {
    /// .pth, .pt, .safetensors or a run folder.
    pub file: PathBuf,
    /// Which of several state dicts in a .pth, as `state_dict` or `checkpoint.ema`.
    #[arg(long)]
    pub key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    /// Say which SAM a checkpoint is, what fits a network and what would start random.
    Inspect {
        #[command(flatten)]
        source: WeightsSource,
        /// Network to compare with; default: the file's own.
        #[arg(long)]
        encoder: Option<Encoder>,
        /// Its classes, background included; default: the file's own.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
        num_cls: Option<u16>,
    },
    /// Write a checkpoint's floating-point tensors as safetensors, under upstream's names.
    Convert {
        #[command(flatten)]
        source: WeightsSource,
        /// The .safetensors file to write.
        out: PathBuf,
        /// Replace OUT.
        #[arg(long)]
        force: bool,
    },
    /// Fold LoRA into the weights it updates, which makes plain weights of upstream's form.
    Merge {
        #[command(flatten)]
        source: WeightsSource,
        /// The .safetensors file to write.
        out: PathBuf,
        /// For a TinyViT of finetune-SAM: its updates lie on the first and last rows of qkv, not on
        /// each head's q and v. A run folder knows; the plain ViT needs no choice.
        #[arg(long)]
        reference_rows: bool,
        /// Replace OUT.
        #[arg(long)]
        force: bool,
    },
}
