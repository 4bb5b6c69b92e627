//! Images by HTTPS with a bearer token, sent by curl, while token and configuration are exchanged.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::certificates::Authority;
use crate::harness::http;
use crate::harness::images;
use crate::harness::process::{free_port, wait_for};
use crate::harness::site::{Site, mosquitto};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const NEXT_TOKEN: &str = "fedcba9876543210fedcba9876543210";

/// Prints the body and then the status.
fn curl(args: &[&str]) -> io::Result<Output> {
    let mut command = Command::new("curl");
    command.args(["-s", "-S", "-w", "%{http_code}", "--max-time", "20"]);
    command.args(args).output()
}

/// Whether curl and mosquitto are installed. Without them the test is skipped with a message, or fails where they are
/// required.
fn is_installed() -> bool {
    if let Err(error) = curl(&["--version"]) {
        assert!(
            std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
            "curl is required: {error}"
        );
        eprintln!("SKIPPED: no curl ({error}), so HTTPS was NOT tested");
        return false;
    }
    mosquitto().is_some()
}

struct Client {
    url: String,
    ca_file: String,
    /// curl's argument for the image as the body.
    body: String,
}

impl Client {
    fn new(port: u16, folder: &Path, ca_file: &Path) -> Self {
        let image = folder.join("image.png");
        fs::write(&image, images::png(1)).unwrap();
        Self {
            url: format!("https://localhost:{port}/v1/images"),
            ca_file: ca_file.display().to_string(),
            body: format!("@{}", image.display()),
        }
    }

    fn post(&self, token: &str) -> String {
        let bearer = format!("Authorization: Bearer {token}");
        let mut args = vec!["--cacert", &self.ca_file, "-H", &bearer];
        args.extend(["--data-binary", &self.body, &self.url]);
        String::from_utf8(curl(&args).unwrap().stdout).unwrap()
    }

    fn get_without_tls(&self) -> String {
        let output = curl(&[&self.url.replace("https", "http")]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn images_come_over_tls_with_a_token() {
    if !is_installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let own = authority.issue("box");
    let (port, token) = (free_port(), folder.path().join("token"));
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let token_file = format!("token_file = \"{}\"\n[http.tls]\n", token.display());
    let section = http::config_section(port) + &token_file + &own.config_keys();
    let site = Site::new("", &section);
    site.daemon.wait_for_log("ready");

    let client = Client::new(port, folder.path(), &authority.file);
    let answer = client.post(TOKEN);
    assert!(
        answer.contains("\"job\":1") && answer.ends_with("202"),
        "{answer}"
    );
    assert!(client.post("wrong").ends_with("401"));
    let answer = client.get_without_tls();
    assert!(
        answer.contains("this port wants https") && answer.ends_with("400"),
        "{answer}"
    );
    let plain = ["plain HTTP", "wants https"];
    assert_eq!(site.daemon.n_log_lines(&plain), 1);

    // After the reload the next request needs the new token, and the old one is refused.
    fs::write(&token, format!("{NEXT_TOKEN}\n")).unwrap();
    site.daemon.signal("-HUP");
    wait_for("the reload", || {
        site.daemon.n_log_lines(&["read again"]) == 1
    });
    assert!(client.post(TOKEN).ends_with("401"));
    assert!(client.post(NEXT_TOKEN).ends_with("202"));
    site.daemon
        .replace_in_config("stable_ms = 20", "stable_ms = 30");
    site.daemon.signal("-HUP");
    wait_for("the keys that need a restart", || {
        let words = ["need a restart", "folder.stable_ms"];
        site.daemon.n_log_lines(&words) == 1
    });
    // The removal of TLS from the configuration is logged as a warning.
    let section = "[http.tls]\n".to_owned() + &own.config_keys();
    site.daemon.replace_in_config(&section, "");
    site.daemon.signal("-HUP");
    wait_for("the warning", || {
        let words = "TLS was taken out of the configuration: connections are NOT encrypted";
        site.daemon.n_log_lines(&[words, "section=\"http\""]) == 1
    });
    site.assert_published(1, 0);
}
