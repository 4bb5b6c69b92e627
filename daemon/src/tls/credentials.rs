//! What both ends show each other: certificates, the token of HTTP, the broker's user. Read at the start
//! and again at SIGHUP; each new connection takes what holds at that moment.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::{self, Config};
use crate::tls::expiry::Expiries;
use crate::tls::{self, TlsError};

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("`{section}`: {source}")]
    Tls {
        section: &'static str,
        source: Box<TlsError>,
    },
    #[error("`{key}`: cannot read {}: {source}", path.display())]
    Read {
        key: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "`http.token_file`: the first line of {} has fewer than {TOKEN_MIN_CHARS} characters; write a \
         random one there, e.g. with `openssl rand -hex 32`", .0.display()
    )]
    ShortToken(PathBuf),
}

/// 96 bits in hexadecimal digits.
const TOKEN_MIN_CHARS: usize = 24;

#[derive(Debug, Default)]
pub struct Credentials {
    pub(crate) http: Option<Arc<ServerConfig>>,
    pub(crate) token: Option<Token>,
    /// By the name of the source.
    pub(crate) dicom: HashMap<String, Arc<ServerConfig>>,
    pub(crate) mqtt: Broker,
    /// For the next association with the PACS.
    pub(crate) pacs: Option<Arc<ClientConfig>>,
    /// Of all certificates above.
    pub(crate) expiries: Expiries,
}

/// For the next connection to the broker.
#[derive(Debug, Default, Clone)]
pub(crate) struct Broker {
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Read at every connection.
    pub(crate) username_file: Option<PathBuf>,
    pub(crate) password_file: Option<PathBuf>,
}

/// What a sender of images has to show.
#[derive(Debug)]
pub(crate) struct Token([u8; 32]);

impl Token {
    fn of(word: &[u8]) -> Self {
        Self(Sha256::digest(word).into())
    }

    /// Takes as long for a guess that is nearly right as for any other.
    pub(crate) fn is(&self, word: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(word).0).into()
    }
}

impl Credentials {
    pub fn load(config: &Config) -> Result<Self, CredentialError> {
        let server = |section, tls: &config::Tls| tls::server(tls).map_err(unusable(section));
        let mut credentials = Self::default();
        if let Some(http) = &config.http {
            let tls = http.tls.as_ref().map(|tls| server("http.tls", tls));
            credentials.http = tls.transpose()?;
            credentials.token = http.token_file.as_deref().map(token).transpose()?;
        }
        for dicom in &config.dicom {
            if let Some(tls) = &dicom.tls {
                let tls = server("dicom.tls", tls)?;
                credentials.dicom.insert(dicom.name.clone(), tls);
            }
        }
        let mqtt = &config.mqtt;
        let tls = mqtt.tls.as_ref().map(tls::client).transpose();
        credentials.mqtt = Broker {
            tls: tls.map_err(unusable("mqtt.tls"))?,
            username_file: mqtt.username_file.clone(),
            password_file: mqtt.password_file.clone(),
        };
        let pacs = config.seg.iter().find_map(|seg| seg.send_to.as_ref());
        let tls = pacs.and_then(|to| to.tls.as_ref()).map(tls::client);
        credentials.pacs = tls.transpose().map_err(unusable("seg.send_to.tls"))?;
        for (section, tls) in config.tls() {
            let read = credentials.expiries.read(tls);
            read.map_err(unusable(section))?;
        }
        Ok(credentials)
    }

    /// Sections whose connections are encrypted; ports by the name of their source.
    pub(crate) fn encrypted(&self) -> BTreeSet<String> {
        let dicom = self.dicom.keys().map(|name| format!("dicom `{name}`"));
        let others = [
            ("http", self.http.is_some()),
            ("mqtt", self.mqtt.tls.is_some()),
            ("seg.send_to", self.pacs.is_some()),
        ];
        let others = others.into_iter().filter(|(_, tls)| *tls);
        dicom
            .chain(others.map(|(name, _)| name.to_owned()))
            .collect()
    }
}

fn unusable(section: &'static str) -> impl Fn(TlsError) -> CredentialError {
    move |source| CredentialError::Tls {
        section,
        source: Box::new(source),
    }
}

fn token(path: &Path) -> Result<Token, CredentialError> {
    let word = first_line(path).map_err(|source| CredentialError::Read {
        key: "http.token_file",
        path: path.to_owned(),
        source,
    })?;
    if word.len() < TOKEN_MIN_CHARS {
        return Err(CredentialError::ShortToken(path.to_owned()));
    }
    Ok(Token::of(word.as_bytes()))
}

/// Files of secrets that every user of this machine may read, with the keys that name them.
pub(crate) fn exposed(config: &Config) -> Vec<(String, PathBuf)> {
    let keys = config.tls().filter_map(|(section, tls)| {
        let path = tls.key_file.as_ref()?;
        Some((format!("{section}.key_file"), path))
    });
    let token = config
        .http
        .as_ref()
        .and_then(|http| http.token_file.as_ref());
    let token = token.map(|path| ("http.token_file".to_owned(), path));
    let password = config.mqtt.password_file.as_ref();
    let password = password.map(|path| ("mqtt.password_file".to_owned(), path));
    let all = keys.chain(token).chain(password);
    // A file that cannot be read is named where it is used.
    let open = |path: &Path| fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0);
    all.filter(|(_, path)| open(path))
        .map(|(key, path)| (key, path.clone()))
        .collect()
}

/// What a service that starts all the same has to say of it.
pub(crate) fn warn_exposed(config: &Config) {
    for (key, path) in exposed(config) {
        let path = path.display();
        tracing::warn!(key, %path, "every user of this machine may read this secret; `chmod 600` it");
    }
}

pub(crate) fn first_line(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    Ok(text.lines().next().unwrap_or("").to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_all_may_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        let sections = "node = \"a\"\n[model]\nbundle = \"b\"\n[state]\ndirectory = \"s\"\n[http]\n\
                        token_file = \"token\"\n[mqtt]\nhost = \"127.0.0.1\"\npassword_file = \"password\"\n\
                        username_file = \"user\"\n[http.tls]\ncertificate_file = \"box.pem\"\nkey_file = \"box.key\"\n";
        fs::write(&path, sections).unwrap();
        let config = Config::read(&path).unwrap();
        let files = ["box.key", "box.pem", "password", "token", "user"];
        let named =
            || -> Vec<String> { exposed(&config).into_iter().map(|(key, _)| key).collect() };
        assert!(named().is_empty(), "files that are not there");
        let modes = |mode: u32| {
            for file in files {
                let path = folder.path().join(file);
                fs::write(&path, "x").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        modes(0o644);
        let expected = ["http.tls.key_file", "http.token_file", "mqtt.password_file"];
        assert_eq!(named(), expected);
        modes(0o640);
        assert!(named().is_empty(), "a group may be meant");
    }

    #[test]
    fn a_token_is_itself_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let word = "0123456789abcdef01234567";
        fs::write(&path, format!("{word}\nsecond line\n")).unwrap();
        let good = token(&path).unwrap();
        assert!(good.is(word.as_bytes()));
        for wrong in ["", "0", "0123456789abcdef01234568", &word[..23]] {
            assert!(!good.is(wrong.as_bytes()), "{wrong}");
        }
        fs::write(&path, &word[..23]).unwrap();
        let words = token(&path).unwrap_err().to_string();
        assert!(words.contains("fewer than 24 characters"), "{words}");
    }
}
