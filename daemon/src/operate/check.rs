//! `scansided check`: reads the configuration as `run` does and tries everything that `run` needs.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use crate::config::{Config, ConfigError};
use crate::disk::{self, mounts::missing_above};
use crate::failure::chain;
use crate::intake::bind;
use crate::models::Models;
use crate::outbox::{self, Outbox, OutboxError};
use crate::report::Model;
use crate::seg;
use crate::tls::credentials::{self, Credentials};

/// Prints a line for each thing that was tried; false when one failed.
pub fn check(path: &Path, out: &mut impl Write) -> io::Result<bool> {
    let config = match Config::read(path) {
        Ok(config) => config,
        Err(ConfigError::Faults(faults)) => {
            for fault in faults {
                writeln!(out, "FAIL  {fault}")?;
            }
            return Ok(false);
        }
        Err(error) => {
            writeln!(out, "FAIL  {}", chain(&error))?;
            return Ok(false);
        }
    };
    writeln!(
        out,
        "ok    {}: every key is known and in range",
        path.display()
    )?;
    let mut findings = vec![state(&config)];
    let outbox = outbox(&config.state.directory);
    let running = outbox == Some(Ok(IN_USE.to_owned()));
    findings.extend(outbox);
    findings.extend(owner(&config));
    findings.extend(config.dicom.iter().map(|dicom| {
        let (name, title) = (&dicom.name, &dicom.ae_title);
        port(dicom.listen(), "port", running)
            .map(|words| format!("dicom `{name}`: {words}, AE title `{title}`"))
            .map_err(|problem| format!("dicom `{name}`: {problem}"))
    }));
    findings.extend(config.http.iter().map(|http| {
        port(http.listen, "listen", running)
            .map(|words| format!("http: {words}"))
            .map_err(|problem| format!("http: {problem}"))
    }));
    findings.extend(credentials(&config));
    findings.extend(config.folder.iter().map(|folder| {
        disk::writable(&folder.directory)
            .map(|()| format!("folder `{}`: {}", folder.name, folder.directory.display()))
            .map_err(|problem| format!("folder `{}`: {problem}", folder.name))
    }));
    findings.extend(secrets(&config));
    let credentials = [&config.mqtt.username_file, &config.mqtt.password_file];
    findings.extend(credentials.into_iter().flatten().map(|file| {
        fs::read_to_string(file)
            .map(|_| format!("credentials: {}", file.display()))
            .map_err(|error| format!("credentials: cannot read {}: {error}", file.display()))
    }));
    let level = config.privacy.identifiers;
    findings.push(Ok(format!("privacy: identifiers in results: {level}")));
    findings.extend(config.seg.iter().flat_map(seg::check));
    findings.extend(models(&config));
    let mut good = true;
    for finding in findings {
        match finding {
            Ok(words) => writeln!(out, "ok    {words}")?,
            Err(words) => {
                good = false;
                writeln!(out, "FAIL  {words}")?;
            }
        }
    }
    Ok(good)
}

type Finding = Result<String, String>;

fn state(config: &Config) -> Finding {
    let directory = &config.state.directory;
    disk::create_outermost(directory).map_err(|error| {
        format!(
            "state: cannot create {}: {error}; check the rights above it",
            directory.display()
        )
    })?;
    disk::writable(directory).map_err(|problem| format!("state: {problem}"))?;
    let free = disk::free_bytes(directory).unwrap_or(u64::MAX);
    if free < config.state.min_free_bytes {
        return Err(format!(
            "state: {} has {free} bytes free, `min_free_bytes` is {}; nothing would be accepted",
            directory.display(),
            config.state.min_free_bytes
        ));
    }
    if !outbox::exists(directory) {
        let path = directory.display();
        if let Some(mount) = missing_above(directory) {
            return Err(format!(
                "state: {path}: /etc/fstab has a disk for {}, and nothing is mounted there; mount it, or the daemon \
                 begins anew with seq 1",
                mount.display()
            ));
        }
        return Ok(format!(
            "state: {path} has no outbox yet, the first start makes it and begins with seq 1; if there was one before, \
             restore it first"
        ));
    }
    Ok(format!("state: {}", directory.display()))
}

