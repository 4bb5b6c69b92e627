//! Encrypted connections to real peers: mosquitto, DCMTK and curl, with certificates that are good, of
//! strangers, or out of date, and exchanged while the daemon runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::certificates::{Authority, Identity};
use crate::http;
use crate::seg;
use crate::sender;
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, Station, free_port, png, wait_for};

/// A listener that asks its clients for certificates.
pub(crate) fn listener(port: u16, authority: &Authority, broker: &Identity) -> String {
    format!(
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        authority.file.display(),
        broker.certificate.display(),
        broker.key.display()
    )
}

fn mqtt_tls(ca_file: &Path, own: &Identity) -> String {
    let ca_file = ca_file.display();
    format!("\n[mqtt.tls]\nca_file = \"{ca_file}\"\n{}", own.keys())
}

#[test]
fn results_reach_a_broker_that_asks_for_certificates() {
    if mosquitto().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let (broker, own) = (authority.vouch("broker"), authority.vouch("box"));
    let port = free_port();
    let site = Site::at(
        port,
        &listener(port, &authority, &broker),
        &mqtt_tls(&authority.file, &own),
    );
    (0..20).for_each(|number| site.station.drop_image(number));
    site.settle(20, 0);
}

struct Distrust {
    /// What is wrong at first.
    broker: Identity,
    own: Identity,
    ca_file: std::path::PathBuf,
    words: &'static str,
}

/// The reason is said, attempts are few, and an exchange of the files is enough.
fn is_said_and_healed(folder: &Path, authority: &Authority, distrust: &Distrust) {
    let Distrust {
        broker,
        own,
        ca_file,
        words,
    } = distrust;
    let (port, door) = (free_port(), free_port());
    let sections = mqtt_tls(ca_file, own) + &http::section(door);
    let site = Site::at(port, &listener(port, authority, broker), &sections);
    site.station.drop_image(0);
    site.station.wait_for_word(words);
    let attempts = |site: &Site| {
        let log = fs::read_to_string(site.station.path().join("mosquitto.log")).unwrap();
        let failed = log
            .matches("Client connection from 127.0.0.1 failed")
            .count();
        failed + log.matches("Client <unknown> disconnected").count()
    };
    let before = attempts(&site);
    sleep(Duration::from_secs(4));
    let tried = attempts(&site) - before;
    assert!((1..=8).contains(&tried), "{tried} attempts in 4 s");
    let (status, ready) = http::get(door, "/readyz").unwrap();
    assert!(status == 200, "images are taken: {ready}");
    for part in ["\"state\":\"error\"", "mqtt_refused", words] {
        assert!(ready.contains(part), "{part}: {ready}");
    }
    assert_eq!(site.station.said(&["no connection", words]), 1, "said once");

    // First to something that cannot be used.
    let good = fs::read(ca_file).unwrap();
    fs::write(ca_file, "no certificate").unwrap();
    site.station.signal_daemon("-HUP");
    site.station.wait_for_word("the old one stays");
    assert_eq!(
        site.station
            .said(&["the old one stays", "holds no certificate"]),
        1
    );
    fs::write(ca_file, good).unwrap();

    fs::copy(&authority.file, ca_file).unwrap();
    broker.become_as(&authority.vouch_until("broker-renewed", 2100));
    own.become_as(&authority.vouch_until("box-renewed", 2100));
    site.broker.signal("-HUP");
    site.station.signal_daemon("-HUP");
    site.wait_for_results(1);
    let (_, ready) = http::get(door, "/readyz").unwrap();
    assert!(ready.contains("\"state\":\"ready\""), "{ready}");
    assert_eq!(site.station.said(&["startup_ms"]), 1, "not started again");
    site.settle(1, 0);
    assert!(folder.exists());
}

#[test]
fn a_broker_of_a_stranger_is_refused_until_its_authority_is_known() {
    if mosquitto().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let stranger = Authority::new(folder.path(), "stranger");
    let distrust = Distrust {
        broker: authority.vouch("broker"),
        own: authority.vouch("box"),
        ca_file: stranger.file,
        words: "the broker's certificate is not good here: nobody in `ca_file` vouches for it",
    };
    is_said_and_healed(folder.path(), &authority, &distrust);
}

#[test]
fn a_broker_whose_certificate_expired_is_refused_until_it_is_renewed() {
    if mosquitto().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let ca_file = folder.path().join("trusted.pem");
    fs::copy(&authority.file, &ca_file).unwrap();
    let distrust = Distrust {
        broker: authority.vouch_until("broker", 2020),
        own: authority.vouch("box"),
        ca_file,
        words: "the broker's certificate is not good here: it expired",
    };
    is_said_and_healed(folder.path(), &authority, &distrust);
}

