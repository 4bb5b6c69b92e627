//! `scansided demo`, and its broker in front of other makers' clients.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panic and say what they skip"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::sample_bundle;

/// The sample bundle marks what is bright: a mean Dice of 0.070 on the first five phantoms, the same
/// every time. 0 means that masks and truth no longer lie on each other.
const DICE_FLOOR: f64 = 0.05;

fn demo(folder: &Path) -> Command {
    let bundle = folder.join("bundle");
    fs::create_dir(&bundle).unwrap();
    sample_bundle::write(&bundle);
    let mut command = Command::new(env!("CARGO_BIN_EXE_scansided"));
    command
        .arg("demo")
        .arg("--bundle")
        .arg(bundle)
        .arg("--directory")
        .arg(folder.join("demo"));
    command
}

#[test]
fn every_phantom_comes_back_as_masks() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path())
        .args(["--images", "5", "--exit"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaint}");
    assert_eq!(
        text.matches("scanside/v1/demo/result/inbox").count(),
        5,
        "{text}"
    );
    let ledger = "ledger: received 5 = published 5 + pending 0 + quarantined 0 + rejected 0";
    assert!(text.contains(ledger), "{text}");
    let dice: f64 = text
        .split("5 images, mean Dice ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .parse()
        .unwrap();
    assert!(dice > DICE_FLOOR, "{text}");
    for number in 0..5 {
        let name = format!("phantom-{number:03}");
        assert!(text.contains(&format!("{name}.dcm")), "{text}");
        let picture = image::open(folder.path().join(format!("demo/overlays/{name}.png"))).unwrap();
        assert_eq!((picture.width(), picture.height()), (256, 256));
    }
    assert_eq!(
        fs::read_dir(folder.path().join("demo/inbox"))
            .unwrap()
            .count(),
        0
    );
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `mosquitto_sub` gets a retained message of the demo and one of `mosquitto_pub`.
fn exchange_messages(port: &str, version: &str) {
    let output = Command::new("mosquitto_sub")
        .args(["-p", port, "-V", version, "-C", "1", "-W", "30", "-q", "1"])
        .args(["-t", "scanside/v1/demo/info"])
        .output()
        .unwrap();
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(info["schema"], "info/1", "retained, for {version}");
    let sent = Command::new("mosquitto_pub")
        .args(["-p", port, "-V", version, "-q", "1", "-r"])
        .args(["-t", "kept", "-m", version])
        .output()
        .unwrap();
    assert!(sent.status.success(), "QoS 1 is acknowledged: {sent:?}");
    let kept = Command::new("mosquitto_sub")
        .args(["-p", port, "-C", "1", "-W", "30", "-t", "+"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(kept.stdout).unwrap().trim(), version);
}

/// Without --exit the broker stays; mosquitto's clients use it with both protocol versions.
#[test]
fn the_brokers_port_serves_mosquitto_sub_and_pub() {
    if Command::new("mosquitto_sub")
        .arg("--help")
        .output()
        .is_err()
    {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
            "mosquitto_sub is missing"
        );
        eprintln!(
            "SKIPPED: mosquitto_sub is not installed; the demo's broker was NOT tested with it"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = demo(folder.path());
    let child = command
        .args(["--images", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let invitation = lines.find(|line| line.contains("mosquitto_sub")).unwrap();
    let port = invitation
        .split(" -p ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    for version in ["mqttv311", "mqttv5"] {
        exchange_messages(&port, version);
    }
    // An image that a user drops into the demo's inbox.
    let inbox = folder.path().join("demo/inbox");
    fs::write(inbox.join("own.part"), sample_bundle::golden_png()).unwrap();
    fs::rename(inbox.join("own.part"), inbox.join("own.png")).unwrap();
    let own = lines.find(|line| line.contains("result/inbox")).unwrap();
    assert!(own.contains("job "), "{own}");
    let id = running.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert!(lines.any(|line| line.contains("received 3 = published 3")));
    assert!(running.0.wait().unwrap().success());
}
