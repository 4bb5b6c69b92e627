//! A PACS that sends on everything it gets: what is no image of a patient is set aside, and no segmentation of a
//! segmentation comes out of it.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::seg::segmentations;
use crate::sender;
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, free_port, wait_for};

const MAKER: &[u8] = b"Scanside";

/// The file as if another program had made it.
fn foreign(own: &[u8]) -> Vec<u8> {
    let mut bytes = own.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(MAKER.len()).position(|it| it == MAKER) {
        at += found;
        bytes[at..at + MAKER.len()].copy_from_slice(b"Somebody");
    }
    assert!(at > 0, "the segmentation says who made it");
    bytes
}

/// The PACS is a port of the daemon itself, so what is sent to it is back at once.
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
    let segs = site.station.path().join("segs");
    fs::create_dir(&segs).unwrap();
    for file in sender::one_series(folder.path(), 3) {
        site.station.drop_file(&file);
    }
    site.station.wait_for_word("own_object");
    let own = fs::read(&segmentations(&segs)[0]).unwrap();
    site.station.drop_bytes("own", &own);
    site.station.drop_bytes("foreign", &foreign(&own));
    let ledger = || site.station.ask(&["ledger", "verify"]).1;
    wait_for("the end of all six", PATIENCE, || {
        ledger().contains("published 3 + pending 0 + quarantined 2 + rejected 0 + dropped 1")
    });
    // Several times as long as a series has to be quiet.
    sleep(Duration::from_secs(5));
    let made = site.station.said(&["segmentation of a series made"]);
    assert_eq!(
        (made, segmentations(&segs).len()),
        (1, 1),
        "{}",
        site.station.log()
    );
    let waiting = site.station.path().join("state/segmentations");
    assert!(
        segmentations(&waiting).is_empty(),
        "the PACS was told that it has it"
    );
    let (_, listed) = site.station.ask(&["quarantine", "list"]);
    assert!(listed.contains("no_patient_image"), "{listed}");
    assert!(listed.contains("Segmentation Storage"), "{listed}");
    assert_eq!(
        listed.matches("own_object").count(),
        1,
        "what a peer sent is not kept, a file of an inbox is: {listed}"
    );
    site.settle(3, 2);
}
