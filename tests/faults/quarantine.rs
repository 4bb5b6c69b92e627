//! `scansided quarantine` beside a daemon and without one, and with both killed in the middle of it.

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use dicom_core::value::PixelFragmentSequence;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::tags;
use serde_json::Value;

use crate::script::{self, Answer};
use crate::station::{PATIENCE, Process, Station, free_port, wait_for};

const IMAGES: usize = 24;
const TOO_SMALL: &str = "frame_max_pixels = 100";

/// A box whose images are all above a limit of its configuration.
fn strict_station(port: u16) -> Station {
    let mut station = Station::new(port, &format!("[decode]\n{TOO_SMALL}"));
    station.start_daemon();
    station
}

fn listed(station: &Station) -> Vec<Value> {
    let (code, text) = station.ask(&["quarantine", "list", "--json"]);
    assert_eq!(code, 0, "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ledger(station: &Station) -> Value {
    let (code, text) = station.ask(&["ledger", "show"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn wait_for_quarantine(station: &Station, count: usize) {
    wait_for("the quarantine", PATIENCE, || {
        listed(station).len() == count && ledger(station)["pending"] == 0
    });
}

/// A real JPEG 2000 image as a run of many frames, which takes ten seconds and more to decode.
fn slow_file() -> Option<Vec<u8>> {
    const FRAMES: usize = 60;
    let real = "../../shared/data/dicom_pile/good/dicom-test-fil__RG1_J2KI.dcm";
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join(real);
    if !real.exists() {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
            "../shared/data/dicom_pile is not here and SCANSIDE_REQUIRE_SHARED is set"
        );
        eprintln!("SKIPPED: ../shared is not here; a file that takes too long was NOT tested");
        return None;
    }
    let mut object = dicom_object::open_file(real).unwrap();
    let frame = object
        .element(tags::PIXEL_DATA)
        .unwrap()
        .fragments()
        .unwrap();
    let frames = PixelFragmentSequence::new_fragments(vec![frame.concat(); FRAMES]);
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, frames));
    object.put(DataElement::new(
        tags::NUMBER_OF_FRAMES,
        VR::IS,
        FRAMES.to_string(),
    ));
    let mut bytes = Vec::new();
    object.write_all(&mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn a_file_that_takes_too_long_to_decode_holds_up_no_other() {
    let Some(slow) = slow_file() else {
        return;
    };
    let port = script::start(|_, _| Answer::Code(0));
    let mut station = Station::new(port, "[decode]\ntimeout_s = 1");
    station.start_daemon();
    station.drop_bytes("slow", &slow);
    station.wait_for_word("image quarantined");
    station.drop_image(1);
    station.wait_for_segmented(1);
    let listed = listed(&station);
    assert_eq!(
        (listed.len(), &listed[0]["code"]),
        (1, &"too_slow".into()),
        "{listed:?}"
    );
    let ledger = station.close();
    assert!(
        ledger.contains("published 1 + pending 0 + quarantined 1"),
        "{ledger}"
    );
}

#[test]
fn what_a_user_sees_and_does_beside_a_running_daemon() {
    let port = script::start(|_, _| Answer::Code(0));
    let mut station = strict_station(port);
    (0..3).for_each(|number| station.drop_image(number));
    station.wait_for_word("ready");
    wait_for_quarantine(&station, 3);
    let (_, text) = station.ask(&["quarantine", "list"]);
    for word in [
        "job 1  ",
        "job 3  ",
        "  inbox  decode  ",
        " bytes  too_large: ",
    ] {
        assert!(text.contains(word), "{text}");
    }
    assert!(!text.contains(".png"), "{text}");

    let (code, text) = station.ask(&["quarantine", "drop", "2", "77"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("job 2 was removed"), "{text}");
    assert!(text.contains("job 77 is not in quarantine; `scansided quarantine list`"));
    let (code, text) = station.ask(&["quarantine", "retry"]);
    assert_eq!(code, 2, "{text}");

    // The reason is still there, so the job comes back with its number.
    let (code, text) = station.ask(&["quarantine", "retry", "1"]);
    assert_eq!((code, &*text), (0, "job 1 is a job again\n"));
    wait_for("the second try", PATIENCE, || {
        station.said(&["image quarantined", "ticket=1"]) == 2
    });
    wait_for_quarantine(&station, 2);

    station.stop_daemon();
    station.replace_in_config(TOO_SMALL, "frame_max_pixels = 10000");
    station.start_daemon();
    station.wait_for_word("ready");
    let (code, text) = station.ask(&["quarantine", "retry", "--all"]);
    assert_eq!(code, 0, "{text}");
    let books = station.close();
    let expected = "received 3 = published 2 + pending 0 + quarantined 0 + rejected 0 + dropped 1";
    assert!(books.contains(expected), "{books}");
    let (code, text) = station.ask(&["quarantine", "list"]);
    assert_eq!((code, &*text), (0, "nothing in quarantine\n"));

    // The whole story of the one that was tried three times.
    let (code, text) = station.ask(&["ledger", "show", "1"]);
    assert_eq!(code, 0, "{text}");
    for word in [
        "job 1 from inbox: published, since ",
        "\naccepted at ",
        " bytes, sha256 ",
        "\nattempts 1\n",
        "\nmessage result/inbox: seq ",
        ", acknowledged at ",
        "\nquarantine: decode, too_large: ",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let (code, text) = station.ask(&["ledger", "show", "2", "--json"]);
    let life: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &life["state"]), (0, &"dropped".into()));
    let (code, text) = station.ask(&["ledger", "show", "77"]);
    assert_eq!(code, 1);
    assert!(text.contains("job 77 is unknown"), "{text}");
}

#[test]
fn a_box_without_an_outbox_says_so() {
    let station = Station::new(free_port(), "");
    let (code, text) = station.ask(&["quarantine", "list"]);
    assert_eq!(code, 1);
    assert!(text.contains("was the daemon ever started"), "{text}");
}

/// Starts a command and kills it, or the daemon that it asks, a moment later.
fn kill_amid(station: &mut Station, arguments: &[&str], (daemon, wait_ms): (bool, u64)) {
    let mut command = station.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut asking = Process(command.spawn().unwrap());
    sleep(Duration::from_millis(wait_ms));
    if daemon {
        station.kill_daemon();
        // What it does next, without a daemon, is done whole.
        asking.0.wait().unwrap();
    } else {
        asking.kill();
    }
}

#[test]
fn a_kill_amid_retries_and_drops_loses_and_doubles_nothing() {
    let port = script::start(|_, _| Answer::Code(0));
    let mut station = strict_station(port);
    (0..IMAGES).for_each(|number| station.drop_image(number));
    station.wait_for_word("ready");
    wait_for_quarantine(&station, IMAGES);
    let mut left = IMAGES;
    for wait_ms in [0, 10, 20, 30, 45, 60] {
        for arguments in [
            &["quarantine", "retry", "--all"][..],
            &["quarantine", "drop", "1", "2"],
        ] {
            // With a daemon, which dies, and then without one, so that the command does.
            kill_amid(&mut station, arguments, (true, wait_ms));
            kill_amid(&mut station, arguments, (false, wait_ms));
            let (code, books) = station.ask(&["ledger", "verify"]);
            assert_eq!(code, 0, "{books}");
            assert!(books.contains(&format!("received {IMAGES} = ")), "{books}");
            station.start_daemon();
            station.wait_for_word("ready");
            wait_for("the jobs", PATIENCE, || ledger(&station)["pending"] == 0);
            left = listed(&station).len();
            let books = ledger(&station);
            assert_eq!(books["quarantined"], left);
            assert_eq!(books["dropped"], IMAGES - left, "{books}");
        }
    }
    assert!(left >= IMAGES - 2, "only two were ever dropped");
    station.stop_daemon();
    station.replace_in_config(TOO_SMALL, "frame_max_pixels = 10000");
    station.start_daemon();
    station.wait_for_word("ready");
    let (code, text) = station.ask(&["quarantine", "retry", "--all"]);
    assert_eq!(code, 0, "{text}");
    let books = station.close();
    let dropped = IMAGES - left;
    let expected =
        format!("published {left} + pending 0 + quarantined 0 + rejected 0 + dropped {dropped}");
    assert!(books.contains(&expected), "{books}");
}
