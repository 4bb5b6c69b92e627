//! DICOM Segmentations: whatever is killed, a series has exactly one, with the masks that were published by MQTT.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use serde_json::Value;

use crate::harness::dcmtk::{self, segmentations};
use crate::harness::process::{Process, free_port, wait_for};
use crate::harness::site::{Site, mosquitto};

const SLICES: usize = 40;

fn items(object: &InMemDicomObject, tag: dicom_object::Tag) -> Vec<InMemDicomObject> {
    object.element(tag).unwrap().items().unwrap().to_vec()
}

fn text_of(object: &InMemDicomObject, tag: dicom_object::Tag) -> String {
    let text = object.element(tag).unwrap().to_str().unwrap();
    text.trim_end_matches(['\0', ' ']).to_owned()
}

/// The number of pixels of the class in each frame.
fn areas(object: &DefaultDicomObject) -> Vec<usize> {
    let size = |tag| object.element(tag).unwrap().to_int::<usize>().unwrap();
    let frame_px = size(tags::ROWS) * size(tags::COLUMNS);
    let pixels = object
        .element(tags::PIXEL_DATA)
        .unwrap()
        .to_bytes()
        .unwrap();
    let bit = |index: usize| usize::from(pixels[index / 8] >> (index % 8) & 1);
    (0..size(tags::NUMBER_OF_FRAMES))
        .map(|frame| {
            (0..frame_px)
                .map(|index| bit(frame * frame_px + index))
                .sum()
        })
        .collect()
}

/// Asserts that the segmentation references every image, and that its frames are the masks that the subscriber received.
fn assert_segmentation(file: &Path, site: &Site, n_images: usize) {
    let object = dicom_object::open_file(file).unwrap();
    let series = &items(&object, tags::REFERENCED_SERIES_SEQUENCE)[0];
    let referenced = items(series, tags::REFERENCED_INSTANCE_SEQUENCE).len();
    assert_eq!(referenced, n_images);
    let groups = items(&object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    let sources: std::collections::BTreeSet<String> = groups
        .iter()
        .map(|group| {
            let derivation = &items(group, tags::DERIVATION_IMAGE_SEQUENCE)[0];
            let source = &items(derivation, tags::SOURCE_IMAGE_SEQUENCE)[0];
            text_of(source, tags::REFERENCED_SOP_INSTANCE_UID)
        })
        .collect();
    assert_eq!(sources.len(), groups.len(), "a frame for each image");
    let mut published: BTreeMap<String, usize> = BTreeMap::new();
    for line in site.payloads.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        let instances = report["instances"].as_array().unwrap();
        let area = instances
            .first()
            .map_or(0, |found| found["area_px"].as_u64().unwrap());
        let job = report["job_id"].as_str().unwrap().to_owned();
        published.insert(job, area as usize);
    }
    let mut published: Vec<usize> = published.into_values().collect();
    let mut found = areas(&object);
    published.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, published);
    assert_ne!(found.last(), Some(&0), "the phantom is bright somewhere");
}

#[test]
fn a_series_from_the_inbox_has_one_segmentation() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "[seg]\ndirectory = \"segs\"\nquiet_s = 4");
    let folder = tempfile::tempdir().unwrap();
    let files = dcmtk::write_series(folder.path(), SLICES);
    let segs = site.daemon.path().join("segs");
    for half in files.chunks(SLICES / 2) {
        for file in half {
            site.daemon.drop_file(file);
        }
        sleep(Duration::from_millis(300));
        site.daemon.kill();
        site.daemon.start();
    }
    site.wait_for_results(SLICES);
    // The segmentation is complete and its folder is missing: it waits, also through a kill.
    site.daemon.wait_for_log("segmentations wait");
    site.daemon.kill();
    fs::create_dir(&segs).unwrap();
    site.daemon.start();
    wait_for("a segmentation", || segmentations(&segs).len() == 1);
    site.daemon.wait_for_log("segmentation of a series made");
    let bytes = fs::read(&segmentations(&segs)[0]).unwrap();
    assert_segmentation(&segmentations(&segs)[0], &site, SLICES);

    // The whole series once more gives the same segmentation under the same name.
    for file in &files {
        site.daemon.drop_file(file);
    }
    wait_for("the copy", || {
        site.daemon.n_log_lines(&["segmentation of a series made"]) == 2
    });
    assert_eq!(segmentations(&segs).len(), 1);
    let copy = fs::read(&segmentations(&segs)[0]).unwrap();
    assert_eq!(bytes.len(), copy.len());
    for uid in ["2.25.", "PHANTOM-"] {
        assert_eq!(site.daemon.n_log_lines(&[uid]), 0, "{uid} is in the log");
    }
    site.assert_published(SLICES, 0);
}