#[test]
fn a_box_whose_certificate_expired_is_refused_until_it_is_renewed() {
    if mosquitto().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let ca_file = folder.path().join("trusted.pem");
    fs::copy(&authority.file, &ca_file).unwrap();
    let distrust = Distrust {
        broker: authority.vouch("broker"),
        own: authority.vouch_until("box", 2020),
        ca_file,
        words: "TLS alert CertificateExpired",
    };
    is_said_and_healed(folder.path(), &authority, &distrust);
}

/// A password is read at every connection; SIGHUP only saves the waiting.
#[test]
fn a_user_whose_password_changed_is_refused_until_it_is_known() {
    if mosquitto().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), readable).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (users, user, password) = (path("users"), path("user"), path("password"));
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c", &users, "box", "right"])
        .status();
    assert!(made.unwrap().success());
    fs::set_permissions(&users, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&user, "box\n").unwrap();
    fs::write(&password, "outdated\n").unwrap();
    let door = free_port();
    let section = format!("username_file = \"{user}\"\npassword_file = \"{password}\"\n")
        + &http::section(door);
    let site = Site::new(&format!("password_file {users}"), &section);
    site.station.drop_image(0);
    site.station.wait_for_word("the broker refuses this user");
    let (_, ready) = http::get(door, "/readyz").unwrap();
    assert!(ready.contains("\"state\":\"error\""), "{ready}");
    fs::write(&password, "right\n").unwrap();
    site.station.signal_daemon("-HUP");
    site.settle(1, 0);
}

/// DCMTK with a certificate delivers, without one it does not, and neither does plain DICOM.
#[test]
fn objects_come_over_tls_from_senders_with_a_certificate() {
    if !sender::dcmtk() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let stranger = Authority::new(folder.path(), "stranger").vouch("other");
    let (own, scanner) = (authority.vouch("box"), authority.vouch("scanner"));
    let port = free_port();
    let ca_file = authority.file.display().to_string();
    let section =
        sender::section(port) + &format!("[dicom.tls]\nca_file = \"{ca_file}\"\n") + &own.keys();
    let site = Site::new("", &section);
    site.station.wait_for_word("ready");
    let files = sender::phantoms(folder.path(), 6);
    let as_who = |who: &Identity| {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let (key, certificate) = (path(&who.key), path(&who.certificate));
        let args = ["+tls", &key, &certificate, "+cf", &ca_file];
        sender::deliver(port, &files, &args)
    };
    assert!(!as_who(&stranger), "a stranger's certificate");
    assert!(!sender::deliver(port, &files, &[]), "no TLS at all");
    wait_for("both refusals", PATIENCE, || {
        site.station.said(&["no TLS with the sender"]) == 2
    });
    assert!(as_who(&scanner), "{}", site.station.log());
    site.settle(files.len(), 0);
}

/// It asks for certificates, and for a while it does not know who vouches for the box.
#[test]
fn segmentations_reach_a_pacs_over_tls() {
    if !sender::dcmtk() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let own = Authority::new(folder.path(), "stranger").vouch("box");
    let (scp, port) = (authority.vouch("pacs"), free_port());
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let ca_file = path(&authority.file);
    let shows = [
        "+tls",
        &path(&scp.key),
        &path(&scp.certificate),
        "+cf",
        &ca_file,
    ];
    let stored = tempfile::tempdir().unwrap();
    let _pacs = seg::start_storescp(port, stored.path(), &shows);
    // Without the reload the next attempt comes too late for this test.
    let section = format!(
        "[seg]\nquiet_s = 1\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {port}\n\
         called_ae_title = \"PACS\"\nretry_min_ms = 3600000\nretry_max_ms = 3600000\n\
         [seg.send_to.tls]\nca_file = \"{ca_file}\"\n{}",
        own.keys()
    );
    let site = Site::new("", &section);
    for file in sender::one_series(folder.path(), 3) {
        site.station.drop_file(&file);
    }
    site.station.wait_for_word("segmentations cannot be sent");
    let place = format!("seg: PACS at 127.0.0.1:{port} over TLS");
    let (code, words) = site.station.ask(&["doctor"]);
    let refused = format!("FAIL  {place}: C-ECHO: the PACS does not take this box's certificate");
    assert!(code == 1 && words.contains(&refused), "{code}: {words}");

    own.become_as(&authority.vouch("box-renewed"));
    site.station.signal_daemon("-HUP");
    wait_for("a segmentation", PATIENCE, || {
        seg::segmentations(stored.path()).len() == 1
    });
    let (_, words) = site.station.ask(&["doctor"]);
    let answers = format!("ok    {place} answers C-ECHO after");
    assert!(words.contains(&answers), "{words}");
    site.settle(3, 0);
}

