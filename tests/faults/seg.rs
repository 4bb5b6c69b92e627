//! DICOM Segmentations: whatever is killed, a series has exactly one, of the masks that MQTT carried.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use serde_json::Value;

use crate::sender;
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, Process, free_port, wait_for};

const SLICES: usize = 40;

pub(crate) fn segmentations(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        // storescp names its files after modality and UID.
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() && !name.starts_with('.') {
            files.push(path);
        }
    }
    files
}

fn items(object: &InMemDicomObject, tag: dicom_object::Tag) -> Vec<InMemDicomObject> {
    object.element(tag).unwrap().items().unwrap().to_vec()
}

fn word(object: &InMemDicomObject, tag: dicom_object::Tag) -> String {
    let text = object.element(tag).unwrap().to_str().unwrap();
    text.trim_end_matches(['\0', ' ']).to_owned()
}

/// Pixels of the class in each frame.
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

/// The segmentation tells of every image, and its frames are the masks that the subscriber got.
fn compare(file: &Path, site: &Site, n_images: usize) {
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
            word(source, tags::REFERENCED_SOP_INSTANCE_UID)
        })
        .collect();
    assert_eq!(sources.len(), groups.len(), "a frame for each image");
    let mut carried: BTreeMap<String, usize> = BTreeMap::new();
    for line in site.lines.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        let instances = report["instances"].as_array().unwrap();
        let area = instances
            .first()
            .map_or(0, |found| found["area_px"].as_u64().unwrap());
        let job = report["job_id"].as_str().unwrap().to_owned();
        carried.insert(job, area as usize);
    }
    let mut carried: Vec<usize> = carried.into_values().collect();
    let mut found = areas(&object);
    carried.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, carried);
    assert_ne!(found.last(), Some(&0), "the phantom is bright somewhere");
}

#[test]
fn a_series_from_the_inbox_has_one_segmentation() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "[seg]\ndirectory = \"segs\"\nquiet_s = 4");
    let folder = tempfile::tempdir().unwrap();
    let files = sender::one_series(folder.path(), SLICES);
    let segs = site.station.path().join("segs");
    for half in files.chunks(SLICES / 2) {
        for file in half {
            site.station.drop_file(file);
        }
        sleep(Duration::from_millis(300));
        site.station.kill_daemon();
        site.station.start_daemon();
    }
    site.wait_for_results(SLICES);
    // Complete, and nowhere to go: it waits, also through a kill.
    site.station.wait_for_word("segmentations wait");
    site.station.kill_daemon();
    fs::create_dir(&segs).unwrap();
    site.station.start_daemon();
    wait_for("a segmentation", PATIENCE, || {
        segmentations(&segs).len() == 1
    });
    site.station.wait_for_word("segmentation of a series made");
    let bytes = fs::read(&segmentations(&segs)[0]).unwrap();
    compare(&segmentations(&segs)[0], &site, SLICES);

    // The whole series once more is the same segmentation, to the name.
    for file in &files {
        site.station.drop_file(file);
    }
    wait_for("the copy", PATIENCE, || {
        site.station.said(&["segmentation of a series made"]) == 2
    });
    assert_eq!(segmentations(&segs).len(), 1);
    let copy = fs::read(&segmentations(&segs)[0]).unwrap();
    assert_eq!(bytes.len(), copy.len());
    for uid in ["2.25.", "PHANTOM-"] {
        assert_eq!(site.station.said(&[uid]), 0, "{uid} is in the log");
    }
    site.settle(SLICES, 0);
}

