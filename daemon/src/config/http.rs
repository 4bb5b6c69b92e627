//! `[http]`: images by POST, metrics and probes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::tls::encrypted;
use super::{Problem, Tls, at_least, default, within};

/// Results go to `result/<name>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    #[serde(default = "default::http_name")]
    pub name: String,
    #[serde(default = "loopback", deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// File whose first line is what senders of images have to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Without it, and without TLS, only this machine is listened to.
    #[serde(default)]
    pub allow_plaintext: bool,
    #[serde(default = "default::connections_max")]
    pub connections_max: usize,
    #[serde(default = "default::file_max_bytes")]
    pub body_max_bytes: u64,
    /// A client from which nothing came this long is cut off.
    #[serde(default = "default::http_idle_timeout_s")]
    pub idle_timeout_s: u64,
    /// A request has to be complete within this time.
    #[serde(default = "default::request_timeout_s")]
    pub request_timeout_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

fn loopback() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), default::http_port())
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "`{text}` is no IP address with a port; use {} for this machine alone, or the address of the \
             network that the senders are in",
            loopback()
        ))
    })
}

impl Http {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        at_least("http.listen", self.listen.port().into(), 1)?;
        within("http.connections_max", self.connections_max as u64, 1, 1024)?;
        at_least("http.body_max_bytes", self.body_max_bytes, 1)?;
        within("http.idle_timeout_s", self.idle_timeout_s, 1, 3600)?;
        within("http.request_timeout_s", self.request_timeout_s, 1, 86_400)?;
        if let Some(tls) = &self.tls {
            tls.validate_server("http.tls")?;
        }
        let ip = self.listen.ip();
        if ip.is_loopback() {
            return Ok(());
        }
        encrypted(
            ("http.listen", "http"),
            ip,
            (self.tls.is_some(), self.allow_plaintext),
        )?;
        let known = self.tls.as_ref().is_some_and(|tls| tls.ca_file.is_some());
        if self.token_file.is_none() && !known {
            let problem = format!(
                "`{ip}` is reached from other machines, and everybody there could send images; set \
                 `token_file`, or `ca_file` in [http.tls] to ask clients for certificates"
            );
            return Err(("http.listen", problem));
        }
        Ok(())
    }
}
