//! Fault F12: whatever becomes of a bundle on its way in, the model before it serves, and every result is
//! one of the model that it names.

use std::fs;
use std::path::{Path, PathBuf};

use contract::Manifest;
use contract::bundle::{ClassMask, GOLDEN_MASK, MANIFEST, file_digest};
use contract::signature::SIGNATURE;
use serde_json::Value;

use crate::sample_bundle;
use crate::script::{self, Answer};
use crate::signer::{GRAPH, Signer, digest, must, right_models, slot, station};
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, Station, free_port, wait_for};

/// The same numbers every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn a_damaged_candidate_never_serves() {
    if mosquitto().is_none() {
        return;
    }
    let rounds = if std::env::var_os("SCANSIDE_LONG").is_some() {
        1000
    } else {
        100
    };
    let (port, signer) = (free_port(), Signer::new());
    let site = Site::with(station(port, &signer, ""), port, "");
    let station = &site.station;
    station.wait_for_word("ready");
    let bright = digest(&station.path().join("bundle"));
    let second = signer.bundle(station.path(), 2, true);
    let dark = digest(&second);
    must(station, &["models", "install", second.to_str().unwrap()]);
    let installed = station.path().join("state/models/default").join(&dark);
    let files: Vec<PathBuf> = fs::read_dir(&installed)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 5);
    let (mut dice, mut harmless) = (Dice(12), 0);
    for round in 0..rounds {
        let path = &files[dice.below(files.len())];
        let whole = fs::read(path).unwrap();
        let mut damaged = whole.clone();
        let at = dice.below(whole.len());
        if round % 10 == 9 {
            damaged.truncate(at);
        } else {
            damaged[at] ^= 1 << dice.below(8);
        }
        fs::write(path, damaged).unwrap();
        let (code, text) = station.ask(&["models", "promote"]);
        station.drop_image(round);
        site.wait_for_results(round + 1);
        if code == 0 {
            // The comment for people above a signature is not signed, and says nothing.
            assert!(path.ends_with(SIGNATURE), "{}: {text}", path.display());
            must(station, &["models", "rollback"]);
            harmless += 1;
        } else {
            wait_for("the reason", PATIENCE, || {
                let retained = site.retained("model/default");
                assert_eq!(retained["digest"], *bright, "{text}");
                let words = retained["problem"]["words"].as_str().unwrap_or_default();
                words.len() > 20 && text.contains(words)
            });
        }
        fs::write(path, whole).unwrap();
    }
    let (n_bright, n_dark) = right_models(&site, &bright, &dark);
    eprintln!("{rounds} damaged candidates, {harmless} only in an unsigned comment");
    assert_eq!((n_bright, n_dark), (rounds - harmless, harmless));
    site.settle(rounds, 0);
}

#[test]
fn a_model_that_rots_on_the_disk_gives_way_to_the_one_before() {
    let (port, signer) = (script::start(|_, _| Answer::Code(0)), Signer::new());
    let mut station = station(port, &signer, "");
    station.start_daemon();
    station.wait_for_word("ready");
    let second = signer.bundle(station.path(), 2, true);
    must(&station, &["models", "install", second.to_str().unwrap()]);
    must(&station, &["models", "promote"]);
    station.stop_daemon();
    let folder = station
        .path()
        .join("state/models/default")
        .join(digest(&second));
    let graph = folder.join(GRAPH);
    let mut bytes = fs::read(&graph).unwrap();
    bytes[20] ^= 1;
    fs::write(&graph, bytes).unwrap();
    station.start_daemon();
    station.wait_for_word("ready");
    let fallen = station.said(&["the one before it serves", "sha-256", "version="]);
    assert_eq!(fallen, 1, "{}", station.log());
    assert!(
        slot(&station)["problem"]
            .as_str()
            .unwrap()
            .contains("sha-256")
    );
    // Installed again, it is as it was.
    must(&station, &["models", "install", second.to_str().unwrap()]);
    assert!(
        slot(&station)["problem"].is_string(),
        "still the one before"
    );
    must(&station, &["models", "promote"]);
    assert_eq!(slot(&station)["problem"], Value::Null);
    assert_eq!(slot(&station)["previous"]["version"], "1.0.0");
    station.close();
}

