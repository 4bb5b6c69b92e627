//! `trainer bundle keygen` and `sign`: keys and signatures in the files of the `minisign` tool, which
//! makes and checks the same ones.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use contract::Manifest;
use contract::bundle::{Bundle, MANIFEST};
use contract::signature::SIGNATURE;
use ct_codecs::{Base64, Decoder};
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use super::{replace_manifest, save, sibling};
use crate::report;

/// Writes a secret key and beside it its public key, `FILE.pub`.
pub(super) fn keygen(key: &Path, no_password: bool) -> Result<()> {
    let public = public_of(key);
    for path in [key, &public] {
        ensure!(
            !path.exists(),
            "{} exists; what it signed would be worth nothing without it: name another file",
            path.display()
        );
    }
    let pair = if no_password {
        KeyPair::generate_unencrypted_keypair()
    } else {
        KeyPair::generate_encrypted_keypair(None)
    };
    let pair = pair.context("cannot make a key pair")?;
    let write = || {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(key)?;
        file.write_all(
            &pair
                .sk
                .to_box(None)
                .map_err(std::io::Error::other)?
                .to_bytes(),
        )?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", key.display()))?;
    save(&public, &pair.pk.to_box()?.to_bytes())?;
    report::say(&format!(
        "secret key {}; keep it off the box\npublic key {}; for config/daemon.toml:\n\n[models]\ntrusted_keys = [\"{}\"]",
        key.display(),
        public.display(),
        pair.pk.to_base64()
    ));
    Ok(())
}

/// `box.key` -> `box.key.pub`.
fn public_of(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// What a release changes in the manifest, where it changes anything.
#[derive(Debug, Default)]
pub(super) struct Release<'a> {
    pub(super) counter: Option<u64>,
    pub(super) version: Option<&'a str>,
}

impl Release<'_> {
    /// Whether the manifest is another one now.
    fn apply(&self, manifest: &mut Manifest) -> Result<bool> {
        let before = (manifest.counter, manifest.version.clone());
        if let Some(counter) = self.counter {
            ensure!(
                counter >= manifest.counter,
                "--counter {counter}: the bundle has {} already, and a box goes to no lower one; name a higher one",
                manifest.counter
            );
            manifest.counter = counter;
        }
        if let Some(version) = self.version {
            ensure!(
                !version.trim().is_empty() && !version.chars().any(char::is_control),
                "--version {version:?}: a version has characters that can be read; name it as 1.2.0"
            );
            version.clone_into(&mut manifest.version);
        }
        Ok(before != (manifest.counter, manifest.version.clone()))
    }
}

/// Signs the manifest of a bundle folder whose files are as it says. A key with a password asks for it.
pub(super) fn sign(directory: &Path, key: &Path, release: &Release) -> Result<()> {
    if directory.is_file() {
        bail!(
            "{} is a file; sign the bundle's folder, then `trainer bundle pack` it",
            directory.display()
        );
    }
    let mut manifest = Bundle::open(directory)?.manifest;
    let secret = secret_key(key)?;
    if release.apply(&mut manifest)? {
        manifest = replace_manifest(directory, manifest)?;
    }
    let bytes = fs::read(directory.join(MANIFEST))
        .with_context(|| format!("cannot read the manifest of {}", directory.display()))?;
    let comment = format!(
        "{} {} counter {}",
        manifest.name, manifest.version, manifest.counter
    );
    let comment: String = comment.chars().filter(|c| !c.is_control()).collect();
    let public = PublicKey::from_secret_key(&secret)?;
    let signature = minisign::sign(Some(&public), &secret, &*bytes, Some(&comment), None)
        .context("cannot sign")?;
    let path = directory.join(SIGNATURE);
    let partial = sibling(&path, "partial")?;
    save(&partial, signature.to_string().as_bytes())?;
    fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
    report::say(&format!("{}: {comment}", path.display()));
    Ok(())
}

fn secret_key(path: &Path) -> Result<SecretKey> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let no_key = || format!("{} is no minisign secret key", path.display());
    let line = text.lines().nth(1).with_context(no_key)?;
    let bytes = Base64::decode_to_vec(line.trim(), None).with_context(no_key)?;
    let key = SecretKey::from_bytes(&bytes).with_context(no_key)?;
    // What the tool writes without a password has no checksum; the signature is checked once it is made.
    if !key.is_encrypted() {
        return Ok(key);
    }
    let boxed = SecretKeyBox::from_string(&text)?;
    boxed.into_secret_key(None).with_context(|| {
        format!(
            "{}: the password is another one, or the key is damaged",
            path.display()
        )
    })
}
