//! `[[route]]`: the images of one daemon go to two bundles and to none.

use std::fs;

use phantom::Heart;
use phantom::dicom::Ids;
use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::process::{free_port, wait_for};
use crate::harness::scripted_broker;
use crate::harness::signer::Signer;
use crate::harness::site::{Site, mosquitto};

const RULES: &str = "
[[slot]]
name = \"heart\"
bundle = \"bundle-2\"
[[route]]
when = { Modality = \"CT\" }
slot = \"none\"
reason = \"no model for CT\"
[[route]]
source = \"inbox\"
when = { Modality = [\"mr\", \"XA\"], SeriesDescription = \"*cine*\" }
slot = \"heart\"
";

/// A DICOM file of this modality.
fn phantom(modality: [u8; 2]) -> Vec<u8> {
    let phantom = Heart::new(1).slice_sized(1, 3, 0.0, 64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dcm");
    phantom::dicom::write(&path, &phantom, &Ids::new(&phantom, 1, 1)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    // Modality (0008,0060), VR CS, of two bytes.
    let element = b"\x08\x00\x60\x00CS\x02\x00";
    let at = bytes
        .windows(8)
        .position(|window| window == element)
        .unwrap()
        + 8;
    bytes[at..at + 2].copy_from_slice(&modality);
    bytes
}

fn daemon_with_rules(port: u16) -> Daemon {
    let daemon = Daemon::new(port, RULES);
    Signer::new().make_bundle(daemon.path(), 2, true);
    daemon
}

#[test]
fn images_go_to_the_bundle_that_the_rules_name() {
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let site = Site::with(daemon_with_rules(port), port, "");
    let daemon = &site.daemon;
    let mut events = site.start_event_subscriber(1);
    daemon.wait_for_log("ready");
    daemon.drop_bytes("mr.dcm", &phantom(*b"MR"));
    daemon.drop_bytes("ct.dcm", &phantom(*b"CT"));
    daemon.drop_image(0);
    site.wait_for_results(2);
    let mut seen = Vec::new();
    for line in site.payloads.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        let modality = report["image"]["modality"]
            .as_str()
            .unwrap_or("-")
            .to_owned();
        seen.push(format!(
            "{modality} {}",
            report["model"]["version"].as_str().unwrap()
        ));
    }
    seen.sort();
    assert_eq!(seen, ["- 1.0.0", "MR 2.0.0"]);
    assert!(events.0.wait().unwrap().success());
    // The event is on its way before the file has moved.
    let list = || daemon.cli(&["quarantine", "list"]).1;
    wait_for("an image in quarantine", || {
        list().contains("  inbox  route  ")
    });
    let text = list();
    assert!(
        text.contains("rule 1 of `[[route]]` sends it to no model: no model for CT"),
        "{text}"
    );
    let models = &site.retained("state")["models"];
    assert_ne!(models["default"], models["heart"]);
    assert_eq!(site.retained("model/heart")["version"], "2.0.0");
    site.assert_published(2, 1);
}

#[test]
fn a_user_is_told_which_rule_takes_a_file() {
    let daemon = daemon_with_rules(scripted_broker::start_accepting());
    let file = daemon.path().join("a file.dcm");
    let file = file.to_str().unwrap();
    fs::write(file, phantom(*b"MR")).unwrap();
    let (code, text) = daemon.cli(&["route", file, "--source", "inbox"]);
    assert_eq!(code, 0, "{text}");
    let series = text
        .lines()
        .find(|line| line.contains("SeriesDescription"))
        .unwrap();
    for line in [
        "rule 1, slot none: does not match",
        "    Modality is \"MR\", which does not fit \"CT\"",
        "rule 2, slot heart: matches",
        "    the source is inbox",
        "    Modality is \"MR\", which fits \"mr\" or \"XA\"",
        "rule 2 takes it: slot heart",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(series.contains("which fits \"*cine*\""), "{series}");
    let (_, text) = daemon.cli(&["route", file]);
    assert!(text.contains("no --source was named"), "{text}");
    assert!(text.contains("no rule takes it: slot default"), "{text}");
    fs::write(file, phantom(*b"CT")).unwrap();
    let (_, text) = daemon.cli(&["route", file]);
    assert!(
        text.contains("rule 1 takes it: quarantine, because no model for CT"),
        "{text}"
    );
    fs::write(file, "no image").unwrap();
    let (_, text) = daemon.cli(&["route", file]);
    assert!(text.contains("and this is no DICOM file"), "{text}");
    let (code, text) = daemon.cli(&["route", file, "--source", "pacs"]);
    assert!(
        code == 1 && text.contains("no source is called `pacs`"),
        "{text}"
    );
}

#[test]
fn without_a_bundle_the_slot_is_named() {
    let mut daemon = daemon_with_rules(free_port());
    fs::remove_dir_all(daemon.path().join("bundle-2")).unwrap();
    daemon.start();
    wait_for("the refusal", || {
        daemon.n_log_lines(&["bundle-2", "cannot be read"]) == 1
    });
}
