//! Identifiers of DICOM files on their way out: nothing, their keyed hashes, or as they are.
//!
//! A hash is HMAC-SHA256 over the value without padding, its first 32 hex digits, under 32 random bytes
//! in `identifiers.key` of the state directory. Who holds the key can tell whether a result belongs to
//! an image that he knows; who does not can only tell which results belong together.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use segmenter::decode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Level;
use crate::disk::rights::create_file;

const KEY_FILE: &str = "identifiers.key";
const KEY_BYTES: usize = 32;
/// Of SHA-256's input, which HMAC pads its key to.
const BLOCK_BYTES: usize = 64;
pub(crate) const HASH_DIGITS: usize = 32;

/// Identifiers in a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identifiers {
    // With `none` there is no such object.
    #[schemars(with = "String", extend("enum" = [Level::Hashed, Level::Full]))]
    pub level: Level,
    /// (0020,000D).
    pub study_instance_uid: Option<String>,
    /// (0020,000E).
    pub series_instance_uid: Option<String>,
    /// (0008,0018).
    pub sop_instance_uid: Option<String>,
    /// (0010,0020).
    pub patient_id: Option<String>,
}

#[derive(Clone)]
pub enum Privacy {
    None,
    Hashed(Key),
    Full,
}

/// Not shown by `Debug`.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

#[derive(Debug, thiserror::Error)]
pub enum PrivacyError {
    #[error(
        "cannot {action} {}: {source}; without it identifiers cannot be hashed: make the state \
         directory writable, or set `identifiers = \"none\"` in [privacy]",
        path.display()
    )]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} has {found} bytes instead of {KEY_BYTES}; put back the right one, or remove it to have a \
         new one made, under which no hash is what it was",
        path.display()
    )]
    Length { path: PathBuf, found: usize },
}

impl Privacy {
    /// Reads the key, or makes one where there is none.
    pub fn open(level: Level, state: &Path) -> Result<Self, PrivacyError> {
        match level {
            Level::None => Ok(Self::None),
            Level::Hashed => Key::open(&state.join(KEY_FILE)).map(Self::Hashed),
            Level::Full => {
                tracing::warn!(
                    "`privacy.identifiers` is `full`: patient ids and UIDs are published as they are, \
                     to everybody who may read results"
                );
                Ok(Self::Full)
            }
        }
    }

    /// What of these may be seen; nothing where there are none.
    pub fn show(&self, of: &decode::Identifiers) -> Option<Identifiers> {
        let show = |value: &Option<String>| {
            let value = value.as_deref()?;
            match self {
                Self::None => None,
                Self::Hashed(key) => Some(key.hash(value)),
                Self::Full => Some(value.to_owned()),
            }
        };
        let shown = Identifiers {
            level: self.level(),
            study_instance_uid: show(&of.study_instance_uid),
            series_instance_uid: show(&of.series_instance_uid),
            sop_instance_uid: show(&of.sop_instance_uid),
            patient_id: show(&of.patient_id),
        };
        let Identifiers {
            study_instance_uid: study,
            series_instance_uid: series,
            sop_instance_uid: instance,
            patient_id: patient,
            ..
        } = &shown;
        let any = [study, series, instance, patient].into_iter().flatten();
        any.count().gt(&0).then_some(shown)
    }

    fn level(&self) -> Level {
        match self {
            Self::None => Level::None,
            Self::Hashed(_) => Level::Hashed,
            Self::Full => Level::Full,
        }
    }
}

impl std::fmt::Debug for Privacy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.level())
    }
}

