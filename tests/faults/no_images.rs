//! Fault F18: a PACS forwards everything that it receives. What is no image of a patient is not segmented, so no segmentation
//! of a segmentation is made.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::dcmtk::{self, segmentations};
use crate::harness::process::{free_port, wait_for};
use crate::harness::site::{Site, mosquitto};

const MAKER: &[u8] = b"Scanside";

/// The same segmentation with another manufacturer.
fn foreign(own: &[u8]) -> Vec<u8> {
    let mut bytes = own.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(MAKER.len()).position(|it| it == MAKER) {
        at += found;
        bytes[at..at + MAKER.len()].copy_from_slice(b"OtherBox");
    }
    assert!(at > 0, "the segmentation says who made it");
    bytes
}

/// The PACS is a port of the daemon itself, so what is sent to it returns at once.
#[test]
fn what_comes_back_is_no_image() {
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let seg = format!(
        "[[dicom]]\nname = \"back\"\nport = {port}\n[seg]\nquiet_s = 1\ndirectory = \"segs\"\n\
         [seg.send_to]\nhost = \"127.0.0.1\"\nport = {port}\ncalled_ae_title = \"SCANSIDE\""
    );
    let site = Site::new("", &seg);
    let folder = tempfile::tempdir().unwrap();
    let segs = site.daemon.path().join("segs");
    fs::create_dir(&segs).unwrap();
    for file in dcmtk::write_series(folder.path(), 3) {
        site.daemon.drop_file(&file);
    }
    site.daemon.wait_for_log("own_object");
    let own = fs::read(&segmentations(&segs)[0]).unwrap();
    site.daemon.drop_bytes("own.dcm", &own);
    site.daemon.drop_bytes("foreign.dcm", &foreign(&own));
    let ledger = || site.daemon.cli(&["ledger", "verify"]).1;
    wait_for("the end of all six", || {
        ledger().contains("published 3 + pending 0 + quarantined 2 + rejected 0 + dropped 1")
    });
    // This is several times `seg.quiet_s`.
    sleep(Duration::from_secs(5));
    let made = site.daemon.n_log_lines(&["segmentation of a series made"]);
    assert_eq!(
        (made, segmentations(&segs).len()),
        (1, 1),
        "{}",
        site.daemon.log()
    );
    let waiting = site.daemon.path().join("state/segmentations");
    assert!(
        segmentations(&waiting).is_empty(),
        "the PACS was told that it has it"
    );
    let (_, listed) = site.daemon.cli(&["quarantine", "list"]);
    assert!(listed.contains("no_patient_image"), "{listed}");
    assert!(listed.contains("Segmentation Storage"), "{listed}");
    assert_eq!(
        listed.matches("own_object").count(),
        1,
        "what a peer sent is not kept, a file of an inbox is: {listed}"
    );
    site.assert_published(3, 2);
}
