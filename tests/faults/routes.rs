//! `[[route]]`: images of one box for two bundles and for none.

use std::fs;

use phantom::Heart;
use phantom::dicom::Ids;
use serde_json::Value;

use crate::script::{self, Answer};
use crate::signer::Signer;
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, Station, free_port, wait_for};

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

/// A phantom with another modality.
fn phantom(modality: [u8; 2]) -> Vec<u8> {
    let phantom = Heart::new(1).slice_sized(1, 3, 0.0, 64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dcm");
    phantom::dicom::write(&path, &phantom, &Ids::new(&phantom, 1, 1)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    // (0008,0060) CS, two bytes.
    let element = b"\x08\x00\x60\x00CS\x02\x00";
    let at = bytes
        .windows(8)
        .position(|window| window == element)
        .unwrap()
        + 8;
    bytes[at..at + 2].copy_from_slice(&modality);
    bytes
}

fn prepared(port: u16) -> Station {
    let station = Station::new(port, RULES);
    Signer::new().bundle(station.path(), 2, true);
    station
}

#[test]
fn images_meet_the_bundle_that_the_rules_say() {
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let site = Site::with(prepared(port), port, "");
    let station = &site.station;
    let mut events = site.wait_for_events(1);
    station.wait_for_word("ready");
    station.drop_bytes("mr", &phantom(*b"MR"));
    station.drop_bytes("ct", &phantom(*b"CT"));
    station.drop_image(0);
    site.wait_for_results(2);
    let mut seen = Vec::new();
    for line in site.lines.lock().unwrap().iter() {
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
    let (_, text) = station.ask(&["quarantine", "list"]);
    assert!(text.contains("  inbox  route  "), "{text}");
    assert!(
        text.contains("rule 1 of `[[route]]` sends it to no model: no model for CT"),
        "{text}"
    );
    let models = &site.retained("state")["models"];
    assert_ne!(models["default"], models["heart"]);
    assert_eq!(site.retained("model/heart")["version"], "2.0.0");
    site.settle(2, 1);
}

#[test]
fn a_user_is_told_which_rule_takes_a_file() {
    let station = prepared(script::start(|_, _| Answer::Code(0)));
    let file = station.path().join("a file.dcm");
    let file = file.to_str().unwrap();
    fs::write(file, phantom(*b"MR")).unwrap();
    let (code, text) = station.ask(&["route", file, "--source", "inbox"]);
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
    let (_, text) = station.ask(&["route", file]);
    assert!(text.contains("no --source was named"), "{text}");
    assert!(text.contains("no rule takes it: slot default"), "{text}");
    fs::write(file, phantom(*b"CT")).unwrap();
    let (_, text) = station.ask(&["route", file]);
    assert!(
        text.contains("rule 1 takes it: quarantine, because no model for CT"),
        "{text}"
    );
    fs::write(file, "no image").unwrap();
    let (_, text) = station.ask(&["route", file]);
    assert!(text.contains("and this is no DICOM file"), "{text}");
    let (code, text) = station.ask(&["route", file, "--source", "pacs"]);
    assert!(
        code == 1 && text.contains("no source is called `pacs`"),
        "{text}"
    );
}

#[test]
fn without_a_bundle_the_slot_is_named() {
    let mut station = prepared(free_port());
    fs::remove_dir_all(station.path().join("bundle-2")).unwrap();
    station.start_daemon();
    wait_for("the refusal", PATIENCE, || {
        station.said(&["bundle-2", "cannot be read"]) == 1
    });
}