/// `tls`: DCMTK's arguments for it.
pub(crate) fn start_storescp(port: u16, folder: &Path, tls: &[&str]) -> Process {
    let mut command = Command::new("storescp");
    command
        .args(["-aet", "PACS", "-od"])
        .arg(folder)
        .args(tls)
        .arg(port.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let pacs = Process(command.spawn().unwrap());
    wait_for("the PACS", PATIENCE, || {
        let mut echo = Command::new("echoscu");
        echo.args(["-to", "2", "-aec", "PACS"]).args(tls);
        echo.args(["127.0.0.1", &port.to_string()]);
        echo.stderr(Stdio::null()).status().unwrap().success()
    });
    pacs
}

#[test]
fn a_series_from_a_sender_is_sent_to_the_pacs() {
    if !sender::dcmtk() {
        return;
    }
    let (port, pacs_port) = (free_port(), free_port());
    let seg = format!(
        "[seg]\nquiet_s = 3600\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {pacs_port}\n\
         called_ae_title = \"PACS\"\nretry_max_ms = 1000\n{}",
        sender::section(port)
    );
    let mut site = Site::new("", &seg);
    let folder = tempfile::tempdir().unwrap();
    let files = sender::one_series(folder.path(), SLICES);
    site.station.wait_for_word("ready");
    // The PACS is away: what the release completed waits, also through a kill.
    assert!(sender::deliver(port, &files, &[]));
    site.station.wait_for_word("segmentations cannot be sent");
    site.station.kill_daemon();
    let waiting = site.station.path().join("state/segmentations");
    assert_eq!(segmentations(&waiting).len(), 1);
    site.station.start_daemon();
    site.station.wait_for_word("segmentations cannot be sent");
    let pacs = tempfile::tempdir().unwrap();
    let running = start_storescp(pacs_port, pacs.path(), &[]);
    wait_for("an empty shelf", PATIENCE, || {
        segmentations(&waiting).is_empty()
    });
    drop(running);
    let stored = segmentations(pacs.path());
    assert_eq!(stored.len(), 1);
    compare(&stored[0], &site, SLICES);
    site.settle(SLICES, 0);
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
    for file in sender::one_series(folder.path(), 3) {
        site.station.drop_file(&file);
    }
    site.station.wait_for_word("segmentation refused");
    let tries = site.station.said(&["segmentation not stored", "A700H"]);
    assert_eq!(tries, 2, "{}", site.station.log());
    let shelf = site.station.path().join("state/segmentations");
    wait_for("the refusal", PATIENCE, || segmentations(&shelf).is_empty());
    // Beside the reason.
    let mut refused = segmentations(&shelf.join("refused"));
    refused.retain(|path| path.extension().is_some_and(|name| name == "dcm"));
    assert_eq!(refused.len(), 1);
    let (code, words) = site.station.ask(&["check"]);
    assert!(
        words.contains("ok    seg: SCANSIDE at 127.0.0.1"),
        "{code}: {words}"
    );
    site.settle(3, 0);
}

/// Events of series, as a subscriber of its own gets them.
struct Events {
    _subscriber: Process,
    path: PathBuf,
}

impl Events {
    fn of(site: &Site) -> Self {
        let path = site.station.path().join("events");
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &site.port().to_string(), "-V", "5", "-q", "1"]);
        command.args(["-t", "scanside/v1/box-1/event"]);
        command.stdout(fs::File::create(&path).unwrap());
        let subscriber = Process(command.spawn().unwrap());
        // Nothing is accepted before it listens.
        sleep(Duration::from_secs(1));
        Self {
            _subscriber: subscriber,
            path,
        }
    }

    fn wait_for(&self, count: usize) -> Vec<Value> {
        // A copy has the number of its event.
        let read = || {
            let text = fs::read_to_string(&self.path).unwrap();
            let events = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                // A new state directory says so first.
                .filter(|event: &Value| event["event"] == "series");
            let numbered = events.map(|event: Value| (event["seq"].as_u64(), event));
            let numbered: BTreeMap<_, _> = numbered.collect();
            numbered.into_values().collect::<Vec<Value>>()
        };
        wait_for("events", PATIENCE, || read().len() >= count);
        read()
    }
}

