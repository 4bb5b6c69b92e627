//! `daemon.toml`: typed, every limit a named key with its unit in the name, validated once.
//!
//! `config/daemon.toml` in the repository explains every key. A path that is not absolute is taken
//! relative to the folder of the configuration file.

mod error;
mod overlap;
mod quarantine;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use segmenter::decode::Limits;
use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use quarantine::Quarantine;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Stable id of this box, part of every topic: 1 to 32 of a-z, 0-9 and `-`.
    pub node: String,
    pub model: Model,
    pub state: State,
    pub folder: Vec<Folder>,
    #[serde(default)]
    pub quarantine: Quarantine,
    #[serde(default)]
    pub decode: Decode,
    #[serde(default)]
    pub pipeline: Pipeline,
    pub mqtt: Mqtt,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Bundle directory, or a `.tar` of one.
    pub bundle: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Holds the outbox, the accepted inputs and the quarantine.
    pub directory: PathBuf,
    /// Below this the sources leave their files where they are.
    #[serde(default = "default::min_free_bytes")]
    pub min_free_bytes: u64,
    /// Inputs are kept this long after the broker acknowledged their result; 0 removes them.
    #[serde(default)]
    pub keep_inputs_days: u32,
    /// Jobs that `ledger show JOB` still knows after their end.
    #[serde(default = "default::history_max_jobs")]
    pub history_max_jobs: u64,
}

/// One inbox; results go to `result/<name>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    pub name: String,
    pub directory: PathBuf,
    #[serde(default = "default::poll_interval_ms")]
    pub poll_interval_ms: u64,
    /// A file is taken when its size and time stood still this long. Shares may report them late.
    #[serde(default = "default::stable_ms")]
    pub stable_ms: u64,
    /// Sub-folders below the inbox that are walked.
    #[serde(default = "default::depth_max")]
    pub depth_max: usize,
    /// A larger file is refused at the door.
    #[serde(default = "default::file_max_bytes")]
    pub file_max_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decode {
    /// Rows x columns of one frame.
    pub frame_max_pixels: u64,
    pub frames_max: u32,
    /// Of a file, and of its decoded frames together at 4 bytes a sample.
    pub image_max_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pipeline {
    /// Accepted images that wait for the inference thread.
    pub queue_max_jobs: usize,
    /// A job that was in hand this often when the process died goes to quarantine.
    pub attempts_max: u32,
    /// Time to publish what is in flight after SIGTERM.
    pub shutdown_grace_ms: u64,
    /// An image that takes longer is taken for stuck.
    pub image_timeout_s: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    pub host: String,
    #[serde(default = "default::port")]
    pub port: u16,
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
}

/// The only place that holds default values.
mod default {
    pub(super) fn min_free_bytes() -> u64 {
        256 * 1024 * 1024
    }
    pub(super) fn history_max_jobs() -> u64 {
        10_000
    }
    pub(super) fn poll_interval_ms() -> u64 {
        1000
    }
    pub(super) fn stable_ms() -> u64 {
        2000
    }
    pub(super) fn depth_max() -> usize {
        4
    }
    pub(super) fn file_max_bytes() -> u64 {
        512 * 1024 * 1024
    }
    pub(super) fn port() -> u16 {
        1883
    }
    pub(super) fn base() -> String {
        "scanside".to_owned()
    }
    pub(super) fn keep_alive_s() -> u64 {
        10
    }
    pub(super) fn connect_timeout_s() -> u64 {
        5
    }
    pub(super) fn ack_timeout_ms() -> u64 {
        10_000
    }
    pub(super) fn window_max_messages() -> usize {
        16
    }
    pub(super) fn inline_max_bytes() -> usize {
        120_000
    }
    pub(super) fn strikes_max() -> u32 {
        4
    }
    pub(super) fn backoff_min_ms() -> u64 {
        500
    }
    pub(super) fn backoff_max_ms() -> u64 {
        30_000
    }
    pub(super) fn health_interval_s() -> u64 {
        60
    }
}

impl Default for Decode {
    fn default() -> Self {
        let standard = Limits::STANDARD;
        Self {
            frame_max_pixels: standard.max_pixels_per_frame,
            frames_max: standard.max_frames,
            image_max_bytes: standard.max_bytes,
        }
    }
}

impl From<&Decode> for Limits {
    fn from(decode: &Decode) -> Self {
        Self {
            max_pixels_per_frame: decode.frame_max_pixels,
            max_frames: decode.frames_max,
            max_bytes: decode.image_max_bytes,
        }
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            queue_max_jobs: 256,
            attempts_max: 3,
            shutdown_grace_ms: 5000,
            image_timeout_s: 300,
        }
    }
}

