//! `scansided models` as a user meets it, beside a daemon that works.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use contract::signature::SIGNATURE;
use serde_json::Value;

use crate::script::{self, Answer};
use crate::signer::{Signer, digest, install, must, right_models, slot, station};
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, free_port, wait_for};

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
    // Going back once more would go forward.
    let (code, text) = station.ask(&["models", "rollback"]);
    assert!(
        code == 1 && text.contains("`scansided models promote 2.0.0` lets the newer"),
        "{text}"
    );
    // What was promoted once may come back, by its version.
    must(station, &["models", "promote", "2.0.0"]);
    // Typing errors are no problem of the slot.
    for wrong in [
        &["models", "promote", "3.0.0"][..],
        &["models", "promote", "--slot", "hart"],
        &["models", "rollback", "--slot", "hart"],
    ] {
        let (code, text) = station.ask(wrong);
        assert!(code == 1 && text.contains('`'), "{text}");
    }
    assert_eq!(slot(station)["problem"], Value::Null);
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
