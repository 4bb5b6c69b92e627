//! The trainer's programs on phantoms: a run that is interrupted and killed ends with the weights of
//! one that was left alone, and what is exported says what was trained.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

mod bad_input;
mod parallel;
mod students;

/// For a busy machine; every wait ends as soon as what it waits for is there.
const TIMEOUT: Duration = Duration::from_mins(3);

/// A ViT-T at 64 px from random weights: small enough to train for a few epochs.
const SMALL: [&str; 7] = [
    "seed=3",
    "data.lists=[\"list.csv\"]",
    "model.encoder=\"vit_t\"",
    "input.size=64",
    "finetune.epochs=4",
    // Eight batches: the last group is smaller.
    "finetune.accumulate=3",
    "finetune.ema=0.5",
];

fn trainer(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.current_dir(folder).args(arguments);
    command
}

fn words(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(error)
}

/// Runs to the end and gives what was said.
fn done(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = words(&output);
    assert!(output.status.success(), "{command:?}\n{said}");
    said
}

/// Runs into an error and gives what was said.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = words(&output);
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{said}");
    said
}

/// Phantoms of six patients, four of them for training.
fn phantoms() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    done(trainer(
        path,
        &[
            "dataset",
            "phantom",
            "phantom",
            "--patients",
            "6",
            "--frames",
            "2",
        ],
    ));
    let index = "dataset index phantom --train 0001,0002,0003,0004 --validation 0005 --test 0006 \
                 --out list.csv";
    done(trainer(path, &index.split_whitespace().collect::<Vec<_>>()));
    folder
}

fn with_settings(mut command: Command, settings: &[&str]) -> Command {
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

fn finetune(folder: &Path, run: &str) -> Command {
    with_settings(trainer(folder, &["finetune", "--run", run]), &SMALL)
}

fn distill(folder: &Path, run: &str) -> Command {
    let settings = [
        &SMALL[..],
        &[
            "distill.teacher=\"teacher\"",
            "distill.views=2",
            "distill.mask_epochs=2",
            "distill.batch=3",
        ],
    ]
    .concat();
    with_settings(trainer(folder, &["distill", "--run", run]), &settings)
}

fn steps(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    // The last line may be half written.
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["kind"] == "step")
        .collect()
}

fn wait_until(child: &mut Child, what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(child.try_wait().unwrap().is_none(), "ended before {what}");
        assert!(start.elapsed() < TIMEOUT, "no {what} in {TIMEOUT:?}");
        sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([name, &id])
            .status()
            .unwrap()
            .success()
    );
}

fn start(mut command: Command) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.unwrap()
}

fn resumed(mut command: Command) -> Command {
    command.arg("--resume");
    command
}

