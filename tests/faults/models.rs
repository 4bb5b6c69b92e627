//! `scansided models` beside a running daemon.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use contract::signature::SIGNATURE;
use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::process::{free_port, wait_for};
use crate::harness::scripted_broker;
use crate::harness::signer::{
    Signer, cli_ok, count_by_model, digest, install, slot, trusting_daemon,
};
use crate::harness::site::{Site, mosquitto};

#[test]
fn a_signed_bundle_is_installed_promoted_and_rolled_back() {
    if mosquitto().is_none() {
        return;
    }
    let (port, signer) = (free_port(), Signer::new());
    let site = Site::with(trusting_daemon(port, &signer, ""), port, "");
    let daemon = &site.daemon;
    daemon.wait_for_log("ready");
    let bright = digest(&daemon.path().join("bundle"));
    let second = signer.make_bundle(daemon.path(), 2, true);
    let dark = digest(&second);
    daemon.drop_image(0);
    site.wait_for_results(1);
    let retained = site.retained("model/default");
    assert_eq!(retained["digest"], *bright);
    assert_eq!(retained["configured"], true);

    install_signed_only(daemon, &second);
    // An installed bundle does not serve by itself.
    assert_eq!(slot(daemon)["active"]["digest"], *bright);
    let text = cli_ok(daemon, &["models", "promote"]);
    assert!(
        text.contains("2.0.0") && text.contains("in place of"),
        "{text}"
    );
    daemon.drop_image(1);
    site.wait_for_results(2);
    wait_for("the retained message", || {
        let retained = site.retained("model/default");
        retained["digest"] == *dark && retained["previous"]["digest"] == *bright
    });
    assert_eq!(site.retained("state")["models"]["default"], *dark);
    refuse_other_content_of_the_counter(&site, &signer, &second);

    roll_back(daemon);
    daemon.drop_image(2);
    site.wait_for_results(3);
    assert_eq!(count_by_model(&site, &bright, &dark), (2, 1));
    refuse_second_rollback(daemon);
    assert_eq!(slot(daemon)["problem"], Value::Null);
    site.assert_published(3, 0);
}

/// A bundle is refused without a signature and with one by another key, and then installed.
fn install_signed_only(daemon: &Daemon, bundle: &Path) {
    let signature = bundle.join(SIGNATURE);
    let good = fs::read(&signature).unwrap();
    fs::remove_file(&signature).unwrap();
    let (code, text) = install(daemon, bundle);
    assert!(code == 1 && text.contains("only signed bundles"), "{text}");
    let (code, text) = daemon.cli(&["models", "install", "--unsigned", bundle.to_str().unwrap()]);
    assert!(code == 1 && text.contains("not allowed here"), "{text}");
    Signer::new().sign(bundle);
    let (code, text) = install(daemon, bundle);
    assert!(code == 1 && text.contains("not trusted here"), "{text}");
    fs::write(&signature, good).unwrap();
    let (code, text) = install(daemon, bundle);
    assert!(code == 0 && text.contains("is installed"), "{text}");
    let (code, text) = install(daemon, bundle);
    assert!(code == 0 && text.contains("already"), "{text}");
}

/// A lower counter is refused, and so is other content with the counter that serves.
fn refuse_other_content_of_the_counter(site: &Site, signer: &Signer, serving: &Path) {
    let daemon = &site.daemon;
    let entries = fs::read_dir(daemon.path().join("state/models/default")).unwrap();
    assert_eq!(entries.count(), 2, "one version and the record");
    let older = signer.make_bundle(&daemon.path().join("inbox/.."), 1, true);
    let (code, text) = install(daemon, &older);
    assert!(
        code == 1 && text.contains("the highest counter that served is 2"),
        "{text}"
    );
    fs::remove_dir_all(serving).unwrap();
    let (code, text) = install(daemon, &signer.make_bundle(daemon.path(), 2, false));
    assert!(code == 1 && text.contains("is refused"), "{text}");
    wait_for("the reason", || {
        let problem = &site.retained("model/default")["problem"]["words"];
        problem
            .as_str()
            .is_some_and(|words| words.contains("is refused"))
    });
}