/// Whose state directory it is, where that changes; nothing beside a running daemon, which has said so.
fn owner(config: &Config) -> Option<Finding> {
    let directory = &config.state.directory;
    if !outbox::exists(directory) {
        return None;
    }
    let identity = Outbox::open(directory).ok()?.identity().ok()?;
    let before = identity.node.filter(|node| *node != config.node)?;
    let node = &config.node;
    Some(Ok(format!(
        "state: it is that of node {before}; {node} goes on with its jobs and numbers, and subscribers of {before} have to \
         follow: if it is a copy and {before} still runs, both will publish the same images"
    )))
}

const IN_USE: &str = "outbox: in use by a running scansided";

/// A running daemon has its own ports.
fn port(address: SocketAddr, key: &str, running: bool) -> Finding {
    match bind(address, key) {
        Ok(_) => Ok(format!("{address} is free")),
        Err(_) if running && TcpStream::connect(address).is_ok() => Ok(format!(
            "{address} is in use, as it has to be while scansided runs"
        )),
        Err(problem) => Err(problem),
    }
}

/// Nothing where the configuration names no certificate and no token.
fn credentials(config: &Config) -> Option<Finding> {
    let http = config.http.as_ref();
    let token = http.is_some_and(|http| http.token_file.is_some());
    let some = token || config.tls().next().is_some();
    some.then(|| {
        Credentials::load(config)
            .map(|_| "credentials: certificates, keys and token can be used".to_owned())
            .map_err(|error| chain(&error))
    })
}

/// A secret that every user of the machine may read is none.
fn secrets(config: &Config) -> impl Iterator<Item = Finding> {
    credentials::exposed(config).into_iter().map(|(key, path)| {
        Err(format!(
            "credentials: `{key}`: every user of this machine may read {}; `chmod 600` it, and change the \
             secret if others use this machine",
            path.display()
        ))
    })
}

/// Nothing before the first start, which makes it.
fn outbox(directory: &Path) -> Option<Finding> {
    if !outbox::exists(directory) {
        return None;
    }
    Some(
        match Outbox::open(directory).and_then(|outbox| outbox.ledger()) {
            Ok(ledger) if ledger.balances() => {
                Ok(format!("outbox: {} images pending", ledger.pending))
            }
            Ok(_) => {
                Err("outbox: its numbers do not add up; see `scansided ledger verify`".to_owned())
            }
            Err(OutboxError::InUse { .. }) => Ok(IN_USE.to_owned()),
            Err(error) => Err(chain(&error)),
        },
    )
}

/// What serves in each slot, or the first that does not.
fn models(config: &Config) -> Vec<Finding> {
    let models = match Models::open(config) {
        Ok(models) => models,
        Err(error) => return vec![Err(chain(&error))],
    };
    let finding = |(index, (slot, _))| {
        let Model { name, version, .. } = &models.serving(index).model;
        match models.problem(slot) {
            None => Ok(format!(
                "slot `{slot}`: {name} {version}, every file verified, golden masks reproduced"
            )),
            Some(problem) => Err(format!(
                "slot `{slot}`: {name} {version} serves instead of what should: {problem}"
            )),
        }
    };
    config.slots().enumerate().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_or_in_use() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let words = port(taken, "port", false).unwrap_err();
        assert!(words.contains("choose another `port`"), "{words}");
        assert!(port(taken, "port", true).unwrap().contains("is in use"));
        drop(listener);
        assert!(port(taken, "port", false).unwrap().contains("is free"));
        // Of a network for documentation.
        let elsewhere = "192.0.2.1:11112".parse().unwrap();
        let words = port(elsewhere, "listen", false).unwrap_err();
        assert!(words.contains("no such address"), "{words}");
    }

    #[test]
    fn an_outbox_is_opened_unless_a_daemon_has_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(outbox(folder.path()).is_none());
        let daemon = Outbox::open(folder.path()).unwrap();
        let words = outbox(folder.path()).unwrap().unwrap();
        assert!(words.contains("in use by a running scansided"), "{words}");
        drop(daemon);
        assert_eq!(
            outbox(folder.path()),
            Some(Ok("outbox: 0 images pending".into()))
        );
        fs::write(folder.path().join("outbox.redb"), b"not a database").unwrap();
        let words = outbox(folder.path()).unwrap().unwrap_err();
        assert!(words.contains("outbox.redb"), "{words}");
    }
}