#[test]
fn a_series_from_a_sender_is_sent_to_the_pacs() {
    if !dcmtk::is_installed() {
        return;
    }
    let (port, pacs_port) = (free_port(), free_port());
    let seg = format!(
        "[seg]\nquiet_s = 3600\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {pacs_port}\n\
         called_ae_title = \"PACS\"\nretry_max_ms = 1000\n{}",
        dcmtk::config_section(port)
    );
    let mut site = Site::new("", &seg);
    let folder = tempfile::tempdir().unwrap();
    let files = dcmtk::write_series(folder.path(), SLICES);
    site.daemon.wait_for_log("ready");
    // The release completes the series. The PACS is away, so the segmentation waits, also through a kill.
    assert!(dcmtk::storescu(port, &files, &[]));
    site.daemon.wait_for_log("segmentations cannot be sent");
    site.daemon.kill();
    let waiting = site.daemon.path().join("state/segmentations");
    assert_eq!(segmentations(&waiting).len(), 1);
    site.daemon.start();
    site.daemon.wait_for_log("segmentations cannot be sent");
    let pacs = tempfile::tempdir().unwrap();
    let running = dcmtk::start_storescp(pacs_port, pacs.path(), &[]);
    wait_for("an empty folder", || segmentations(&waiting).is_empty());
    drop(running);
    let stored = segmentations(pacs.path());
    assert_eq!(stored.len(), 1);
    assert_segmentation(&stored[0], &site, SLICES);
    site.assert_published(SLICES, 0);
}

/// The PACS is a port of the daemon itself, which has no room for anything.
#[test]
fn what_the_pacs_refuses_is_kept_aside() {
    if mosquitto().is_none() {
        return;
    }
    let port = free_port();
    let seg = format!(
        "[[dicom]]\nname = \"full\"\nport = {port}\nobject_max_bytes = 100\n\
         [seg]\nquiet_s = 1\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {port}\n\
         called_ae_title = \"SCANSIDE\"\nretry_min_ms = 10\nretry_max_ms = 100\nattempts_max = 3"
    );
    let site = Site::new("", &seg);
    let folder = tempfile::tempdir().unwrap();
    for file in dcmtk::write_series(folder.path(), 3) {
        site.daemon.drop_file(&file);
    }
    site.daemon.wait_for_log("segmentation refused");
    let tries = site
        .daemon
        .n_log_lines(&["segmentation not stored", "A700H"]);
    assert_eq!(tries, 2, "{}", site.daemon.log());
    let waiting = site.daemon.path().join("state/segmentations");
    wait_for("the refusal", || segmentations(&waiting).is_empty());
    // A file with the reason lies beside each.
    let mut refused = segmentations(&waiting.join("refused"));
    refused.retain(|path| path.extension().is_some_and(|name| name == "dcm"));
    assert_eq!(refused.len(), 1);
    let (code, words) = site.daemon.cli(&["check"]);
    assert!(
        words.contains("ok    seg: SCANSIDE at 127.0.0.1"),
        "{code}: {words}"
    );
    site.assert_published(3, 0);
}

/// The events of series, from a subscriber of its own.
struct Events {
    _subscriber: Process,
    path: PathBuf,
}

impl Events {
    fn subscribe(site: &Site) -> Self {
        let path = site.daemon.path().join("events");
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &site.port().to_string(), "-V", "5", "-q", "1"]);
        command.args(["-t", "scanside/v1/box-1/event"]);
        command.stdout(fs::File::create(&path).unwrap());
        let subscriber = Process(command.spawn().unwrap());
        // The subscription has to exist before the first image is accepted.
        sleep(Duration::from_secs(1));
        Self {
            _subscriber: subscriber,
            path,
        }
    }

    fn wait_for(&self, count: usize) -> Vec<Value> {
        // A copy has the sequence number of its event.
        let read = || {
            let text = fs::read_to_string(&self.path).unwrap();
            let events = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                // The first event is about the new state directory.
                .filter(|event: &Value| event["event"] == "series");
            let numbered = events.map(|event: Value| (event["seq"].as_u64(), event));
            let numbered: BTreeMap<_, _> = numbered.collect();
            numbered.into_values().collect::<Vec<Value>>()
        };
        wait_for("events", || read().len() >= count);
        read()
    }
}

/// Replaces UIDs in a file.
fn set_uids(file: &Path, uids: &[(dicom_object::Tag, &str)]) {
    let mut object = dicom_object::open_file(file).unwrap();
    for (tag, uid) in uids {
        let value = dicom_core::PrimitiveValue::from(*uid);
        object.put(dicom_core::DataElement::new(
            *tag,
            dicom_core::VR::UI,
            value,
        ));
    }
    object.write_to_file(file).unwrap();
}

