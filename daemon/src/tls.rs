//! TLS of both ends, by rustls with ring: certificates and keys out of PEM files, and in words why the
//! other end and this one do not trust each other.

pub(crate) mod credentials;
pub(crate) mod expiry;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use crate::config;

/// Whom to believe at the other end, and what to show it.
pub(crate) type Trust = ClientConfig;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate in PEM form; it begins with `-----BEGIN CERTIFICATE-----`", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} does not go with the key in {}: {source}", certificate.display(), key.display())]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("nobody can be trusted by {}: {source}", path.display())]
    Authority {
        path: PathBuf,
        source: VerifierBuilderError,
    },
    #[error("a certificate in {} is no authority's: {source}", path.display())]
    Root {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("TLS needs `{0}`")]
    Missing(&'static str),
}

/// For a port of this daemon; with `ca_file` its clients show certificates.
pub(crate) fn server(tls: &config::Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match &tls.ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_client_cert_verifier(verifier.build().map_err(authority(path))?)
        }
    };
    let Identity {
        chain,
        key,
        mismatch,
    } = identity(tls)?.ok_or(TlsError::Missing("certificate_file"))?;
    let config = builder.with_single_cert(chain, key).map_err(mismatch)?;
    Ok(Arc::new(config))
}

/// For connections to a broker or a PACS, which `ca_file` vouches for.
pub(crate) fn client(tls: &config::Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let path = tls.ca_file.as_ref().ok_or(TlsError::Missing("ca_file"))?;
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(path)?), provider()).build();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier.map_err(authority(path))?);
    let config = match identity(tls)? {
        None => builder.with_no_client_auth(),
        Some(Identity {
            chain,
            key,
            mismatch,
        }) => builder
            .with_client_auth_cert(chain, key)
            .map_err(mismatch)?,
    };
    Ok(Arc::new(config))
}

/// What begins a TLS connection, to see whether a port answers to it. Nothing is trusted.
pub(crate) fn client_hello(host: &str) -> Option<Vec<u8>> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().ok()?;
    let config = builder.with_root_certificates(RootCertStore::empty());
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let mut connection =
        ClientConnection::new(Arc::new(config.with_no_client_auth()), name).ok()?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).ok()?;
    Some(bytes)
}

/// What rustls said, however deep it lies in another library's error.
pub(crate) fn rustls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let found = inner.and_then(|error| error.downcast_ref());
        if let Some(error) = found.or(error.downcast_ref()) {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// Why there is no TLS with `peer`, whom `[<section>]` of the configuration names.
pub(crate) fn words(error: &rustls::Error, peer: &str, section: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => format!(
            "{peer}'s certificate is not good here: {}; check `{section}.host`, `ca_file` in [{section}.tls] and \
             {peer}'s certificate",
            certificate(why)
        ),
        rustls::Error::AlertReceived(why) => format!(
            "{peer} does not take this box's certificate, or wants one: TLS alert {why:?}; check \
             `certificate_file` in [{section}.tls] and {peer}'s log"
        ),
        error => format!("no TLS with {peer}: {error}; check the port and [{section}.tls]"),
    }
}

/// Why there is no TLS with a client of this box.
pub(crate) fn client_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(_) => format!(
            "what it sent is no TLS, which this port wants ({error}); let it use TLS, or take the `tls` section away"
        ),
        error => error.to_string(),
    }
}

/// The same words at every attempt: rustls names the time of each.
fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, or this box's clock is slow".to_owned()
        }
        CertificateError::UnknownIssuer => "nobody in `ca_file` vouches for it".to_owned(),
        error => error.to_string(),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What this end shows, and how to say that its parts do not belong together.
struct Identity<F> {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    mismatch: F,
}

fn identity(
    tls: &config::Tls,
) -> Result<Option<Identity<impl FnOnce(rustls::Error) -> TlsError + use<>>>, TlsError> {
    let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) else {
        return Ok(None);
    };
    let (chain, private) = (
        certificates(certificate)?,
        PrivateKeyDer::from_pem_file(key).map_err(read(key))?,
    );
    let (certificate, key) = (certificate.clone(), key.clone());
    Ok(Some(Identity {
        chain,
        key: private,
        mismatch: move |source| TlsError::Pair {
            certificate,
            key,
            source,
        },
    }))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Root {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).map_err(read(path))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(read(path))?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

fn read(path: &Path) -> impl Fn(pem::Error) -> TlsError + use<> {
    let path = path.to_owned();
    move |source| TlsError::Read {
        path: path.clone(),
        source,
    }
}

fn authority(path: &Path) -> impl FnOnce(VerifierBuilderError) -> TlsError + use<> {
    let path = path.to_owned();
    move |source| TlsError::Authority { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// Every message names the file that has to be looked at.
    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["box".into()]).unwrap();
        let certificate = write("box.pem", &params.self_signed(&key).unwrap().pem());
        let good = config::Tls {
            ca_file: Some(certificate.clone()),
            certificate_file: Some(certificate),
            key_file: Some(write("box.key", &key.serialize_pem())),
        };
        server(&good).unwrap();
        client(&good).unwrap();
        let others_key = Some(write("other.key", &other.serialize_pem()));
        let empty = Some(write("empty.pem", "no certificate\n"));
        let absent = Some(folder.path().join("absent.pem"));
        let cases = [
            (
                config::Tls {
                    key_file: others_key,
                    ..good.clone()
                },
                ["box.pem does not go with the key in", "other.key"],
            ),
            (
                config::Tls {
                    key_file: empty.clone(),
                    ..good.clone()
                },
                ["cannot read", "empty.pem"],
            ),
            (
                config::Tls {
                    ca_file: empty,
                    ..good.clone()
                },
                ["empty.pem holds no certificate", "BEGIN CERTIFICATE"],
            ),
            (
                config::Tls {
                    ca_file: absent,
                    ..good
                },
                ["cannot read", "absent.pem"],
            ),
        ];
        for (tls, words) in cases {
            let errors = [
                server(&tls).unwrap_err().to_string(),
                client(&tls).unwrap_err().to_string(),
            ];
            for error in errors {
                assert!(words.iter().all(|word| error.contains(word)), "{error}");
            }
        }
    }
}
