//! Certificate authorities and the certificates that they issue, made for one test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM form.
    pub(crate) file: PathBuf,
}

/// A certificate and its private key, as files in PEM form.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// mosquitto drops root's rights before it reads these files.
fn write(path: &Path, text: &str) {
    let folder = path.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path, text).unwrap();
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let file = folder.join(format!("{name}.pem"));
        write(&file, &params.self_signed(&key).unwrap().pem());
        Self {
            issuer: Issuer::new(params, key),
            file,
        }
    }

    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.issue_until(name, 2100)
    }

    /// The certificate is valid until the first day of a year.
    pub(crate) fn issue_until(&self, name: &str, year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.not_before = date_time_ymd(2015, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let folder = self.file.parent().unwrap();
        let identity = Identity {
            certificate: folder.join(format!("{name}-certificate.pem")),
            key: folder.join(format!("{name}-key.pem")),
        };
        write(&identity.certificate, &signed.pem());
        write(&identity.key, &key.serialize_pem());
        identity
    }
}

impl Identity {
    /// The keys for these files in a section of the daemon's configuration.
    pub(crate) fn config_keys(&self) -> String {
        format!(
            "certificate_file = \"{}\"\nkey_file = \"{}\"\n",
            self.certificate.display(),
            self.key.display()
        )
    }

    /// Overwrites these files with those of another certificate.
    pub(crate) fn replace_with(&self, other: &Self) {
        fs::copy(&other.certificate, &self.certificate).unwrap();
        fs::copy(&other.key, &self.key).unwrap();
    }
}

/// The configuration of a mosquitto listener that requires a certificate of every client.
pub(crate) fn mosquitto_listener(port: u16, authority: &Authority, broker: &Identity) -> String {
    format!(
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        authority.file.display(),
        broker.certificate.display(),
        broker.key.display()
    )
}
