//! `[[dicom]]`: a port at which senders deliver objects with C-STORE.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::tls::encrypted;
use super::{Problem, Tls, at_least, default, within};

/// Results go to `result/<name>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dicom {
    pub name: String,
    #[serde(default = "loopback", deserialize_with = "address")]
    pub address: IpAddr,
    #[serde(default = "default::storage_port")]
    pub port: u16,
    #[serde(default = "default::ae_title")]
    pub ae_title: String,
    /// Whoever calls by another title is rejected.
    #[serde(default)]
    pub check_called_ae_title: bool,
    /// Titles of the senders that may come; empty for all.
    #[serde(default)]
    pub calling_ae_titles: Vec<String>,
    #[serde(default = "default::associations_max")]
    pub associations_max: usize,
    #[serde(default = "default::pdu_max_bytes")]
    pub pdu_max_bytes: u32,
    #[serde(default = "default::file_max_bytes")]
    pub object_max_bytes: u64,
    /// A sender from which no complete PDU came this long is aborted.
    #[serde(default = "default::idle_timeout_s")]
    pub idle_timeout_s: u64,
    /// Without it, and without TLS, only this machine is listened to.
    #[serde(default)]
    pub allow_plaintext: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "`{text}` is no IP address; use 127.0.0.1 for senders on this machine, or the address of \
             the network they are in"
        ))
    })
}

impl Dicom {
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    pub(super) fn validate(&self) -> Result<(), Problem> {
        at_least("dicom.port", self.port.into(), 1)?;
        ae_title("dicom.ae_title", &self.ae_title)?;
        for title in &self.calling_ae_titles {
            ae_title("dicom.calling_ae_titles", title)?;
        }
        let associations = self.associations_max as u64;
        within("dicom.associations_max", associations, 1, 256)?;
        let pdu_bytes = self.pdu_max_bytes.into();
        within("dicom.pdu_max_bytes", pdu_bytes, 4096, 1 << 20)?;
        at_least("dicom.object_max_bytes", self.object_max_bytes, 1)?;
        within("dicom.idle_timeout_s", self.idle_timeout_s, 1, 86_400)?;
        if let Some(tls) = &self.tls {
            tls.validate_server("dicom.tls")?;
        }
        if self.address.is_loopback() {
            return Ok(());
        }
        encrypted(
            ("dicom.address", "dicom"),
            self.address,
            (self.tls.is_some(), self.allow_plaintext),
        )
    }

    /// Two of them would want the same port of this machine.
    pub(super) fn collides(&self, other: &Self) -> bool {
        let everywhere = self.address.is_unspecified() || other.address.is_unspecified();
        self.port == other.port && (everywhere || self.address == other.address)
    }
}

/// PS3.5 6.2: 16 characters without backslash and control characters, outer spaces without meaning.
pub(super) fn ae_title(key: &'static str, title: &str) -> Result<(), Problem> {
    let allowed = |c: char| (' '..='~').contains(&c) && c != '\\';
    let good = (1..=16).contains(&title.len()) && title.trim() == title;
    if good && title.chars().all(allowed) {
        return Ok(());
    }
    let problem = format!(
        "`{title}` must be 1 to 16 ASCII characters without backslash, and no space at its ends"
    );
    Err((key, problem))
}
