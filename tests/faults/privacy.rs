//! What results contain of the identifiers of a patient.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use phantom::Heart;
use phantom::dicom::Ids;
use serde_json::Value;

use crate::harness::site::{Site, mosquitto};

/// Drops an image of a series. Gives its identifiers, those in its result, and the result.
fn identifiers(site: &Site, number: u32) -> (Ids, Value, String) {
    let phantom = Heart::new(7).slice_sized(1, 3, 0.0, 256);
    let ids = Ids::new(&phantom, 1, number);
    let part = site.daemon.path().join("inbox/file.part");
    phantom::dicom::write(&part, &phantom, &ids).unwrap();
    fs::rename(&part, part.with_extension("dcm")).unwrap();
    site.wait_for_results(number as usize);
    let line = site.payloads.lock().unwrap().last().unwrap().clone();
    let result: Value = serde_json::from_str(&line).unwrap();
    (ids, result["image"]["identifiers"].clone(), line)
}

#[test]
fn identifiers_leave_the_box_as_the_configuration_says() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "");
    let (ids, first, line) = identifiers(&site, 1);
    assert_eq!(first["level"], "hashed");
    for raw in [
        &ids.study_instance_uid,
        &ids.series_instance_uid,
        &ids.sop_instance_uid,
        &ids.patient_id,
    ] {
        assert!(!line.contains(&**raw), "{line}");
    }
    let (_, second, _) = identifiers(&site, 2);
    assert_eq!(first["series_instance_uid"], second["series_instance_uid"]);
    assert_ne!(first["sop_instance_uid"], second["sop_instance_uid"]);

    // OpenSSL computes the same hash, as the documentation of the key says.
    let key = site.daemon.path().join("state/identifiers.key");
    let mode = fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let words = format!(
        "printf %s {} | openssl dgst -sha256 -mac HMAC -macopt hexkey:$(xxd -p -c 64 {})",
        ids.sop_instance_uid,
        key.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &words])
        .output()
        .unwrap();
    let digest = String::from_utf8(output.stdout).unwrap();
    let hash = first["sop_instance_uid"].as_str().unwrap();
    if output.status.success() {
        assert_eq!(hash.len(), 32);
        assert!(digest.contains(hash), "{digest} {hash}");
    } else {
        eprintln!("SKIPPED: openssl or xxd is not installed; the hash was not compared");
    }

    site.daemon.stop();
    site.daemon
        .replace_in_config("[mqtt]\n", "[privacy]\nidentifiers = \"full\"\n[mqtt]\n");
    site.daemon.start();
    let (ids, shown, _) = identifiers(&site, 3);
    assert_eq!(shown["level"], "full");
    assert_eq!(shown["sop_instance_uid"], *ids.sop_instance_uid);
    assert_eq!(shown["patient_id"], *ids.patient_id);
    assert_eq!(
        site.daemon
            .n_log_lines(&["`privacy.identifiers` is `full`"]),
        1
    );

    site.daemon.stop();
    site.daemon.replace_in_config("\"full\"", "\"none\"");
    site.daemon.start();
    let (_, shown, line) = identifiers(&site, 4);
    assert_eq!(shown, Value::Null, "{line}");
    site.assert_published(4, 0);
}
