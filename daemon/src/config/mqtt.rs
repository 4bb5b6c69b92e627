//! `[mqtt]`: the broker, and how results travel to it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::encrypted;
use super::{Problem, Tls, at_least, default, within};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    pub host: String,
    #[serde(default = "default::port")]
    pub port: u16,
    /// Which MQTT the broker is spoken to in.
    #[serde(default)]
    pub protocol: Protocol,
    /// Topics start with `<base>/v1/<node>/`.
    #[serde(default = "default::base")]
    pub base: String,
    /// File whose first line is the user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    /// File whose first line is the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Without it, TCP leaves the machine only over TLS.
    #[serde(default)]
    pub allow_plaintext: bool,
    #[serde(default = "default::keep_alive_s")]
    pub keep_alive_s: u64,
    #[serde(default = "default::connect_timeout_s")]
    pub connect_timeout_s: u64,
    /// A broker that acknowledges nothing this long counts as gone.
    #[serde(default = "default::ack_timeout_ms")]
    pub ack_timeout_ms: u64,
    /// Messages sent and not yet acknowledged.
    #[serde(default = "default::window_max_messages")]
    pub window_max_messages: usize,
    /// A larger result is published without masks, which follow on `mask/<job>/<part>`.
    #[serde(default = "default::inline_max_bytes")]
    pub inline_max_bytes: usize,
    /// Connections lost while a message was alone in flight before it goes to quarantine.
    #[serde(default = "default::strikes_max")]
    pub strikes_max: u32,
    #[serde(default = "default::backoff_min_ms")]
    pub backoff_min_ms: u64,
    #[serde(default = "default::backoff_max_ms")]
    pub backoff_max_ms: u64,
    #[serde(default = "default::health_interval_s")]
    pub health_interval_s: u64,
    /// What subscribers may ask for on `request/<verb>`.
    #[serde(default)]
    pub requests: Vec<Verb>,
    /// A larger image of `request/segment` is refused.
    #[serde(default = "default::request_max_bytes")]
    pub request_max_bytes: u64,
    /// So long the broker keeps requests while the daemon is away.
    #[serde(default = "default::request_expiry_s")]
    pub request_expiry_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// MQTT 5, and 3.1.1 with a broker that does not speak it.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "5")]
    Five,
    #[serde(rename = "3.1.1")]
    Three,
}

/// The MQTT that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Version {
    #[serde(rename = "3.1.1")]
    Three,
    #[serde(rename = "5")]
    Five,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Three => "3.1.1",
            Self::Five => "5",
        })
    }
}

impl Version {
    /// What a daemon that speaks it cannot do or know, for `info` and `doctor`.
    pub fn missing(self) -> &'static [&'static str] {
        match self {
            Self::Five => &[],
            Self::Three => &[
                "refusal_reasons",
                "unheard_messages",
                "packet_limit",
                "receive_maximum",
                "replayed_property",
                "response_topic",
                "correlation_data",
                "request_expiry",
            ],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Results that the subscriber missed.
    Replay,
    /// An image that it brings along.
    Segment,
}

/// As a word of topics.
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Replay => "replay",
            Self::Segment => "segment",
        })
    }
}

/// Images of `request/segment` come from this source.
pub const MQTT_SOURCE: &str = "mqtt";

impl Mqtt {
    /// The source of images that come as requests, if there are any.
    pub(super) fn source(&self) -> Option<&'static str> {
        self.requests
            .contains(&Verb::Segment)
            .then_some(MQTT_SOURCE)
    }

    /// MQTT topics of this node start with this, ending in a slash.
    pub fn root(&self, node: &str) -> String {
        format!("{}/v1/{node}/", self.base)
    }

    pub(super) fn validate(&self) -> Result<(), Problem> {
        if self.base.is_empty() || self.base.contains(['+', '#', '\0', ' ']) {
            return Err((
                "mqtt.base",
                "use a topic prefix without wildcards or spaces".to_owned(),
            ));
        }
        if let Some(tls) = &self.tls {
            tls.validate_client("mqtt.tls", "the broker")?;
        }
        if !is_loopback(&self.host) {
            encrypted(
                ("mqtt.host", "mqtt"),
                &self.host,
                (self.tls.is_some(), self.allow_plaintext),
            )?;
        }
        if self.password_file.is_some() && self.username_file.is_none() {
            return Err((
                "mqtt.password_file",
                "a password is only sent with a user name; set `username_file` too".to_owned(),
            ));
        }
        at_least("mqtt.keep_alive_s", self.keep_alive_s, 5)?;
        at_least("mqtt.connect_timeout_s", self.connect_timeout_s, 1)?;
        at_least("mqtt.ack_timeout_ms", self.ack_timeout_ms, 100)?;
        at_least("mqtt.inline_max_bytes", self.inline_max_bytes as u64, 1024)?;
        at_least("mqtt.strikes_max", self.strikes_max.into(), 1)?;
        at_least("mqtt.backoff_min_ms", self.backoff_min_ms, 10)?;
        at_least(
            "mqtt.backoff_max_ms",
            self.backoff_max_ms,
            self.backoff_min_ms,
        )?;
        at_least("mqtt.health_interval_s", self.health_interval_s, 1)?;
        within(
            "mqtt.request_max_bytes",
            self.request_max_bytes,
            1024,
            1 << 27,
        )?;
        if !(1..=1024).contains(&self.window_max_messages) {
            return Err(("mqtt.window_max_messages", "use 1 to 1024".to_owned()));
        }
        Ok(())
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
