//! Fault F12: whatever becomes of a bundle on its way in, the model before it serves, and every result is
//! one of the model that it names.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use contract::LabelMap;
use contract::Manifest;
use contract::bundle::{ClassMask, GOLDEN_MASK, MANIFEST, file_digest};
use contract::signature::SIGNATURE;
use minisign::KeyPair;
use serde_json::Value;

use crate::sample_bundle;
use crate::script::{self, Answer};
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, Station, free_port, wait_for};

/// Sides of the images that a station drops: the bright part is the smaller one.
const HALF_PX: u64 = 40 * 40 / 2;
const GRAPH: &str = "model.onnx";

/// Who signs.
pub(crate) struct Signer(KeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().unwrap())
    }

    pub(crate) fn sign(&self, bundle: &Path) {
        let manifest = fs::read(bundle.join(MANIFEST)).unwrap();
        let signed = minisign::sign(None, &self.0.sk, &*manifest, None, None).unwrap();
        fs::write(bundle.join(SIGNATURE), signed.to_string()).unwrap();
    }

    /// Version `<counter>.0.0`; one that is inverted finds what is dark.
    pub(crate) fn bundle(&self, folder: &Path, counter: u64, inverted: bool) -> PathBuf {
        let bundle = folder.join(format!("bundle-{counter}"));
        fs::create_dir(&bundle).unwrap();
        let mut manifest = sample_bundle::write(&bundle);
        manifest.counter = counter;
        manifest.version = format!("{counter}.0.0");
        if inverted {
            invert(&bundle);
        }
        for (name, digest) in &mut manifest.files {
            *digest = file_digest(&bundle.join(name)).unwrap();
        }
        fs::write(bundle.join(MANIFEST), manifest.seal().to_json()).unwrap();
        self.sign(&bundle);
        bundle
    }

    pub(crate) fn section(&self) -> String {
        format!("[models]\ntrusted_keys = [\"{}\"]\n", self.0.pk.to_base64())
    }
}

/// Changes the sign of weights and biases, and expects the rest of the golden image.
fn invert(bundle: &Path) {
    let mut graph = fs::read(bundle.join(GRAPH)).unwrap();
    let third = 10.0_f32 / 3.0;
    for value in [third, 5.0] {
        let (plus, minus) = (value.to_le_bytes(), (-value).to_le_bytes());
        let mut at = 0;
        while at + 4 <= graph.len() {
            let other = match &graph[at..at + 4] {
                bytes if bytes == plus => minus,
                bytes if bytes == minus => plus,
                _ => {
                    at += 1;
                    continue;
                }
            };
            graph[at..at + 4].copy_from_slice(&other);
            at += 4;
        }
    }
    fs::write(bundle.join(GRAPH), graph).unwrap();
    let bright = sample_bundle::golden_labels();
    let mut dark = LabelMap::new(bright.rows, bright.cols);
    for (dark, bright) in dark.data.iter_mut().zip(&bright.data) {
        *dark = 1 - bright;
    }
    let masks = [ClassMask {
        id: 1,
        rle: dark.rle(1),
    }];
    let json = serde_json::to_vec(&masks).unwrap();
    fs::write(bundle.join(GOLDEN_MASK), json).unwrap();
}

fn digest(bundle: &Path) -> String {
    Manifest::parse(&fs::read(bundle.join(MANIFEST)).unwrap())
        .unwrap()
        .digest
}

/// A box that trusts one signer, whose configured bundle has counter 1 and finds what is bright.
fn station(port: u16, signer: &Signer, extra: &str) -> Station {
    let station = Station::new(
        port,
        &format!("health_interval_s = 1\n{}{extra}", signer.section()),
    );
    signer.sign(&station.path().join("bundle"));
    station
}

fn install(station: &Station, bundle: &Path) -> (i32, String) {
    station.ask(&["models", "install", bundle.to_str().unwrap()])
}

