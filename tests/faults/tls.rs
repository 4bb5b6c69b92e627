//! Fault F15: TLS with mosquitto and DCMTK, with certificates that are valid, of another authority or expired, and that are
//! exchanged while the daemon runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::certificates::{Authority, Identity, mosquitto_listener};
use crate::harness::daemon::Daemon;
use crate::harness::dcmtk;
use crate::harness::http;
use crate::harness::process::{free_port, wait_for};
use crate::harness::site::{Site, mosquitto};

fn mqtt_tls(ca_file: &Path, own: &Identity) -> String {
    let ca_file = ca_file.display();
    format!(
        "\n[mqtt.tls]\nca_file = \"{ca_file}\"\n{}",
        own.config_keys()
    )
}

#[test]
fn results_reach_a_broker_that_asks_for_certificates() {
    if mosquitto().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let (broker, own) = (authority.issue("broker"), authority.issue("box"));
    let port = free_port();
    let site = Site::at(
        port,
        &mosquitto_listener(port, &authority, &broker),
        &mqtt_tls(&authority.file, &own),
    );
    (0..20).for_each(|number| site.daemon.drop_image(number));
    site.assert_published(20, 0);
}

/// Files with which the handshake fails, and what the log says about it.
struct RefusedTls {
    broker: Identity,
    own: Identity,
    ca_file: std::path::PathBuf,
    words: &'static str,
}

/// Asserts that the reason is logged once, that reconnects are few, and that exchanging the files is enough.
fn is_reported_and_recovers(folder: &Path, authority: &Authority, refused: &RefusedTls) {
    let RefusedTls {
        broker,
        own,
        ca_file,
        words,
    } = refused;
    let (port, http_port) = (free_port(), free_port());
    let sections = mqtt_tls(ca_file, own) + &http::config_section(http_port);
    let site = Site::at(
        port,
        &mosquitto_listener(port, authority, broker),
        &sections,
    );
    site.daemon.drop_image(0);
    site.daemon.wait_for_log(words);
    let attempts = |site: &Site| {
        let log = fs::read_to_string(site.daemon.path().join("mosquitto.log")).unwrap();
        let failed = log
            .matches("Client connection from 127.0.0.1 failed")
            .count();
        failed + log.matches("Client <unknown> disconnected").count()
    };
    let before = attempts(&site);
    sleep(Duration::from_secs(4));
    let tried = attempts(&site) - before;
    assert!((1..=8).contains(&tried), "{tried} attempts in 4 s");
    let (status, ready) = http::get(http_port, "/readyz").unwrap();
    assert!(status == 200, "images are taken: {ready}");
    for part in ["\"state\":\"error\"", "mqtt_refused", words] {
        assert!(ready.contains(part), "{part}: {ready}");
    }
    assert_eq!(
        site.daemon.n_log_lines(&["no connection", words]),
        1,
        "said once"
    );

    // The first exchange brings a file that cannot be used.
    let good = fs::read(ca_file).unwrap();
    fs::write(ca_file, "no certificate").unwrap();
    site.daemon.signal("-HUP");
    site.daemon.wait_for_log("the old one stays");
    assert_eq!(
        site.daemon
            .n_log_lines(&["the old one stays", "holds no certificate"]),
        1
    );
    fs::write(ca_file, good).unwrap();

    fs::copy(&authority.file, ca_file).unwrap();
    broker.replace_with(&authority.issue_until("broker-renewed", 2100));
    own.replace_with(&authority.issue_until("box-renewed", 2100));
    site.broker.signal("-HUP");
    site.daemon.signal("-HUP");
    site.wait_for_results(1);
    let (_, ready) = http::get(http_port, "/readyz").unwrap();
    assert!(ready.contains("\"state\":\"ready\""), "{ready}");
    assert_eq!(
        site.daemon.n_log_lines(&["startup_ms"]),
        1,
        "not started again"
    );
    site.assert_published(1, 0);
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
    let refused = RefusedTls {
        broker: authority.issue("broker"),
        own: authority.issue("box"),
        ca_file: stranger.file,
        words: "the broker's certificate is not good here: nobody in `ca_file` vouches for it",
    };
    is_reported_and_recovers(folder.path(), &authority, &refused);
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
    let refused = RefusedTls {
        broker: authority.issue_until("broker", 2020),
        own: authority.issue("box"),
        ca_file,
        words: "the broker's certificate is not good here: it expired",
    };
    is_reported_and_recovers(folder.path(), &authority, &refused);
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
    let refused = RefusedTls {
        broker: authority.issue("broker"),
        own: authority.issue_until("box", 2020),
        ca_file,
        words: "TLS alert CertificateExpired",
    };
    is_reported_and_recovers(folder.path(), &authority, &refused);
}