/// The file with other UIDs.
fn edit(file: &Path, uids: &[(dicom_object::Tag, &str)]) {
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
    let segs = site.station.path().join("segs");
    fs::create_dir(&segs).unwrap();
    let events = Events::of(&site);
    let folder = tempfile::tempdir().unwrap();
    let files = sender::one_series(folder.path(), 6);
    for file in &files[..4] {
        site.station.drop_file(file);
    }
    let first = events.wait_for(1).remove(0);
    site.station.kill_daemon();
    site.station.start_daemon();
    for file in &files[4..] {
        site.station.drop_file(file);
    }
    let second = events.wait_for(2).remove(1);
    assert_eq!(
        (&first["images"], &second["images"]),
        (&4.into(), &6.into())
    );
    assert_eq!(second["replaces"], serde_json::json!([first["series"]]));
    assert_eq!(second["warnings"], serde_json::json!([]));
    assert_eq!(site.station.said(&["images came late"]), 1);
    let mut made = segmentations(&segs);
    assert_eq!(made.len(), 2, "other bytes are another object");
    let count = |file: &PathBuf| {
        let object = dicom_object::open_file(file).unwrap();
        let series = &items(&object, tags::REFERENCED_SERIES_SEQUENCE)[0];
        items(series, tags::REFERENCED_INSTANCE_SEQUENCE).len()
    };
    made.sort_by_key(count);
    compare(&made[1], &site, 6);
    // A viewer shows the instance of a series that has the highest number.
    let of = |file: &PathBuf, tag| word(&dicom_object::open_file(file).unwrap(), tag);
    let series = |file| of(file, tags::SERIES_INSTANCE_UID);
    assert_eq!(series(&made[0]), series(&made[1]));
    assert_eq!(of(&made[1], tags::INSTANCE_NUMBER), "6");
    // One image again changes nothing.
    site.station.drop_file(&files[2]);
    let third = events.wait_for(3).remove(2);
    assert_eq!(third["series"], second["series"]);
    assert_eq!(segmentations(&segs).len(), 2);
    site.settle(6, 0);
}

#[test]
fn what_is_odd_in_a_series_is_said() {
    if mosquitto().is_none() {
        return;
    }
    let site = Site::new("", "[seg]\ndirectory = \"segs\"\nquiet_s = 2");
    let segs = site.station.path().join("segs");
    fs::create_dir(&segs).unwrap();
    let events = Events::of(&site);
    let folder = tempfile::tempdir().unwrap();
    let series = |name: &str, n_slices: usize| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let files = sender::one_series(&folder, n_slices);
        // In the inbox no name comes twice.
        let apart = |(index, file): (usize, &PathBuf)| {
            let to = folder.join(format!("{name}-{index}.dcm"));
            fs::rename(file, &to).unwrap();
            to
        };
        files.iter().enumerate().map(apart).collect::<Vec<_>>()
    };
    // Two slices under one UID.
    let shared = series("shared", 4);
    let uid = word(
        &dicom_object::open_file(&shared[1]).unwrap(),
        tags::SOP_INSTANCE_UID,
    );
    edit(&shared[2], &[(tags::SOP_INSTANCE_UID, &uid)]);
    // An anonymizer that writes letters, and one that writes too much.
    let letters = series("letters", 3);
    for file in &letters {
        edit(file, &[(tags::SERIES_INSTANCE_UID, "2.25.ANON-7")]);
    }
    let long = series("long", 1);
    edit(&long[0], &[(tags::SERIES_INSTANCE_UID, &"1".repeat(70))]);
    for file in shared.iter().chain(&letters).chain(&long) {
        site.station.drop_file(file);
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
        let said = site.station.said(&["segmentation with a warning", word]);
        assert_eq!(said, 1, "{word}: {}", site.station.log());
    }
    let without = ["an image has no segmentation", "SeriesInstanceUID"];
    assert_eq!(site.station.said(&without), 1);
    let results = site.lines.lock().unwrap().clone();
    let told = results
        .iter()
        .filter(|line| line.contains("no_segmentation"));
    assert_eq!(told.count(), 1, "in the result of the image");
    assert_eq!(segmentations(&segs).len(), 2);
    site.settle(8, 0);
}
