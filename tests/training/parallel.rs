//! Several processes train as one: they meet over real sockets on this machine, take the steps of a single
//! process with the same batches, stop together, and none waits for one that died.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use candle_core::{DType, Device, Tensor};

use super::{
    assert_same_run, distill, done, finetune, mean_loss, phantoms, resumed, signal, steps,
    wait_until, with_settings, words,
};

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The variables that torchrun sets.
fn of_group(mut command: Command, rank: usize, world: usize, port: u16) -> Command {
    command
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", world.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        // Two threads suffice, and half of all cores may be one.
        .env("RAYON_NUM_THREADS", "2");
    command
}

/// Starts what `command` makes for each rank.
fn together(world: usize, command: impl Fn(usize) -> Command) -> Vec<Child> {
    let port = free_port();
    let start = |rank| {
        let mut command = of_group(command(rank), rank, world, port);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    (0..world).map(start).collect()
}

/// Waits for all at once, so that no pipe fills up.
fn outputs(children: Vec<Child>) -> Vec<Output> {
    let wait = |child: Child| thread::spawn(|| child.wait_with_output().unwrap());
    let threads: Vec<_> = children.into_iter().map(wait).collect();
    threads.into_iter().map(|t| t.join().unwrap()).collect()
}

/// Each rank's exit code and words.
fn ends(children: Vec<Child>) -> Vec<(Option<i32>, String)> {
    let outputs = outputs(children);
    let of_one = |output: &Output| (output.status.code(), words(output));
    outputs.iter().map(of_one).collect()
}

fn done_together(world: usize, command: impl Fn(usize) -> Command) {
    for (rank, (code, said)) in ends(together(world, command)).iter().enumerate() {
        assert_eq!(*code, Some(0), "rank {rank}\n{said}");
        assert!(rank == 0 || said.is_empty(), "rank {rank} said {said}");
    }
}

fn largest_difference(one: &Path, two: &Path) -> f32 {
    let [one, two] = [one, two].map(|run| {
        candle_core::safetensors::load(run.join("best.safetensors"), &Device::Cpu).unwrap()
    });
    assert_eq!(one.len(), two.len());
    let of_one = |(name, one): (&String, &Tensor)| -> f32 {
        let difference = (one - &two[name]).unwrap().abs().unwrap();
        let flat = difference.to_dtype(DType::F32).unwrap().flatten_all();
        flat.unwrap().max(0).unwrap().to_scalar().unwrap()
    };
    one.iter().map(of_one).fold(0.0, f32::max)
}

#[test]
fn processes_train_as_one_does_with_the_same_batches() {
    let folder = phantoms();
    let path = folder.path();
    // Eight batches in steps of three: in the last one of an epoch, rank 2 has none.
    done(finetune(path, "one"));
    let each = ["finetune.accumulate=1"];
    done_together(3, |_| with_settings(finetune(path, "three"), &each));
    assert_same_run(path, "one", "three");
    let events = fs::read_dir(path.join("three/log")).unwrap().count();
    assert_eq!(events, 1, "rank 0 alone writes");

    // The order of the sums differs now, so the last digits do.
    done(with_settings(
        finetune(path, "four"),
        &["finetune.accumulate=4"],
    ));
    let each = ["finetune.accumulate=2"];
    done_together(2, |_| with_settings(finetune(path, "twice-two"), &each));
    let [four, twice_two] = ["four", "twice-two"].map(|run| path.join(run));
    let difference = largest_difference(&four, &twice_two);
    assert!(difference < 1e-4, "weights differ by {difference}");
    assert_eq!(steps(&four).len(), steps(&twice_two).len());
    for (one, two) in steps(&four).iter().zip(steps(&twice_two)) {
        assert_eq!(one["learning_rate"], two["learning_rate"]);
        let [one, two] = [one, &two].map(|step| step["loss"].as_f64().unwrap());
        assert!((one - two).abs() < 1e-4, "losses {one} and {two}");
    }
}

#[test]
fn one_process_under_torchrun_is_one_alone() {
    let folder = phantoms();
    let path = folder.path();
    let epochs = ["finetune.epochs=1"];
    done(with_settings(finetune(path, "alone"), &epochs));
    let group_of_one = with_settings(finetune(path, "group"), &epochs);
    done(of_group(group_of_one, 0, 1, free_port()));
    assert_same_run(path, "alone", "group");
}

#[test]
fn processes_end_together_and_go_on_as_if_never_interrupted() {
    let folder = phantoms();
    let path = folder.path();
    let run = path.join("again");
    let settings = ["finetune.accumulate=1"];
    let whole = |_| with_settings(finetune(path, "whole"), &settings);
    let again = |_| resumed(with_settings(finetune(path, "again"), &settings));
    done_together(2, whole);

    // Ctrl-C for one of them.
    let mut children = together(2, again);
    wait_until(&mut children[0], "the second step", || {
        steps(&run).len() >= 2
    });
    signal(&children[1], "-INT");
    for (code, said) in ends(children) {
        assert_eq!(code, Some(130), "{said}");
    }
    // A death in the middle of an epoch, of either.
    for (dead, epoch) in [(1, 1), (0, 2)] {
        let mut children = together(2, again);
        wait_until(&mut children[dead], "the next epoch", || {
            steps(&run)
                .iter()
                .filter(|step| step["epoch"] == epoch)
                .count()
                >= 2
        });
        children[dead].kill().unwrap();
        let (code, said) = ends(children).swap_remove(1 - dead);
        assert_eq!(code, Some(1), "{said}");
        let expected = format!("rank {dead} has ended, and its own output says why: start all");
        assert!(
            said.contains(&expected) && said.contains("--resume"),
            "{said}"
        );
    }
    done_together(2, again);
    assert_same_run(path, "whole", "again");

    let mut alone = resumed(with_settings(finetune(path, "again"), &settings));
    let said = words(&alone.output().unwrap());
    assert!(said.contains("the number of processes changed"), "{said}");
}

#[test]
fn processes_that_mean_different_runs_do_not_begin() {
    let folder = phantoms();
    let seeds = ["seed=3", "seed=4"];
    let command = |rank: usize| with_settings(finetune(folder.path(), "run"), &[seeds[rank]]);
    for (code, said) in ends(together(2, command)) {
        assert_eq!(code, Some(1), "{said}");
        let expected = "the configuration of rank 1 and rank 0 differ";
        assert!(said.contains(expected), "{said}");
    }
    assert!(!folder.path().join("run").exists());
}

/// Its batch normalization moves with the batches of each process, and the embeddings come from one.
#[test]
fn two_processes_distil() {
    let folder = phantoms();
    let path = folder.path();
    let settings = ["finetune.epochs=1", "finetune.ema=0.0"];
    done(with_settings(finetune(path, "teacher"), &settings));
    done_together(2, |_| distill(path, "student"));
    let losses = [1, 2].map(|epoch| mean_loss(&path.join("student"), epoch));
    assert!(losses[1] < losses[0], "the student learns: {losses:?}");
    // 16 views in batches of 3, two batches a step.
    assert_eq!(steps(&path.join("student")).len(), 3 * 3);
}
