//! SIGHUP: the configuration is read again. What lies in files that it names, certificates, token and
//! the broker's user, holds from the next connection on; the keys that need a restart are named. What
//! cannot be used as a whole changes nothing.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::config::{Config, ConfigError};
use crate::failure::chain;
use crate::operate::systemd;
use crate::tls::credentials::{CredentialError, Credentials, warn_exposed};

#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// From this call on SIGHUP does not end the process. Call it within a runtime.
pub(crate) fn catch_hangup(config: &Config) {
    if config.file.is_some() {
        // The listener of `run` hears it later; what comes before is read at the start anyway.
        let _ = signal(SignalKind::hangup());
    }
}

/// Runs as long as the daemon.
pub(crate) async fn run(running: Config, credentials: watch::Sender<Credentials>) {
    let (Some(file), Ok(mut hangups)) = (running.file.clone(), signal(SignalKind::hangup())) else {
        // The sender is kept: a receiver that waits would else wake because it is gone.
        return std::future::pending().await;
    };
    while hangups.recv().await.is_some() {
        systemd::reloading();
        let path = file.clone();
        match spawn_blocking(move || read(&path)).await {
            Ok(Ok((config, fresh))) => {
                fresh.expiries.warn();
                warn_exposed(&config);
                log_encryption_changes(&credentials.borrow(), &fresh);
                credentials.send_replace(fresh);
                let restart = need_restart(&running, &config);
                if restart.is_empty() {
                    tracing::info!("configuration, certificates and credentials read again");
                } else {
                    let keys = restart.join(", ");
                    tracing::warn!(
                        keys,
                        "certificates and credentials read again; these keys changed and need a restart"
                    );
                }
            }
            Ok(Err(error)) => tracing::error!(
                error = chain(&error),
                "the configuration cannot be read again, the old one stays"
            ),
            Err(error) => tracing::error!(%error, "the configuration was not read again"),
        }
        systemd::ready();
    }
}

/// Connections that lose or gain TLS by this reload.
fn log_encryption_changes(old: &Credentials, fresh: &Credentials) {
    for section in old.encrypted().difference(&fresh.encrypted()) {
        tracing::warn!(
            section,
            "TLS was taken out of the configuration: connections are NOT encrypted from the next one on"
        );
    }
    for section in fresh.encrypted().difference(&old.encrypted()) {
        tracing::info!(section, "connections are encrypted from the next one on");
    }
}

fn read(path: &Path) -> Result<(Config, Credentials), ReloadError> {
    let config = Config::read(path)?;
    let credentials = Credentials::load(&config)?;
    Ok((config, credentials))
}

/// Keys that differ and are not what SIGHUP exchanges.
fn need_restart(running: &Config, fresh: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let value = |config: &Config| toml::Value::try_from(config).ok();
    if let (Some(old), Some(new)) = (value(running), value(fresh)) {
        compare("", &old, &new, &mut keys);
    }
    keys
}

fn compare(at: &str, old: &toml::Value, new: &toml::Value, keys: &mut Vec<String>) {
    let (Some(old_table), Some(new_table)) = (old.as_table(), new.as_table()) else {
        if old != new {
            keys.push(at.to_owned());
        }
        return;
    };
    let added = new_table.keys().filter(|key| !old_table.contains_key(*key));
    for key in old_table.keys().chain(added) {
        let at = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        match (old_table.get(key), new_table.get(key)) {
            _ if exchanged(&at) => {}
            (Some(toml::Value::Array(old)), Some(toml::Value::Array(new)))
                if old.len() == new.len() =>
            {
                for (old, new) in old.iter().zip(new) {
                    compare(&at, old, new, keys);
                }
            }
            (Some(old), Some(new)) => compare(&at, old, new, keys),
            _ => keys.push(at),
        }
    }
}

fn exchanged(key: &str) -> bool {
    [
        "http.token_file",
        "http.tls",
        "dicom.tls",
        "mqtt.tls",
        "seg.send_to.tls",
        "mqtt.username_file",
        "mqtt.password_file",
    ]
    .contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"node = "box-1"
[model]
bundle = "bundle"
[state]
directory = "state"
[[folder]]
name = "inbox"
directory = "inbox"
[http]
token_file = "token"
[mqtt]
host = "127.0.0.1"
"#;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("daemon.toml")).unwrap()
    }

    #[test]
    fn keys_that_need_a_restart_are_named() {
        let cases: [(&str, &str, &[&str]); 5] = [
            ("", "", &[]),
            ("\"token\"", "\"other\"", &[]),
            ("host =", "port = 1884\nhost =", &["mqtt.port"]),
            (
                "directory = \"inbox\"",
                "directory = \"in\"",
                &["folder.directory"],
            ),
            ("[http]\ntoken_file = \"token\"\n", "", &["http"]),
        ];
        for (from, to, expected) in cases {
            let fresh = config(&TEXT.replace(from, to));
            assert_eq!(need_restart(&config(TEXT), &fresh), expected, "{to}");
        }
    }
}