/// Goes on with a run that was killed: Ctrl-C in the first epoch, `kill -9` in the middle of the
/// second, then to the end.
fn interrupt_kill_and_finish(command: impl Fn() -> Command, run: &Path) {
    let mut child = start(resumed(command()));
    wait_until(&mut child, "the second step", || steps(run).len() >= 2);
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130), "saved and stopped");
    let n_saved = steps(run).len();
    let mut child = start(resumed(command()));
    wait_until(&mut child, "the second epoch", || {
        let steps = steps(run);
        steps.iter().filter(|step| step["epoch"] == 1).count() >= 2
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(steps(run).len() > n_saved);
    done(resumed(command()));
}

fn assert_same_run(folder: &Path, one: &str, two: &str) {
    for file in ["best.safetensors", "last.safetensors", "metrics.jsonl"] {
        let [one, two] = [one, two].map(|run| fs::read(folder.join(run).join(file)).unwrap());
        assert!(one == two, "{file} differs after the interruptions");
    }
}

fn mean_loss(run: &Path, epoch: u64) -> f64 {
    let losses: Vec<f64> = steps(run)
        .iter()
        .filter(|line| line["epoch"] == epoch)
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn from_phantoms_to_bundles_through_ctrl_c_and_kill() {
    let folder = phantoms();
    let path = folder.path();

    done(finetune(path, "teacher"));
    let again = path.join("again");
    // Before anything is saved.
    let mut child = start(finetune(path, "again"));
    wait_until(&mut child, "the run folder", || {
        again.join("run.json").exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    interrupt_kill_and_finish(|| finetune(path, "again"), &again);
    assert_same_run(path, "teacher", "again");
    let losses = [0, 3].map(|epoch| mean_loss(&path.join("teacher"), epoch));
    assert!(losses[1] < losses[0], "the teacher learns: {losses:?}");

    done(distill(path, "student"));
    let again = path.join("student-again");
    // While the teacher's outputs are written.
    let mut child = start(distill(path, "student-again"));
    wait_until(&mut child, "the first record", || {
        fs::metadata(again.join("teacher/records.f32")).is_ok_and(|file| file.len() > 0)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    interrupt_kill_and_finish(|| distill(path, "student-again"), &again);
    assert_same_run(path, "student", "student-again");
    let losses = [1, 2].map(|epoch| mean_loss(&path.join("student"), epoch));
    assert!(losses[1] < losses[0], "the student learns: {losses:?}");

    let other = with_settings(distill(path, "other"), &["input.normalize=\"sam\""]);
    let said = refused(other);
    assert!(said.contains("give both the same [input]"), "{said}");

    let export = ["export", "--run", "student", "--out", "bundles"];
    done(trainer(path, &export));
    for subject in ["student", "bundles/f32", "bundles/int8"] {
        let said = done(trainer(path, &["eval", subject, "--list", "list.csv"]));
        assert!(
            said.contains("PHANTOM-0006") && said.contains("(2 images)"),
            "{said}"
        );
    }
    let said = done(trainer(path, &["bundle", "inspect", "bundles/int8"]));
    assert!(said.contains("Dice 1.0000 to the expected mask"), "{said}");
    assert!(
        said.contains("test int8 pooled"),
        "its figures are in it: {said}"
    );

    let said = refused(with_settings(trainer(path, &export), &["input.size=128"]));
    assert!(said.contains("only keys of [export]"), "{said}");
    let list = fs::read_to_string(path.join("list.csv")).unwrap();
    fs::write(path.join("list.csv"), list.replace("validation", "train")).unwrap();
    let said = refused(trainer(path, &export));
    assert!(said.contains("changed since the run began"), "{said}");
    let said = refused(trainer(
        path,
        &["eval", "bundles/f32", "--list", "list.csv", "--class", "7"],
    ));
    assert!(said.contains("--class") && said.contains("[1]"), "{said}");
}

#[test]
fn a_run_folder_is_neither_overwritten_nor_resumed_with_something_else() {
    let folder = phantoms();
    let path = folder.path();
    let settings = ["finetune.epochs=1", "finetune.learning_rate=1e-4"];
    let run = || with_settings(finetune(path, "run"), &settings);
    let plan = done(with_settings(
        trainer(path, &["finetune", "--run", "run", "--dry-run"]),
        &SMALL,
    ));
    assert!(
        plan.contains("8 batches an epoch") && plan.contains("parameters"),
        "{plan}"
    );
    assert!(!path.join("run").exists(), "a dry run writes nothing");
    done(run());
    let said = refused(run());
    assert!(said.contains("--resume"), "{said}");
    let said = refused(resumed(with_settings(run(), &["finetune.epochs=2"])));
    assert!(
        said.contains("configuration changed since the run began"),
        "{said}"
    );
    let said = refused(with_settings(run(), &["finetune.epoch=2"]));
    assert!(said.contains("unknown key finetune.epoch"), "{said}");
    let said = refused(with_settings(
        finetune(path, "other"),
        &["model.checkpoint=\"no.pth\""],
    ));
    assert!(said.contains("no.pth"), "{said}");
}

#[test]
fn a_frozen_encoder_runs_once_and_gives_the_losses_of_one_that_runs_every_time() {
    let folder = phantoms();
    let path = folder.path();
    let settings = [
        "augmentation.enabled=false",
        "finetune.epochs=2",
        "finetune.method=\"vanilla\"",
    ];
    // Before the first update the encoder that trains is the one that does not.
    for scope in ["decoder", "encoder-decoder"] {
        let mut command = with_settings(finetune(path, scope), &settings);
        command.args(["--scope", scope]);
        done(command);
    }
    let first = |run: &str| steps(&path.join(run))[0]["loss"].as_f64().unwrap();
    let (cached, computed) = (first("decoder"), first("encoder-decoder"));
    assert!((cached - computed).abs() < 1e-5, "{cached} and {computed}");
    // Eight images to train on, two to validate on, 256 x 4 x 4 f32 each.
    let records = fs::metadata(path.join("decoder/embeddings/records.f32")).unwrap();
    assert_eq!(records.len(), 10 * 256 * 16 * 4);
    assert!(!path.join("encoder-decoder/embeddings").exists());
}

#[test]
fn a_checkpoint_that_was_not_fine_tuned_teaches_its_embedding() {
    let folder = phantoms();
    let path = folder.path();
    done(with_settings(
        finetune(path, "teacher"),
        &["finetune.epochs=1", "finetune.method=\"vanilla\""],
    ));
    let checkpoint = "distill.teacher=\"teacher/best.safetensors\"";
    // The default takes the teacher's masks, which know no class of this recipe.
    let said = refused(with_settings(distill(path, "student"), &[checkpoint]));
    assert!(said.contains("distill.teacher_weight"), "{said}");
    let settings = [checkpoint, "distill.teacher_weight=0.0"];
    let student = || with_settings(distill(path, "student"), &settings);
    let said = refused(with_settings(student(), &["model.encoder=\"vit_h\""]));
    assert!(said.contains("no vit_h in it"), "{said}");
    done(student());
    let losses = [1, 2].map(|epoch| mean_loss(&path.join("student"), epoch));
    assert!(losses[1] < losses[0], "the student learns: {losses:?}");
    let said = refused(with_settings(student(), &["distill.teacher=\"nowhere\""]));
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn every_target_bf16_and_the_reference_train() {
    let folder = phantoms();
    let path = folder.path();
    // The upper half of the heart becomes class 2, and what lies right of it class 3.
    for patient in 1..=6 {
        for slice in 1..=2 {
            let file = path.join(format!("phantom/PHANTOM-000{patient}/label/{slice}.png"));
            let mut mask = image::open(&file).unwrap().to_luma8();
            for (x, y, pixel) in mask.enumerate_pixels_mut() {
                pixel.0[0] *= match (x < 128, y < 128) {
                    (_, false) => 1,
                    (true, true) => 2,
                    (false, true) => 3,
                };
            }
            mask.save(file).unwrap();
        }
    }
    let classes = "data.classes=[{id=1,label=\"a\",color=[1,2,3]},{id=2,label=\"b\",color=[1,2,3]},\
                   {id=3,label=\"c\",color=[1,2,3]}]";
    let runs: [(&str, &[&str]); 4] = [
        ("one", &["data.target={binary={class=2}}"]),
        ("combined", &["data.target=\"combine\""]),
        (
            "three",
            &[
                "data.target={classes={n=3}}",
                classes,
                "compute.precision=\"bf16\"",
            ],
        ),
        (
            "strict",
            &[
                "strict_reference=true",
                "input.normalize=\"sam\"",
                "input.fit=\"stretch\"",
                "finetune.learning_rate=1e-12",
                "finetune.validate_every_epochs=2",
                "finetune.patience_epochs=2",
                "finetune.epochs=8",
                "finetune.method=\"adapter\"",
                "finetune.scope=\"decoder\"",
            ],
        ),
    ];
    for (run, settings) in runs {
        let settings = [&["finetune.epochs=1"], settings].concat();
        let said = done(with_settings(finetune(path, run), &settings));
        assert!(said.contains("epoch 1: "), "{said}");
    }
    // The reference validates after epochs 1, 3, 5 .. and stops when the best is more than `patience_epochs` old.
    let text = fs::read_to_string(path.join("strict/metrics.jsonl")).unwrap();
    let lines = text.lines().map(|it| serde_json::from_str(it).unwrap());
    let mut validations = lines.filter(|line: &Value| line["kind"] == "validation");
    let (mut best_epoch, mut best_dice) = (0, -1.0);
    for due in [1, 3, 5, 7] {
        let line = validations.next().unwrap();
        assert_eq!(line["epoch"], due);
        let dice = line["dice"].as_f64().unwrap();
        if dice > best_dice {
            (best_epoch, best_dice) = (due, dice);
        } else if due - best_epoch > 2 {
            break;
        }
    }
    assert!(validations.next().is_none());
}

#[test]
fn the_program_starts_with_the_glibc_that_the_readme_names() {
    tests::glibc::assert_starts(env!("CARGO_BIN_EXE_trainer"));
}
