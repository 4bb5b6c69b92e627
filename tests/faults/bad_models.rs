//! Fault F12: whatever damages a bundle on its way in, the previous model serves, and every result names the model that
//! made it.

use std::fs;
use std::path::{Path, PathBuf};

use contract::Manifest;
use contract::bundle::{ClassMask, GOLDEN_MASK, MANIFEST, file_digest};
use contract::signature::SIGNATURE;
use serde_json::Value;

use tests::sample_bundle;

use crate::harness::daemon::Daemon;
use crate::harness::process::{free_port, wait_for};
use crate::harness::random::Random;
use crate::harness::scripted_broker;
use crate::harness::signer::{
    GRAPH, Signer, cli_ok, count_by_model, digest, slot, trusting_daemon,
};
use crate::harness::site::{Site, mosquitto};

#[test]
fn a_damaged_candidate_never_serves() {
    if mosquitto().is_none() {
        return;
    }
    let rounds = if crate::long() { 1000 } else { 100 };
    let (port, signer) = (free_port(), Signer::new());
    let site = Site::with(trusting_daemon(port, &signer, ""), port, "");
    let daemon = &site.daemon;
    daemon.wait_for_log("ready");
    let bright = digest(&daemon.path().join("bundle"));
    let second = signer.make_bundle(daemon.path(), 2, true);
    let dark = digest(&second);
    cli_ok(daemon, &["models", "install", second.to_str().unwrap()]);
    let installed = daemon.path().join("state/models/default").join(&dark);
    let files: Vec<PathBuf> = fs::read_dir(&installed)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 5);
    let (mut random, mut harmless) = (Random(12), 0);
    for round in 0..rounds {
        let path = &files[random.below(files.len() as u64) as usize];
        let whole = fs::read(path).unwrap();
        let mut damaged = whole.clone();
        let at = random.below(whole.len() as u64) as usize;
        if round % 10 == 9 {
            damaged.truncate(at);
        } else {
            damaged[at] ^= 1 << random.below(8);
        }
        fs::write(path, damaged).unwrap();
        let (code, text) = daemon.cli(&["models", "promote"]);
        daemon.drop_image(round);
        site.wait_for_results(round + 1);
        if code == 0 {
            // Only the untrusted comment above a signature is not signed.
            assert!(path.ends_with(SIGNATURE), "{}: {text}", path.display());
            cli_ok(daemon, &["models", "rollback"]);
            harmless += 1;
        } else {
            wait_for("the reason", || {
                let retained = site.retained("model/default");
                assert_eq!(retained["digest"], *bright, "{text}");
                let words = retained["problem"]["words"].as_str().unwrap_or_default();
                words.len() > 20 && text.contains(words)
            });
        }
        fs::write(path, whole).unwrap();
    }
    let (n_bright, n_dark) = count_by_model(&site, &bright, &dark);
    eprintln!("{rounds} damaged candidates, {harmless} only in an unsigned comment");
    assert_eq!((n_bright, n_dark), (rounds - harmless, harmless));
    site.assert_published(rounds, 0);
}

#[test]
fn a_model_that_is_corrupted_on_the_disk_falls_back_to_the_previous_one() {
    let (port, signer) = (scripted_broker::start_accepting(), Signer::new());
    let mut daemon = trusting_daemon(port, &signer, "");
    daemon.start();
    daemon.wait_for_log("ready");
    let second = signer.make_bundle(daemon.path(), 2, true);
    cli_ok(&daemon, &["models", "install", second.to_str().unwrap()]);
    cli_ok(&daemon, &["models", "promote"]);
    daemon.stop();
    let folder = daemon
        .path()
        .join("state/models/default")
        .join(digest(&second));
    let graph = folder.join(GRAPH);
    let mut bytes = fs::read(&graph).unwrap();
    bytes[20] ^= 1;
    fs::write(&graph, bytes).unwrap();
    daemon.start();
    daemon.wait_for_log("ready");
    let n_fallbacks = daemon.n_log_lines(&["the one before it serves", "sha-256", "version="]);
    assert_eq!(n_fallbacks, 1, "{}", daemon.log());
    assert!(
        slot(&daemon)["problem"]
            .as_str()
            .unwrap()
            .contains("sha-256")
    );
    // Installing the bundle again repairs it.
    cli_ok(&daemon, &["models", "install", second.to_str().unwrap()]);
    assert!(slot(&daemon)["problem"].is_string(), "still the one before");
    cli_ok(&daemon, &["models", "promote"]);
    assert_eq!(slot(&daemon)["problem"], Value::Null);
    assert_eq!(slot(&daemon)["previous"]["version"], "1.0.0");
    daemon.drain();
}