fn must(station: &Station, arguments: &[&str]) -> String {
    let (code, text) = station.ask(arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

fn slot(station: &Station) -> Value {
    serde_json::from_str(&must(station, &["models", "list", "--json"])).unwrap()
}

/// Every result has the mask of the model that it names.
fn right_models(site: &Site, bright: &str, dark: &str) -> (usize, usize) {
    let (mut n_bright, mut n_dark) = (0, 0);
    for line in site.lines.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        let area = report["instances"][0]["area_px"].as_u64().unwrap();
        let named = report["model"]["digest"].as_str().unwrap();
        if area < HALF_PX {
            assert_eq!(named, bright, "{line}");
            n_bright += 1;
        } else {
            assert_eq!(named, dark, "{line}");
            n_dark += 1;
        }
    }
    (n_bright, n_dark)
}

#[test]
fn a_signed_bundle_comes_in_serves_and_goes_again() {
    if mosquitto().is_none() {
        return;
    }
    let (port, signer) = (free_port(), Signer::new());
    let site = Site::with(station(port, &signer, ""), port, "");
    let station = &site.station;
    station.wait_for_word("ready");
    let bright = digest(&station.path().join("bundle"));
    let second = signer.bundle(station.path(), 2, true);
    let dark = digest(&second);
    station.drop_image(0);
    site.wait_for_results(1);
    let retained = site.retained("model/default");
    assert_eq!(retained["digest"], *bright);
    assert_eq!(retained["configured"], true);

    // Neither unsigned, nor signed by somebody else, nor without asking for a promotion.
    let signature = second.join(SIGNATURE);
    let good = fs::read(&signature).unwrap();
    fs::remove_file(&signature).unwrap();
    let (code, text) = install(station, &second);
    assert!(code == 1 && text.contains("only signed bundles"), "{text}");
    let (code, text) = station.ask(&["models", "install", "--unsigned", second.to_str().unwrap()]);
    assert!(code == 1 && text.contains("not allowed here"), "{text}");
    Signer::new().sign(&second);
    let (code, text) = install(station, &second);
    assert!(code == 1 && text.contains("not trusted here"), "{text}");
    fs::write(&signature, good).unwrap();
    let (code, text) = install(station, &second);
    assert!(code == 0 && text.contains("is installed"), "{text}");
    assert!(must(station, &["models", "install", second.to_str().unwrap()]).contains("already"));
    assert_eq!(slot(station)["active"]["digest"], *bright);

    let text = must(station, &["models", "promote"]);
    assert!(
        text.contains("2.0.0") && text.contains("in place of"),
        "{text}"
    );
    station.drop_image(1);
    site.wait_for_results(2);
    wait_for("the retained message", PATIENCE, || {
        let retained = site.retained("model/default");
        retained["digest"] == *dark && retained["previous"]["digest"] == *bright
    });
    assert_eq!(site.retained("state")["models"]["default"], *dark);

    // Not back by a promotion, and neither by other content under the same number.
    let again = fs::read_dir(station.path().join("state/models/default")).unwrap();
    assert_eq!(again.count(), 2, "one version and the record");
    let older = signer.bundle(&station.path().join("inbox/.."), 1, true);
    let (code, text) = install(station, &older);
    assert!(
        code == 1 && text.contains("the highest counter that served is 2"),
        "{text}"
    );
    fs::remove_dir_all(&second).unwrap();
    let (code, text) = install(station, &signer.bundle(station.path(), 2, false));
    assert!(code == 1 && text.contains("is refused"), "{text}");
    wait_for("the reason", PATIENCE, || {
        let problem = &site.retained("model/default")["problem"]["words"];
        problem
            .as_str()
            .is_some_and(|words| words.contains("is refused"))
    });

    let start = Instant::now();
    let text = must(station, &["models", "rollback"]);
    let took = start.elapsed();
    eprintln!("rollback, the command's start included: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(text.contains("serves again"), "{text}");
    station.drop_image(2);
    site.wait_for_results(3);
    assert_eq!(right_models(&site, &bright, &dark), (2, 1));
    // What was promoted once may come back, by its version.
    must(station, &["models", "promote", "2.0.0"]);
    site.settle(3, 0);
}

#[test]
fn a_swap_amid_a_stream_of_images_loses_none() {
    const IMAGES: usize = 300;
    if mosquitto().is_none() {
        return;
    }
    let (port, signer) = (free_port(), Signer::new());
    let site = Site::with(station(port, &signer, ""), port, "");
    let station = &site.station;
    station.wait_for_word("ready");
    let bright = digest(&station.path().join("bundle"));
    let second = signer.bundle(station.path(), 2, true);
    must(station, &["models", "install", second.to_str().unwrap()]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..IMAGES {
                station.drop_image(number);
                sleep(Duration::from_millis(10));
            }
        });
        for swap in 0..10 {
            site.wait_for_results(IMAGES * swap / 12);
            must(station, &["models", "promote"]);
            site.wait_for_results(IMAGES * (2 * swap + 1) / 24);
            must(station, &["models", "rollback"]);
        }
    });
    site.wait_for_results(IMAGES);
    let (n_bright, n_dark) = right_models(&site, &bright, &digest(&second));
    eprintln!("{n_bright} results of one model, {n_dark} of the other, 20 swaps");
    assert!(n_bright > 0 && n_dark > 0);
    site.settle(IMAGES, 0);
}