/// A key and what is wrong with its value.
type Problem = (&'static str, String);

fn located(path: &Path, text: &str, (key, problem): Problem) -> ConfigError {
    ConfigError::Value {
        path: path.to_owned(),
        line: error::line_of(text, key),
        key: key.to_owned(),
        problem,
    }
}

impl Config {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text, path)?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.resolve(base);
        overlap::find(&config).map_err(|problem| located(path, &text, problem))?;
        Ok(config)
    }

    /// Parses and validates; `path` is only named in messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|error| error::explain(path, text, &error))?;
        config
            .validate()
            .map_err(|problem| located(path, text, problem))?;
        Ok(config)
    }

    fn resolve(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| *path = base.join(&*path);
        resolve(&mut self.model.bundle);
        resolve(&mut self.state.directory);
        self.folder
            .iter_mut()
            .for_each(|folder| resolve(&mut folder.directory));
        self.mqtt.username_file.iter_mut().for_each(resolve);
        self.mqtt.password_file.iter_mut().for_each(resolve);
    }

    fn validate(&self) -> Result<(), Problem> {
        topic_word("node", &self.node)?;
        if self.folder.is_empty() {
            return Err(("folder", "name at least one [[folder]] to watch".to_owned()));
        }
        for (index, folder) in self.folder.iter().enumerate() {
            topic_word("folder.name", &folder.name)?;
            if self.folder[..index]
                .iter()
                .any(|other| other.name == folder.name)
            {
                return Err((
                    "folder.name",
                    format!("two folders are called `{}`", folder.name),
                ));
            }
            at_least("folder.poll_interval_ms", folder.poll_interval_ms, 10)?;
        }
        at_least(
            "pipeline.queue_max_jobs",
            self.pipeline.queue_max_jobs as u64,
            1,
        )?;
        at_least(
            "pipeline.attempts_max",
            self.pipeline.attempts_max.into(),
            1,
        )?;
        at_least("pipeline.image_timeout_s", self.pipeline.image_timeout_s, 1)?;
        at_least("decode.frame_max_pixels", self.decode.frame_max_pixels, 1)?;
        at_least("decode.frames_max", self.decode.frames_max.into(), 1)?;
        self.quarantine.validate()?;
        self.mqtt.validate()
    }
}

impl Mqtt {
    /// MQTT topics of this node start with this, ending in a slash.
    pub fn root(&self, node: &str) -> String {
        format!("{}/v1/{node}/", self.base)
    }

    fn validate(&self) -> Result<(), Problem> {
        if self.base.is_empty() || self.base.contains(['+', '#', '\0', ' ']) {
            return Err((
                "mqtt.base",
                "use a topic prefix without wildcards or spaces".to_owned(),
            ));
        }
        if !self.allow_plaintext && !is_loopback(&self.host) {
            return Err((
                "mqtt.host",
                format!(
                    "`{}` is another machine and the connection is not encrypted; \
                     set `allow_plaintext = true` in [mqtt] if the network is trusted",
                    self.host
                ),
            ));
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
        if !(1..=1024).contains(&self.window_max_messages) {
            return Err(("mqtt.window_max_messages", "use 1 to 1024".to_owned()));
        }
        Ok(())
    }
}

fn at_least(key: &'static str, value: u64, least: u64) -> Result<(), Problem> {
    if value < least {
        return Err((key, format!("{value} is too small; use {least} or more")));
    }
    Ok(())
}

/// Names that end up in a topic.
fn topic_word(key: &'static str, word: &str) -> Result<(), Problem> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(1..=32).contains(&word.len()) || !word.chars().all(allowed) {
        return Err((key, format!("`{word}` must be 1 to 32 of a-z, 0-9 and `-`")));
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