#[test]
fn images_that_come_late_make_the_whole_series_anew() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "[seg]\ndirectory = \"segs\"\nquiet_s = 1");
    let segs = site.daemon.path().join("segs");
    fs::create_dir(&segs).unwrap();
    let events = Events::subscribe(&site);
    let folder = tempfile::tempdir().unwrap();
    let files = dcmtk::write_series(folder.path(), 6);
    for file in &files[..4] {
        site.daemon.drop_file(file);
    }
    let first = events.wait_for(1).remove(0);
    site.daemon.kill();
    site.daemon.start();
    for file in &files[4..] {
        site.daemon.drop_file(file);
    }
    let second = events.wait_for(2).remove(1);
    assert_eq!(
        (&first["images"], &second["images"]),
        (&4.into(), &6.into())
    );
    assert_eq!(second["replaces"], serde_json::json!([first["series"]]));
    assert_eq!(second["warnings"], serde_json::json!([]));
    assert_eq!(site.daemon.n_log_lines(&["images came late"]), 1);
    let mut made = segmentations(&segs);
    assert_eq!(made.len(), 2, "other bytes are another object");
    let count = |file: &PathBuf| {
        let object = dicom_object::open_file(file).unwrap();
        let series = &items(&object, tags::REFERENCED_SERIES_SEQUENCE)[0];
        items(series, tags::REFERENCED_INSTANCE_SEQUENCE).len()
    };
    made.sort_by_key(count);
    assert_segmentation(&made[1], &site, 6);
    // A viewer shows the instance of a series that has the highest number.
    let of = |file: &PathBuf, tag| text_of(&dicom_object::open_file(file).unwrap(), tag);
    let series = |file| of(file, tags::SERIES_INSTANCE_UID);
    assert_eq!(series(&made[0]), series(&made[1]));
    assert_eq!(of(&made[1], tags::INSTANCE_NUMBER), "6");
    // One image again changes nothing.
    site.daemon.drop_file(&files[2]);
    let third = events.wait_for(3).remove(2);
    assert_eq!(third["series"], second["series"]);
    assert_eq!(segmentations(&segs).len(), 2);
    site.assert_published(6, 0);
}

#[test]
fn warnings_of_a_series_are_reported() {
    if mosquitto().is_none() {
        return;
    }
    let site = Site::new("", "[seg]\ndirectory = \"segs\"\nquiet_s = 2");
    let segs = site.daemon.path().join("segs");
    fs::create_dir(&segs).unwrap();
    let events = Events::subscribe(&site);
    let folder = tempfile::tempdir().unwrap();
    let series = |name: &str, n_slices: usize| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let files = dcmtk::write_series(&folder, n_slices);
        // Two files of one name would replace each other in the inbox.
        let rename = |(index, file): (usize, &PathBuf)| {
            let to = folder.join(format!("{name}-{index}.dcm"));
            fs::rename(file, &to).unwrap();
            to
        };
        files.iter().enumerate().map(rename).collect::<Vec<_>>()
    };
    // Two slices under one UID.
    let shared = series("shared", 4);
    let uid = text_of(
        &dicom_object::open_file(&shared[1]).unwrap(),
        tags::SOP_INSTANCE_UID,
    );
    set_uids(&shared[2], &[(tags::SOP_INSTANCE_UID, &uid)]);
    // One anonymizer writes letters into UIDs, and one writes UIDs that are too long.
    let letters = series("letters", 3);
    for file in &letters {
        set_uids(file, &[(tags::SERIES_INSTANCE_UID, "2.25.ANON-7")]);
    }
    let long = series("long", 1);
    set_uids(&long[0], &[(tags::SERIES_INSTANCE_UID, &"1".repeat(70))]);
    for file in shared.iter().chain(&letters).chain(&long) {
        site.daemon.drop_file(file);
    }
    site.wait_for_results(8);
    let events = events.wait_for(2);
    let of = |word: &str| {
        let said = |event: &&Value| event["warned_images"].get(word).is_some();
        let event = events.iter().find(said).unwrap();
        let words = event["warnings"].as_array().unwrap();
        assert!(words.contains(&word.into()), "{event}");
        (
            event["images"].as_u64().unwrap(),
            event["warned_images"][word].as_u64().unwrap(),
        )
    };
    assert_eq!(of("uid_shared"), (3, 1));
    assert_eq!(of("uid_invalid"), (3, 3));
    for word in ["uid_shared", "uid_invalid", "slice_missing"] {
        let said = site
            .daemon
            .n_log_lines(&["segmentation with a warning", word]);
        assert_eq!(said, 1, "{word}: {}", site.daemon.log());
    }
    let without = ["an image has no segmentation", "SeriesInstanceUID"];
    assert_eq!(site.daemon.n_log_lines(&without), 1);
    let results = site.payloads.lock().unwrap().clone();
    let warned = results
        .iter()
        .filter(|line| line.contains("no_segmentation"));
    assert_eq!(warned.count(), 1, "in the result of the image");
    assert_eq!(segmentations(&segs).len(), 2);
    site.assert_published(8, 0);
}