type Corrupt = fn(&Path, &mut Manifest);

/// The bundle is signed, but its graph, its golden mask or its manifest is wrong.
#[test]
fn a_signed_bundle_that_does_not_work_here_is_refused() {
    let (port, signer) = (scripted_broker::start_accepting(), Signer::new());
    let mut daemon = trusting_daemon(port, &signer, "");
    daemon.start();
    daemon.wait_for_log("ready");
    let first = digest(&daemon.path().join("bundle"));
    let cases: [(Corrupt, &str); 3] = [
        (
            |bundle, _| {
                let masks = [ClassMask {
                    id: 1,
                    rle: sample_bundle::golden_labels().rle(1),
                }];
                let json = serde_json::to_vec(&masks).unwrap();
                fs::write(bundle.join(GOLDEN_MASK), json).unwrap();
            },
            "the golden image gives another mask",
        ),
        (
            |bundle, _| {
                let graph = fs::read(bundle.join(GRAPH)).unwrap();
                fs::write(bundle.join(GRAPH), &graph[..graph.len() / 2]).unwrap();
            },
            "model.onnx",
        ),
        (|_, manifest| manifest.output.side = 32, "[1, 2, 16, 16]"),
    ];
    for (counter, (corrupt, expected)) in (2..).zip(cases) {
        let bundle = signer.make_bundle(daemon.path(), counter, true);
        let json = fs::read(bundle.join(MANIFEST)).unwrap();
        let mut manifest = Manifest::parse(&json).unwrap();
        corrupt(&bundle, &mut manifest);
        for (name, digest) in &mut manifest.files {
            *digest = file_digest(&bundle.join(name)).unwrap();
        }
        fs::write(bundle.join(MANIFEST), manifest.seal().to_json()).unwrap();
        signer.sign(&bundle);
        cli_ok(&daemon, &["models", "install", bundle.to_str().unwrap()]);
        let (code, text) = daemon.cli(&["models", "promote"]);
        assert!(code == 1 && text.contains(expected), "{expected}: {text}");
        let slot = slot(&daemon);
        assert_eq!(slot["active"]["digest"], *first);
        assert_eq!(slot["highest_counter"], 1);
        assert!(slot["problem"].as_str().unwrap().contains(expected));
    }
    daemon.drain();
}

/// The program stops before each write of a change, as in a power cut.
#[test]
fn a_power_cut_leaves_the_old_model_or_the_new_one() {
    const STOP: &str = "SCANSIDE_STOP_AT_STEP";
    let (port, signer) = (scripted_broker::start_accepting(), Signer::new());
    let mut daemon = trusting_daemon(port, &signer, "");
    let first = digest(&daemon.path().join("bundle"));
    let second = signer.make_bundle(daemon.path(), 2, true);
    daemon.start();
    daemon.wait_for_log("ready");
    daemon.stop();
    let cut = |daemon: &Daemon, arguments: &[&str], step: u32| {
        let mut command = daemon.command(arguments);
        let output = command.env(STOP, step.to_string()).output().unwrap();
        output.status.success()
    };
    let bundle = second.to_str().unwrap();
    let installs = (1..50).find(|&step| cut(&daemon, &["models", "install", bundle], step));
    assert!(installs >= Some(10), "{installs:?} writes");
    assert_eq!(slot(&daemon)["damaged"], Value::Array(Vec::new()));

    // Without a daemon.
    let mut serving = Vec::new();
    for step in 1.. {
        let done = cut(&daemon, &["models", "promote"], step);
        let now = slot(&daemon)["active"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(now == first || now == digest(&second), "{now}");
        if now != first {
            cli_ok(&daemon, &["models", "rollback"]);
        }
        serving.push(now);
        if done {
            break;
        }
    }
    assert!(serving.len() >= 5 && serving[0] == first, "{serving:?}");
    assert_ne!(serving.last(), Some(&first));

    // With a daemon, which exits; the next one serves what the record names.
    for step in 1.. {
        daemon.start_with_env(&[(STOP, &step.to_string())]);
        daemon.wait_for_log("ready");
        let (code, _) = daemon.cli(&["models", "promote"]);
        if code == 0 {
            break;
        }
        daemon.kill();
        daemon.start();
        daemon.wait_for_log("ready");
        assert_eq!(slot(&daemon)["problem"], Value::Null);
        let record = slot(&daemon)["active"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        daemon.wait_for_log(&format!(
            "model serves slot=\"default\" model=\"bright-band\" version=\"{}\"",
            if record == first { "1.0.0" } else { "2.0.0" }
        ));
        if record != first {
            cli_ok(&daemon, &["models", "rollback"]);
        }
        daemon.stop();
        assert!(step < 20);
    }
    daemon.stop();
}
