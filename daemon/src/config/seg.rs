//! `[seg]`: masks of a whole series as a DICOM Segmentation, to a folder or to a PACS.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::mqtt::is_loopback;
use super::tls::encrypted;
use super::{Problem, Tls, at_least, default, dicom, within};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seg {
    /// Where segmentations are written, one file each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_to: Option<SendTo>,
    /// A series is complete when no image of it came for this long.
    pub quiet_s: u64,
    /// It is complete, too, when the association that delivered it is released.
    pub on_release: bool,
    /// A series with so many images is taken for complete.
    pub series_max_images: usize,
    /// Beyond it the series that is quiet for longest is taken for complete.
    pub open_max_series: usize,
}

/// A storage SCP. What is not sent yet lies in the state directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendTo {
    pub host: String,
    #[serde(default = "default::storage_port")]
    pub port: u16,
    pub called_ae_title: String,
    #[serde(default = "default::ae_title")]
    pub calling_ae_title: String,
    /// Without it, patient data leave the machine only over TLS.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// For the connection, and for each answer.
    #[serde(default = "answer_timeout_s")]
    pub timeout_s: u64,
    #[serde(default = "retry_min_ms")]
    pub retry_min_ms: u64,
    #[serde(default = "retry_max_ms")]
    pub retry_max_ms: u64,
    /// Answers that ask for another try before an object counts as refused.
    #[serde(default = "attempts_max")]
    pub attempts_max: u32,
    /// Of the objects that wait, together; beyond it the oldest go to the refused ones.
    #[serde(default = "outgoing_max_bytes")]
    pub waiting_max_bytes: u64,
    /// Of the refused ones; beyond it the oldest are removed.
    #[serde(default = "outgoing_max_bytes")]
    pub refused_max_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

fn answer_timeout_s() -> u64 {
    30
}

fn retry_min_ms() -> u64 {
    1000
}

fn retry_max_ms() -> u64 {
    300_000
}

fn attempts_max() -> u32 {
    10
}

fn outgoing_max_bytes() -> u64 {
    1024 * 1024 * 1024
}

impl Default for Seg {
    fn default() -> Self {
        Self {
            directory: None,
            send_to: None,
            quiet_s: 30,
            on_release: true,
            series_max_images: 2000,
            open_max_series: 64,
        }
    }
}

impl Seg {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        if self.directory.is_none() && self.send_to.is_none() {
            let problem = "name a `directory` to write to, a [seg.send_to] to send to, or both";
            return Err(("seg", problem.to_owned()));
        }
        within("seg.quiet_s", self.quiet_s, 1, 86_400)?;
        let images = self.series_max_images as u64;
        within("seg.series_max_images", images, 1, 100_000)?;
        let series = self.open_max_series as u64;
        within("seg.open_max_series", series, 1, 10_000)?;
        self.send_to.as_ref().map_or(Ok(()), SendTo::validate)
    }
}

impl SendTo {
    fn validate(&self) -> Result<(), Problem> {
        if let Some(tls) = &self.tls {
            tls.validate_client("seg.send_to.tls", "the PACS")?;
        }
        if !is_loopback(&self.host) {
            encrypted(
                ("seg.send_to.host", "seg.send_to"),
                &self.host,
                (self.tls.is_some(), self.allow_plaintext),
            )?;
        }
        at_least("seg.send_to.port", self.port.into(), 1)?;
        dicom::ae_title("seg.send_to.called_ae_title", &self.called_ae_title)?;
        dicom::ae_title("seg.send_to.calling_ae_title", &self.calling_ae_title)?;
        within("seg.send_to.timeout_s", self.timeout_s, 1, 3600)?;
        at_least("seg.send_to.retry_min_ms", self.retry_min_ms, 10)?;
        at_least(
            "seg.send_to.retry_max_ms",
            self.retry_max_ms,
            self.retry_min_ms,
        )?;
        at_least("seg.send_to.attempts_max", self.attempts_max.into(), 1)?;
        at_least("seg.send_to.waiting_max_bytes", self.waiting_max_bytes, 1)?;
        at_least("seg.send_to.refused_max_bytes", self.refused_max_bytes, 1)
    }
}
