//! `[http.tls]`, `[dicom.tls]`, `[mqtt.tls]`, `[seg.send_to.tls]`: one shape for both ends.

use std::fmt::Display;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Problem;

/// Files in PEM form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Who vouches for the other end. A server with it asks its clients for certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// This end's, with those between it and the authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Tls {
    pub(super) fn validate_server(&self, section: &'static str) -> Result<(), Problem> {
        if self.certificate_file.is_none() || self.key_file.is_none() {
            let problem = "a server shows a certificate; set `certificate_file` and `key_file`";
            return Err((section, problem.to_owned()));
        }
        Ok(())
    }

    pub(super) fn validate_client(&self, section: &'static str, peer: &str) -> Result<(), Problem> {
        if self.ca_file.is_none() {
            let problem = format!(
                "nobody vouches for {peer}; set `ca_file` to the certificate of its authority, or to \
                 /etc/ssl/certs/ca-certificates.crt for the public ones"
            );
            return Err((section, problem));
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            let problem = "`certificate_file` and `key_file` belong together; set both, or none";
            return Err((section, problem.to_owned()));
        }
        Ok(())
    }

    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [
            &mut self.ca_file,
            &mut self.certificate_file,
            &mut self.key_file,
        ]
        .into_iter()
        .flatten()
    }
}

/// What leaves this machine is encrypted, unless the section says otherwise by name.
pub(super) fn encrypted(
    (key, section): (&'static str, &str),
    other_end: impl Display,
    (tls, allow_plaintext): (bool, bool),
) -> Result<(), Problem> {
    if tls || allow_plaintext {
        return Ok(());
    }
    // As the section stands in the file.
    let header = if section == "dicom" {
        "[[dicom]]".to_owned()
    } else {
        format!("[{section}]")
    };
    let problem = format!(
        "`{other_end}` is beyond this machine and the connection is not encrypted; add [{section}.tls], \
         or set `allow_plaintext = true` in {header} if the network is trusted"
    );
    Err((key, problem))
}
