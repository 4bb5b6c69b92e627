//! `daemon.toml`: typed, every limit a named key with its unit in the name, validated once.
//!
//! `config/daemon.toml` in the repository explains every key. A path that is not absolute is taken
//! relative to the folder of the configuration file.

mod decode;
mod dicom;
mod error;
mod http;
mod models;
mod mqtt;
mod overlap;
mod parse;
mod paths;
mod privacy;
mod quarantine;
mod results;
mod route;
mod seg;
mod tls;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use decode::Decode;
pub use dicom::Dicom;
pub use error::{ConfigError, Fault};
use error::{Problem, located};
pub use http::Http;
pub use models::{DEFAULT_SLOT, Models, NO_SLOT, Shadow, Slot};
pub use mqtt::{MQTT_SOURCE, Mqtt, Protocol, Verb, Version};
pub use privacy::{Level, Privacy};
pub use quarantine::Quarantine;
pub use results::Results;
pub(crate) use route::fits;
pub use route::{Route, Texts};
pub use seg::{Seg, SendTo};
pub use tls::Tls;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Stable id of this box, part of every topic: 1 to 32 of a-z, 0-9 and `-`.
    pub node: String,
    pub model: Model,
    #[serde(default)]
    pub slot: Vec<Slot>,
    #[serde(default)]
    pub models: Models,
    #[serde(default)]
    pub route: Vec<Route>,
    pub state: State,
    #[serde(default)]
    pub folder: Vec<Folder>,
    #[serde(default)]
    pub dicom: Vec<Dicom>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    #[serde(default)]
    pub quarantine: Quarantine,
    #[serde(default)]
    pub results: Results,
    #[serde(default)]
    pub privacy: Privacy,
    #[serde(default)]
    pub decode: Decode,
    #[serde(default)]
    pub pipeline: Pipeline,
    pub mqtt: Mqtt,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seg: Option<Seg>,
    /// Where it was read from; what SIGHUP reads again.
    #[serde(skip)]
    pub file: Option<PathBuf>,
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
    pub(super) fn storage_port() -> u16 {
        11_112
    }
    pub(super) fn ae_title() -> String {
        "SCANSIDE".to_owned()
    }
    pub(super) fn associations_max() -> usize {
        8
    }
    pub(super) fn pdu_max_bytes() -> u32 {
        131_072
    }
    pub(super) fn idle_timeout_s() -> u64 {
        60
    }
    pub(super) fn http_name() -> String {
        "http".to_owned()
    }
    pub(super) fn http_port() -> u16 {
        8790
    }
    pub(super) fn connections_max() -> usize {
        16
    }
    pub(super) fn http_idle_timeout_s() -> u64 {
        30
    }
    pub(super) fn request_timeout_s() -> u64 {
        300
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
    pub(super) fn request_max_bytes() -> u64 {
        16 * 1024 * 1024
    }
    pub(super) fn request_expiry_s() -> u32 {
        86_400
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            queue_max_jobs: 20_000,
            attempts_max: 3,
            shutdown_grace_ms: 5000,
            image_timeout_s: 300,
        }
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
        config.file = Some(path.to_owned());
        let fault = |problem| ConfigError::Faults(vec![located(path, &text, problem)]);
        overlap::find(&config).map_err(fault)?;
        Ok(config)
    }

    /// Parses and validates; `path` is only named in messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config = parse::parse(text, path).map_err(ConfigError::Faults)?;
        let problems = config.validate();
        if problems.is_empty() {
            return Ok(config);
        }
        let located = |problem| located(path, text, problem);
        let mut faults: Vec<Fault> = problems.into_iter().map(located).collect();
        faults.sort_by_key(|fault| fault.line);
        Err(ConfigError::Faults(faults))
    }

    /// Names of the sources, in the order of the file's sections.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.source_keys().map(|(_, name)| name)
    }

    /// Sections for TLS, with their names.
    pub fn tls(&self) -> impl Iterator<Item = (&'static str, &Tls)> {
        let dicom = self.dicom.iter().map(|dicom| ("dicom.tls", &dicom.tls));
        let http = self.http.iter().map(|http| ("http.tls", &http.tls));
        let send_to = self.seg.iter().filter_map(|seg| seg.send_to.as_ref());
        let pacs = send_to.map(|to| ("seg.send_to.tls", &to.tls));
        let all = dicom.chain(http).chain([("mqtt.tls", &self.mqtt.tls)]);
        all.chain(pacs)
            .filter_map(|(name, tls)| Some((name, tls.as_ref()?)))
    }

    fn source_keys(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let folders = self
            .folder
            .iter()
            .map(|folder| ("folder.name", &*folder.name));
        let dicom = self.dicom.iter().map(|dicom| ("dicom.name", &*dicom.name));
        let http = self.http.iter().map(|http| ("http.name", &*http.name));
        let requests = self.mqtt.source().map(|name| ("mqtt.requests", name));
        folders.chain(dicom).chain(http).chain(requests)
    }

    /// The first problem of each section, and those between sections.
    fn validate(&self) -> Vec<Problem> {
        let folders = self.folder.iter().map(|folder| {
            let interval_ms = folder.poll_interval_ms;
            at_least("folder.poll_interval_ms", interval_ms, 10)
        });
        let checks = [
            topic_word("node", &self.node),
            self.validate_sources(),
            self.validate_ports(),
            self.http.as_ref().map_or(Ok(()), Http::validate),
            self.models.validate(),
            self.validate_slots(),
            self.validate_routes(),
            self.pipeline.validate(),
            self.decode.validate(),
            self.quarantine.validate(),
            self.seg.as_ref().map_or(Ok(()), Seg::validate),
            self.results.validate(),
            self.mqtt.validate(),
        ];
        let dicom = self.dicom.iter().map(Dicom::validate);
        let checks = checks.into_iter().chain(folders).chain(dicom);
        checks.filter_map(Result::err).collect()
    }

    fn validate_sources(&self) -> Result<(), Problem> {
        if self.source_keys().next().is_none() {
            let problem =
                "name at least one [[folder]] to watch, or one [[dicom]] or [http] to listen at";
            return Err(("folder", problem.to_owned()));
        }
        let mut names = HashSet::new();
        for (key, name) in self.source_keys() {
            topic_word(key, name)?;
            if !names.insert(name) {
                let problem = format!("two sources are called `{name}`; rename one");
                return Err((key, problem));
            }
        }
        Ok(())
    }

    fn validate_ports(&self) -> Result<(), Problem> {
        for (index, dicom) in self.dicom.iter().enumerate() {
            if self.dicom[..index]
                .iter()
                .any(|other| dicom.collides(other))
            {
                let problem = format!("two [[dicom]] listen at {}", dicom.port);
                return Err(("dicom.port", problem + "; give each a port of its own"));
            }
        }
        Ok(())
    }
}

impl Pipeline {
    fn validate(&self) -> Result<(), Problem> {
        let queue = self.queue_max_jobs as u64;
        at_least("pipeline.queue_max_jobs", queue, 1)?;
        at_least("pipeline.attempts_max", self.attempts_max.into(), 1)?;
        at_least("pipeline.image_timeout_s", self.image_timeout_s, 1)
    }
}

fn at_least(key: &'static str, value: u64, least: u64) -> Result<(), Problem> {
    if value < least {
        return Err((key, format!("{value} is too small; use {least} or more")));
    }
    Ok(())
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), Problem> {
    if !(least..=most).contains(&value) {
        return Err((
            key,
            format!("{value} is out of range; use {least} to {most}"),
        ));
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

#[cfg(test)]
mod tests;