#[test]
fn a_certificate_that_ran_out_is_said_until_it_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let own = authority.vouch_until("box", 2020);
    let door = free_port();
    let section = sender::section(free_port()) + "[dicom.tls]\n" + &own.keys();
    let mut station = Station::new(free_port(), &(section + &http::section(door)));
    station.start_daemon();
    station.wait_for_word("startup_ms");
    let file = own.certificate.display().to_string();
    let words = ["a certificate is expired", &file, "2020-01-01"];
    assert_eq!(station.said(&words), 1, "{}", station.log());
    let page = || http::get(door, "/metrics").unwrap().1;
    let name = "scansided_tls_certificate_expiry_timestamp_seconds";
    let gauge = |seconds: u64| format!("{name}{{file=\"{file}\"}} {seconds}.0\n");
    assert!(page().contains(&gauge(1_577_836_800)), "{}", page());
    let (_, report) = station.ask(&["doctor"]);
    let said = format!("FAIL  certificate {file}: it expired on 2020-01-01; renew it");
    assert!(report.contains(&said), "{report}");

    own.become_as(&authority.vouch_until("box-renewed", 2100));
    station.signal_daemon("-HUP");
    wait_for("the reload", PATIENCE, || {
        page().contains(&gauge(4_102_444_800))
    });
    assert_eq!(station.said(&words), 1, "{}", station.log());
}

#[test]
fn images_come_over_tls_with_a_token() {
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-s", "-S", "-w", "%{http_code}", "--max-time", "20"]);
        command.args(args).output()
    };
    if mosquitto().is_none() {
        return;
    }
    if let Err(error) = curl(&["--version"]) {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
            "curl is required: {error}"
        );
        eprintln!("SKIPPED: no curl ({error}), so HTTPS was NOT tested");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let own = authority.vouch("box");
    let (port, token) = (free_port(), folder.path().join("token"));
    fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    let token_file = format!("token_file = \"{}\"\n[http.tls]\n", token.display());
    let section = http::section(port) + &token_file + &own.keys();
    let site = Site::new("", &section);
    site.station.wait_for_word("ready");

    let image = folder.path().join("image.png");
    fs::write(&image, png(1)).unwrap();
    let body = format!("@{}", image.display());
    let url = format!("https://localhost:{port}/v1/images");
    let ca_file = authority.file.display().to_string();
    let send = |token: &str| {
        let bearer = format!("Authorization: Bearer {token}");
        let args = [
            "--cacert",
            &ca_file,
            "-H",
            &bearer,
            "--data-binary",
            &body,
            &url,
        ];
        String::from_utf8(curl(&args).unwrap().stdout).unwrap()
    };
    let answer = send("0123456789abcdef0123456789abcdef");
    assert!(
        answer.contains("\"job\":1") && answer.ends_with("202"),
        "{answer}"
    );
    assert!(send("wrong").ends_with("401"));
    let plain = curl(&[&url.replace("https", "http")]).unwrap();
    let answer = String::from_utf8(plain.stdout).unwrap();
    assert!(
        answer.contains("this port wants https") && answer.ends_with("400"),
        "{answer}"
    );
    assert_eq!(site.station.said(&["plain HTTP", "wants https"]), 1);

    // Another token from the next request on; the old one is worth nothing.
    fs::write(&token, "fedcba9876543210fedcba9876543210\n").unwrap();
    site.station.signal_daemon("-HUP");
    wait_for("the reload", PATIENCE, || {
        site.station.said(&["read again"]) == 1
    });
    assert!(send("0123456789abcdef0123456789abcdef").ends_with("401"));
    assert!(send("fedcba9876543210fedcba9876543210").ends_with("202"));
    site.station
        .replace_in_config("stable_ms = 20", "stable_ms = 30");
    site.station.signal_daemon("-HUP");
    wait_for("the keys", PATIENCE, || {
        site.station.said(&["need a restart", "folder.stable_ms"]) == 1
    });
    // Who takes TLS out is told what that means.
    let section = "[http.tls]\n".to_owned() + &own.keys();
    site.station.replace_in_config(&section, "");
    site.station.signal_daemon("-HUP");
    wait_for("the warning", PATIENCE, || {
        let words = "TLS was taken out of the configuration: connections are NOT encrypted";
        site.station.said(&[words, "section=\"http\""]) == 1
    });
    site.settle(1, 0);
}
