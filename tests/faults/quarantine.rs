//! `scansided quarantine` with and without a running daemon, and with either killed in the middle of it.

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use dicom_core::value::PixelFragmentSequence;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::tags;
use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::process::{Process, free_port, wait_for};
use crate::harness::scripted_broker;

const IMAGES: usize = 24;
const TOO_SMALL: &str = "frame_max_pixels = 100";

/// A daemon whose limit is below the size of every image.
fn strict_daemon(port: u16) -> Daemon {
    let mut daemon = Daemon::new(port, &format!("[decode]\n{TOO_SMALL}"));
    daemon.start();
    daemon
}

fn listed(daemon: &Daemon) -> Vec<Value> {
    let (code, text) = daemon.cli(&["quarantine", "list", "--json"]);
    assert_eq!(code, 0, "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ledger(daemon: &Daemon) -> Value {
    let (code, text) = daemon.cli(&["ledger", "show"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn wait_for_quarantine(daemon: &Daemon, count: usize) {
    wait_for("the quarantine", || {
        listed(daemon).len() == count && ledger(daemon)["pending"] == 0
    });
}

/// A real JPEG 2000 image repeated as many frames, which takes more than ten seconds to decode.
fn slow_jpeg_2000_file() -> Option<Vec<u8>> {
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
    let Some(slow) = slow_jpeg_2000_file() else {
        return;
    };
    let port = scripted_broker::start_accepting();
    let mut daemon = Daemon::new(port, "[decode]\ntimeout_s = 1");
    daemon.start();
    daemon.drop_bytes("slow.dcm", &slow);
    daemon.wait_for_log("image quarantined");
    daemon.drop_image(1);
    daemon.wait_for_segmented(1);
    let listed = listed(&daemon);
    assert_eq!(
        (listed.len(), &listed[0]["code"]),
        (1, &"too_slow".into()),
        "{listed:?}"
    );
    let ledger = daemon.drain();
    assert!(
        ledger.contains("published 1 + pending 0 + quarantined 1"),
        "{ledger}"
    );
}

#[test]
fn what_a_user_sees_and_does_beside_a_running_daemon() {
    let port = scripted_broker::start_accepting();
    let mut daemon = strict_daemon(port);
    (0..3).for_each(|number| daemon.drop_image(number));
    daemon.wait_for_log("ready");
    wait_for_quarantine(&daemon, 3);
    let (_, text) = daemon.cli(&["quarantine", "list"]);
    for word in [
        "job 1  ",
        "job 3  ",
        "  inbox  decode  ",
        " bytes  too_large: ",
    ] {
        assert!(text.contains(word), "{text}");
    }
    assert!(!text.contains(".png"), "{text}");

    let (code, text) = daemon.cli(&["quarantine", "drop", "2", "77"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("job 2 was removed"), "{text}");
    assert!(text.contains("job 77 is not in quarantine; `scansided quarantine list`"));
    let (code, text) = daemon.cli(&["quarantine", "retry"]);
    assert_eq!(code, 2, "{text}");

    // The image is still too large, so the job returns to quarantine under its number.
    let (code, text) = daemon.cli(&["quarantine", "retry", "1"]);
    assert_eq!((code, &*text), (0, "job 1 is a job again\n"));
    wait_for("the second try", || {
        daemon.n_log_lines(&["image quarantined", "job=1"]) == 2
    });
    wait_for_quarantine(&daemon, 2);

    daemon.stop();
    daemon.replace_in_config(TOO_SMALL, "frame_max_pixels = 10000");
    daemon.start();
    daemon.wait_for_log("ready");
    let (code, text) = daemon.cli(&["quarantine", "retry", "--all"]);
    assert_eq!(code, 0, "{text}");
    let balance = daemon.drain();
    let expected = "received 3 = published 2 + pending 0 + quarantined 0 + rejected 0 + dropped 1";
    assert!(balance.contains(expected), "{balance}");
    let (code, text) = daemon.cli(&["quarantine", "list"]);
    assert_eq!((code, &*text), (0, "nothing in quarantine\n"));

    // The history of the job that was tried three times.
    let (code, text) = daemon.cli(&["ledger", "show", "1"]);
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
    let (code, text) = daemon.cli(&["ledger", "show", "2", "--json"]);
    let history: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &history["state"]), (0, &"dropped".into()));
    let (code, text) = daemon.cli(&["ledger", "show", "77"]);
    assert_eq!(code, 1);
    assert!(text.contains("job 77 is unknown"), "{text}");
}

#[test]
fn a_missing_outbox_is_reported() {
    let daemon = Daemon::new(free_port(), "");
    let (code, text) = daemon.cli(&["quarantine", "list"]);
    assert_eq!(code, 1);
    assert!(text.contains("was the daemon ever started"), "{text}");
}

#[derive(Clone, Copy)]
enum Victim {
    Command,
    Daemon,
}

/// Starts a command, and kills it or the daemon that it talks to after a while.
fn kill_amid(daemon: &mut Daemon, arguments: &[&str], victim: Victim, wait_ms: u64) {
    let mut command = daemon.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Process(command.spawn().unwrap());
    sleep(Duration::from_millis(wait_ms));
    match victim {
        Victim::Daemon => {
            daemon.kill();
            // The command goes on without a daemon and completes.
            running.0.wait().unwrap();
        }
        Victim::Command => running.kill(),
    }
}

#[test]
fn a_kill_amid_retries_and_drops_loses_and_doubles_nothing() {
    let port = scripted_broker::start_accepting();
    let mut daemon = strict_daemon(port);
    (0..IMAGES).for_each(|number| daemon.drop_image(number));
    daemon.wait_for_log("ready");
    wait_for_quarantine(&daemon, IMAGES);
    let mut left = IMAGES;
    for wait_ms in [0, 10, 20, 30, 45, 60] {
        for arguments in [
            &["quarantine", "retry", "--all"][..],
            &["quarantine", "drop", "1", "2"],
        ] {
            // The first kill ends the daemon; then the command works without one and is killed itself.
            kill_amid(&mut daemon, arguments, Victim::Daemon, wait_ms);
            kill_amid(&mut daemon, arguments, Victim::Command, wait_ms);
            let (code, balance) = daemon.cli(&["ledger", "verify"]);
            assert_eq!(code, 0, "{balance}");
            assert!(
                balance.contains(&format!("received {IMAGES} = ")),
                "{balance}"
            );
            daemon.start();
            daemon.wait_for_log("ready");
            wait_for("the jobs", || ledger(&daemon)["pending"] == 0);
            left = listed(&daemon).len();
            let balance = ledger(&daemon);
            assert_eq!(balance["quarantined"], left);
            assert_eq!(balance["dropped"], IMAGES - left, "{balance}");
        }
    }
    assert!(left >= IMAGES - 2, "only two were ever dropped");
    daemon.stop();
    daemon.replace_in_config(TOO_SMALL, "frame_max_pixels = 10000");
    daemon.start();
    daemon.wait_for_log("ready");
    let (code, text) = daemon.cli(&["quarantine", "retry", "--all"]);
    assert_eq!(code, 0, "{text}");
    let balance = daemon.drain();
    let dropped = IMAGES - left;
    let expected =
        format!("published {left} + pending 0 + quarantined 0 + rejected 0 + dropped {dropped}");
    assert!(balance.contains(&expected), "{balance}");
}