type Spoil = fn(&Path, &mut Manifest);

/// Signed and whole, but wrong: what it computes, or what it is made of.
#[test]
fn a_signed_bundle_that_does_not_work_here_is_refused() {
    let (port, signer) = (script::start(|_, _| Answer::Code(0)), Signer::new());
    let mut station = station(port, &signer, "");
    station.start_daemon();
    station.wait_for_word("ready");
    let first = digest(&station.path().join("bundle"));
    let cases: [(Spoil, &str); 3] = [
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
    for (counter, (spoil, expected)) in (2..).zip(cases) {
        let bundle = signer.bundle(station.path(), counter, true);
        let json = fs::read(bundle.join(MANIFEST)).unwrap();
        let mut manifest = Manifest::parse(&json).unwrap();
        spoil(&bundle, &mut manifest);
        for (name, digest) in &mut manifest.files {
            *digest = file_digest(&bundle.join(name)).unwrap();
        }
        fs::write(bundle.join(MANIFEST), manifest.seal().to_json()).unwrap();
        signer.sign(&bundle);
        must(&station, &["models", "install", bundle.to_str().unwrap()]);
        let (code, text) = station.ask(&["models", "promote"]);
        assert!(code == 1 && text.contains(expected), "{expected}: {text}");
        let slot = slot(&station);
        assert_eq!(slot["active"]["digest"], *first);
        assert_eq!(slot["highest_counter"], 1);
        assert!(slot["problem"].as_str().unwrap().contains(expected));
    }
    station.close();
}

/// Stops the program before each write of a change, as a power cut would.
#[test]
fn a_power_cut_leaves_the_old_model_or_the_new_one() {
    const STOP: &str = "SCANSIDE_STOP_AT_STEP";
    let (port, signer) = (script::start(|_, _| Answer::Code(0)), Signer::new());
    let mut station = station(port, &signer, "");
    let first = digest(&station.path().join("bundle"));
    let second = signer.bundle(station.path(), 2, true);
    station.start_daemon();
    station.wait_for_word("ready");
    station.stop_daemon();
    let cut = |station: &Station, arguments: &[&str], step: u32| {
        let mut command = station.command(arguments);
        let output = command.env(STOP, step.to_string()).output().unwrap();
        output.status.success()
    };
    let bundle = second.to_str().unwrap();
    let installs = (1..50).find(|&step| cut(&station, &["models", "install", bundle], step));
    assert!(installs >= Some(10), "{installs:?} writes");
    assert_eq!(slot(&station)["damaged"], Value::Array(Vec::new()));

    // Without a daemon.
    let mut serving = Vec::new();
    for step in 1.. {
        let done = cut(&station, &["models", "promote"], step);
        let now = slot(&station)["active"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(now == first || now == digest(&second), "{now}");
        if now != first {
            must(&station, &["models", "rollback"]);
        }
        serving.push(now);
        if done {
            break;
        }
    }
    assert!(serving.len() >= 5 && serving[0] == first, "{serving:?}");
    assert_ne!(serving.last(), Some(&first));

    // With a daemon, which dies of it; the next one serves what the record says.
    for step in 1.. {
        station.start_daemon_in(&[(STOP, &step.to_string())]);
        station.wait_for_word("ready");
        let (code, _) = station.ask(&["models", "promote"]);
        if code == 0 {
            break;
        }
        station.kill_daemon();
        station.start_daemon();
        station.wait_for_word("ready");
        assert_eq!(slot(&station)["problem"], Value::Null);
        let record = slot(&station)["active"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        station.wait_for_word(&format!(
            "model serves slot=\"default\" model=\"bright-band\" version=\"{}\"",
            if record == first { "1.0.0" } else { "2.0.0" }
        ));
        if record != first {
            must(&station, &["models", "rollback"]);
        }
        station.stop_daemon();
        assert!(step < 20);
    }
    station.stop_daemon();
}