#[test]
fn old_versions_go_when_there_are_too_many() {
    let signer = Signer::new();
    let station = station(free_port(), &signer, "versions_max = 3\n");
    for counter in 2..=6 {
        let bundle = signer.bundle(station.path(), counter, false);
        must(&station, &["models", "install", bundle.to_str().unwrap()]);
        if counter == 2 {
            must(&station, &["models", "promote"]);
        }
    }
    let slot = slot(&station);
    let installed: Vec<_> = (0..3)
        .map(|index| slot["installed"][index]["counter"].as_u64())
        .collect();
    assert_eq!(installed, [Some(6), Some(5), Some(2)], "what serves stays");
    assert_eq!(slot["installed"][3], Value::Null);
}

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

/// Signed and whole, but wrong: what it computes, or what it is made of.
#[test]
fn a_signed_bundle_that_does_not_work_here_is_refused() {
    let (port, signer) = (script::start(|_, _| Answer::Code(0)), Signer::new());
    let mut station = station(port, &signer, "");
    station.start_daemon();
    station.wait_for_word("ready");
    let first = digest(&station.path().join("bundle"));
    type Spoil = fn(&Path, &mut Manifest);
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

#[test]
fn with_a_trusted_key_the_configured_bundle_is_signed_and_not_older() {
    let (port, signer) = (script::start(|_, _| Answer::Code(0)), Signer::new());
    let mut station = station(port, &signer, "");
    let third = signer.bundle(station.path(), 3, true);
    // Before the first start, which then serves it.
    must(&station, &["models", "install", third.to_str().unwrap()]);
    let text = must(&station, &["models", "promote"]);
    assert!(text.contains("from the next start"), "{text}");
    let (code, text) = station.ask(&["models", "rollback"]);
    assert!(
        code == 1 && text.contains("nothing served before"),
        "{text}"
    );
    station.start_daemon();
    station.wait_for_word("ready");
    assert_eq!(slot(&station)["active"]["version"], "3.0.0");
    station.stop_daemon();
    let (code, text) = station.ask(&["check"]);
    assert!(
        text.contains("slot `default`: bright-band 3.0.0"),
        "{code} {text}"
    );

    // Who removes the record of it has the older bundle of the configuration, but not its counter.
    let record = station.path().join("state/models/default/slot.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    value["active"] = Value::Null;
    fs::write(&record, value.to_string()).unwrap();
    station.start_daemon();
    wait_for("the refusal", PATIENCE, || {
        station.said(&["the highest counter that served is 3"]) == 1
    });
    fs::remove_file(station.path().join("bundle").join(SIGNATURE)).unwrap();
    station.start_daemon();
    wait_for("the refusal", PATIENCE, || {
        station.said(&["only signed bundles"]) == 1
    });
}

#[test]
fn a_candidate_in_the_shadow_is_compared_and_holds_up_nothing() {
    const IMAGES: usize = 40;
    if mosquitto().is_none() {
        return;
    }
    let (port, signer) = (free_port(), Signer::new());
    let site = Site::with(station(port, &signer, "shadow = \"candidate\"\n"), port, "");
    let station = &site.station;
    station.wait_for_word("ready");
    assert_eq!(site.retained("model/default")["shadow"], Value::Null);
    let second = signer.bundle(station.path(), 2, true);
    must(station, &["models", "install", second.to_str().unwrap()]);
    (0..IMAGES).for_each(|number| station.drop_image(number));
    site.wait_for_results(IMAGES);
    wait_for("the figures", PATIENCE, || {
        let shadow = &site.retained("model/default")["shadow"];
        let sum = ["images", "skipped"].map(|key| shadow[key].as_u64().unwrap_or(0));
        // What the one finds the other leaves, but for the soft border.
        let apart = shadow["dice"][0]["mean"]
            .as_f64()
            .is_some_and(|dice| dice < 0.2);
        sum[0] > 0 && sum[0] + sum[1] == IMAGES as u64 && shadow["failed"] == 0 && apart
    });
    let bright = digest(&station.path().join("bundle"));
    assert_eq!(right_models(&site, &bright, ""), (IMAGES, 0));
    site.settle(IMAGES, 0);
}