fn roll_back(daemon: &Daemon) {
    let start = Instant::now();
    let text = cli_ok(daemon, &["models", "rollback"]);
    let took = start.elapsed();
    eprintln!("rollback, the command's start included: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(text.contains("serves again"), "{text}");
}

/// A second rollback would lead to the newer version, which only a promotion by its version does.
fn refuse_second_rollback(daemon: &Daemon) {
    let (code, text) = daemon.cli(&["models", "rollback"]);
    assert!(
        code == 1 && text.contains("`scansided models promote 2.0.0` lets the newer"),
        "{text}"
    );
    cli_ok(daemon, &["models", "promote", "2.0.0"]);
    // Errors in the arguments are not recorded as a problem of the slot.
    for wrong in [
        &["models", "promote", "3.0.0"][..],
        &["models", "promote", "--slot", "hart"],
        &["models", "rollback", "--slot", "hart"],
    ] {
        let (code, text) = daemon.cli(wrong);
        assert!(code == 1 && text.contains('`'), "{text}");
    }
}

#[test]
fn a_swap_amid_a_stream_of_images_loses_none() {
    const IMAGES: usize = 300;
    if mosquitto().is_none() {
        return;
    }
    let (port, signer) = (free_port(), Signer::new());
    let site = Site::with(trusting_daemon(port, &signer, ""), port, "");
    let daemon = &site.daemon;
    daemon.wait_for_log("ready");
    let bright = digest(&daemon.path().join("bundle"));
    let second = signer.make_bundle(daemon.path(), 2, true);
    cli_ok(daemon, &["models", "install", second.to_str().unwrap()]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..IMAGES {
                daemon.drop_image(number);
                sleep(Duration::from_millis(10));
            }
        });
        for swap in 0..10 {
            site.wait_for_results(IMAGES * swap / 12);
            cli_ok(daemon, &["models", "promote"]);
            site.wait_for_results(IMAGES * (2 * swap + 1) / 24);
            cli_ok(daemon, &["models", "rollback"]);
        }
    });
    site.wait_for_results(IMAGES);
    let (n_bright, n_dark) = count_by_model(&site, &bright, &digest(&second));
    eprintln!("{n_bright} results of one model, {n_dark} of the other, 20 swaps");
    assert!(n_bright > 0 && n_dark > 0);
    site.assert_published(IMAGES, 0);
}

#[test]
fn old_versions_are_removed_above_the_limit() {
    let signer = Signer::new();
    let daemon = trusting_daemon(free_port(), &signer, "versions_max = 3\n");
    for counter in 2..=6 {
        let bundle = signer.make_bundle(daemon.path(), counter, false);
        cli_ok(&daemon, &["models", "install", bundle.to_str().unwrap()]);
        if counter == 2 {
            cli_ok(&daemon, &["models", "promote"]);
        }
    }
    let slot = slot(&daemon);
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
    let site = Site::with(
        trusting_daemon(port, &signer, "shadow = \"candidate\"\n"),
        port,
        "",
    );
    let daemon = &site.daemon;
    daemon.wait_for_log("ready");
    assert_eq!(site.retained("model/default")["shadow"], Value::Null);
    let second = signer.make_bundle(daemon.path(), 2, true);
    cli_ok(daemon, &["models", "install", second.to_str().unwrap()]);
    (0..IMAGES).for_each(|number| daemon.drop_image(number));
    site.wait_for_results(IMAGES);
    wait_for("the figures", || {
        let shadow = &site.retained("model/default")["shadow"];
        let sum = ["images", "skipped"].map(|key| shadow[key].as_u64().unwrap_or(0));
        // The masks are complements but for the border.
        let apart = shadow["dice"][0]["mean"]
            .as_f64()
            .is_some_and(|dice| dice < 0.2);
        sum[0] > 0 && sum[0] + sum[1] == IMAGES as u64 && shadow["failed"] == 0 && apart
    });
    let bright = digest(&daemon.path().join("bundle"));
    assert_eq!(count_by_model(&site, &bright, ""), (IMAGES, 0));
    site.assert_published(IMAGES, 0);
}

#[test]
fn with_a_trusted_key_the_configured_bundle_is_signed_and_not_older() {
    let (port, signer) = (scripted_broker::start_accepting(), Signer::new());
    let mut daemon = trusting_daemon(port, &signer, "");
    let third = signer.make_bundle(daemon.path(), 3, true);
    // Installed before the first start, which then serves it.
    cli_ok(&daemon, &["models", "install", third.to_str().unwrap()]);
    let text = cli_ok(&daemon, &["models", "promote"]);
    assert!(text.contains("from the next start"), "{text}");
    let (code, text) = daemon.cli(&["models", "rollback"]);
    assert!(
        code == 1 && text.contains("nothing served before"),
        "{text}"
    );
    daemon.start();
    daemon.wait_for_log("ready");
    assert_eq!(slot(&daemon)["active"]["version"], "3.0.0");
    daemon.stop();
    let (code, text) = daemon.cli(&["check"]);
    assert!(
        text.contains("slot `default`: bright-band 3.0.0"),
        "{code} {text}"
    );

    // Without the record the daemon would serve the older bundle of the configuration; the highest counter prevents it.
    let record = daemon.path().join("state/models/default/slot.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    value["active"] = Value::Null;
    fs::write(&record, value.to_string()).unwrap();
    daemon.start();
    wait_for("the refusal", || {
        daemon.n_log_lines(&["the highest counter that served is 3"]) == 1
    });
    fs::remove_file(daemon.path().join("bundle").join(SIGNATURE)).unwrap();
    daemon.start();
    wait_for("the refusal", || {
        daemon.n_log_lines(&["only signed bundles"]) == 1
    });
}