/// A password is read at every connection; SIGHUP only shortens the wait for the next one.
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
    let http_port = free_port();
    let section = format!("username_file = \"{user}\"\npassword_file = \"{password}\"\n")
        + &http::config_section(http_port);
    let site = Site::new(&format!("password_file {users}"), &section);
    site.daemon.drop_image(0);
    site.daemon.wait_for_log("the broker refuses this user");
    let (_, ready) = http::get(http_port, "/readyz").unwrap();
    assert!(ready.contains("\"state\":\"error\""), "{ready}");
    fs::write(&password, "right\n").unwrap();
    site.daemon.signal("-HUP");
    site.assert_published(1, 0);
}

/// DCMTK stores with a certificate of the authority, not with one of another authority, and not without TLS.
#[test]
fn objects_come_over_tls_from_senders_with_a_certificate() {
    if !dcmtk::is_installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let stranger = Authority::new(folder.path(), "stranger").issue("other");
    let (own, scanner) = (authority.issue("box"), authority.issue("scanner"));
    let port = free_port();
    let ca_file = authority.file.display().to_string();
    let section = dcmtk::config_section(port)
        + &format!("[dicom.tls]\nca_file = \"{ca_file}\"\n")
        + &own.config_keys();
    let site = Site::new("", &section);
    site.daemon.wait_for_log("ready");
    let files = dcmtk::write_patients(folder.path(), 6);
    let send_as = |who: &Identity| {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let (key, certificate) = (path(&who.key), path(&who.certificate));
        let args = ["+tls", &key, &certificate, "+cf", &ca_file];
        dcmtk::storescu(port, &files, &args)
    };
    assert!(!send_as(&stranger), "a stranger's certificate");
    assert!(!dcmtk::storescu(port, &files, &[]), "no TLS at all");
    wait_for("both refusals", || {
        site.daemon.n_log_lines(&["no TLS with the sender"]) == 2
    });
    assert!(send_as(&scanner), "{}", site.daemon.log());
    site.assert_published(files.len(), 0);
}

/// The PACS requires certificates, and at first it does not know the authority that issued the daemon's.
#[test]
fn segmentations_reach_a_pacs_over_tls() {
    if !dcmtk::is_installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let own = Authority::new(folder.path(), "stranger").issue("box");
    let (scp, port) = (authority.issue("pacs"), free_port());
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
    let _pacs = dcmtk::start_storescp(port, stored.path(), &shows);
    // Without the reload the next attempt would come too late for this test.
    let section = format!(
        "[seg]\nquiet_s = 1\n[seg.send_to]\nhost = \"127.0.0.1\"\nport = {port}\n\
         called_ae_title = \"PACS\"\nretry_min_ms = 3600000\nretry_max_ms = 3600000\n\
         [seg.send_to.tls]\nca_file = \"{ca_file}\"\n{}",
        own.config_keys()
    );
    let site = Site::new("", &section);
    for file in dcmtk::write_series(folder.path(), 3) {
        site.daemon.drop_file(&file);
    }
    site.daemon.wait_for_log("segmentations cannot be sent");
    let place = format!("seg: PACS at 127.0.0.1:{port} over TLS");
    let (code, words) = site.daemon.cli(&["doctor"]);
    let refused = format!("FAIL  {place}: C-ECHO: the PACS does not take this box's certificate");
    assert!(code == 1 && words.contains(&refused), "{code}: {words}");

    own.replace_with(&authority.issue("box-renewed"));
    site.daemon.signal("-HUP");
    wait_for("a segmentation", || {
        dcmtk::segmentations(stored.path()).len() == 1
    });
    let (_, words) = site.daemon.cli(&["doctor"]);
    let answers = format!("ok    {place} answers C-ECHO after");
    assert!(words.contains(&answers), "{words}");
    site.assert_published(3, 0);
}

#[test]
fn a_certificate_that_ran_out_is_said_until_it_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let own = authority.issue_until("box", 2020);
    let http_port = free_port();
    let section = dcmtk::config_section(free_port()) + "[dicom.tls]\n" + &own.config_keys();
    let mut daemon = Daemon::new(free_port(), &(section + &http::config_section(http_port)));
    daemon.start();
    daemon.wait_for_log("startup_ms");
    let file = own.certificate.display().to_string();
    let words = ["a certificate is expired", &file, "2020-01-01"];
    assert_eq!(daemon.n_log_lines(&words), 1, "{}", daemon.log());
    let page = || http::get(http_port, "/metrics").unwrap().1;
    let name = "scansided_tls_certificate_expiry_timestamp_seconds";
    let gauge = |seconds: u64| format!("{name}{{file=\"{file}\"}} {seconds}.0\n");
    assert!(page().contains(&gauge(1_577_836_800)), "{}", page());
    let (_, report) = daemon.cli(&["doctor"]);
    let said = format!("FAIL  certificate {file}: it expired on 2020-01-01; renew it");
    assert!(report.contains(&said), "{report}");

    own.replace_with(&authority.issue_until("box-renewed", 2100));
    daemon.signal("-HUP");
    wait_for("the reload", || page().contains(&gauge(4_102_444_800)));
    assert_eq!(daemon.n_log_lines(&words), 1, "{}", daemon.log());
}