impl Key {
    fn open(path: &Path) -> Result<Self, PrivacyError> {
        let failed = |action| {
            move |source| PrivacyError::File {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random().map_err(failed("fill"))?;
                write(path, &key).map_err(failed("write"))?;
                tracing::info!(path = %path.display(), "made a key for identifiers");
                return Ok(Self(key));
            }
            read => read.map_err(failed("read"))?,
        };
        let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others may read this key; `chmod 600` it");
        }
        let found = bytes.len();
        let key = bytes.try_into().map_err(|_| PrivacyError::Length {
            path: path.to_owned(),
            found,
        })?;
        Ok(Self(key))
    }

    /// That of a state directory, as every level has one: jobs are found by hashes whatever results say.
    pub fn of(state: &Path) -> Result<Self, PrivacyError> {
        Self::open(&state.join(KEY_FILE))
    }

    /// None where no daemon ever made one.
    pub fn existing(state: &Path) -> Result<Option<Self>, PrivacyError> {
        let path = state.join(KEY_FILE);
        path.exists().then(|| Self::open(&path)).transpose()
    }

    pub fn hash(&self, value: &str) -> String {
        let mut digits = hex::encode(hmac_sha256(&self.0, value.as_bytes()));
        digits.truncate(HASH_DIGITS);
        digits
    }
}

/// Of a DICOM file, also of one whose pixels cannot be read.
pub fn sop_instance_uid(bytes: &[u8], limits: &decode::Limits) -> Option<String> {
    let attribute = decode::Attribute::by_keyword("SOPInstanceUID").ok()?;
    let values = decode::values(bytes, limits, &[attribute]).ok()??;
    values.into_iter().flatten().next()
}

fn random() -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

/// Whole under its name, or not there.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let part = path.with_extension("key.part");
    let mut file = create_file(&part)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// RFC 2104, for keys of a block or less.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK_BYTES];
        block
            .iter_mut()
            .zip(key)
            .for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message);
    let outer = Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner.finalize());
    outer.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test cases 1, 2 and 3.
    #[test]
    fn hmac_gives_the_numbers_of_the_rfc() {
        let cases: [(&[u8], &[u8], &str); 3] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
        ];
        for (key, message, expected) in cases {
            assert_eq!(hex::encode(hmac_sha256(key, message)), expected);
        }
    }

    fn patient() -> decode::Identifiers {
        decode::Identifiers {
            sop_instance_uid: Some("1.2.3".into()),
            patient_id: Some("DOE".into()),
            ..decode::Identifiers::default()
        }
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let shown = || {
            let privacy = Privacy::open(Level::Hashed, folder.path()).unwrap();
            privacy.show(&patient()).unwrap()
        };
        let first = shown();
        assert_eq!(first, shown());
        let hash = first.sop_instance_uid.unwrap();
        assert_eq!((hash.len(), first.series_instance_uid), (HASH_DIGITS, None));
        assert_ne!(Some(hash), first.patient_id);
        let path = folder.path().join(KEY_FILE);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let key = fs::read(&path).unwrap();
        let digits = hex::encode(hmac_sha256(&key, b"DOE"));
        assert_eq!(first.patient_id.as_deref(), Some(&digits[..HASH_DIGITS]));
        assert!(!format!("{:?}", Privacy::open(Level::Hashed, folder.path())).contains("Key"));

        fs::remove_file(&path).unwrap();
        assert_ne!(shown().patient_id.as_deref(), Some(&digits[..HASH_DIGITS]));
        fs::write(&path, b"short").unwrap();
        let error = Privacy::open(Level::Hashed, folder.path()).unwrap_err();
        assert!(
            error.to_string().contains("5 bytes instead of 32"),
            "{error}"
        );
        let nowhere = folder.path().join("nowhere");
        let error = Privacy::open(Level::Hashed, &nowhere)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot write") && error.contains("[privacy]"),
            "{error}"
        );
    }

    #[test]
    fn each_level_shows_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let open = |level| Privacy::open(level, folder.path()).unwrap();
        assert_eq!(open(Level::None).show(&patient()), None);
        assert!(!folder.path().join(KEY_FILE).exists(), "not needed");
        let full = open(Level::Full).show(&patient()).unwrap();
        assert_eq!(full.patient_id.as_deref(), Some("DOE"));
        let nobody = decode::Identifiers::default();
        assert_eq!(open(Level::Full).show(&nobody), None);
        assert_eq!(open(Level::Hashed).show(&nobody), None);
    }
}
