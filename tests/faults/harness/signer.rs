//! Signed bundles of two kinds, and a daemon that trusts their key. `bright` bundles find the bright part of an image,
//! `dark` ones the rest.

use std::fs;
use std::path::{Path, PathBuf};

use contract::bundle::{ClassMask, GOLDEN_MASK, MANIFEST, file_digest};
use contract::signature::SIGNATURE;
use contract::{LabelMap, Manifest};
use minisign::KeyPair;
use serde_json::Value;

use crate::harness::daemon::Daemon;
use crate::harness::site::Site;
use tests::sample_bundle;

/// Half of the pixels of [`Daemon::drop_image`], whose bright part is the smaller one.
const HALF_PX: u64 = 40 * 40 / 2;
pub(crate) const GRAPH: &str = "model.onnx";

/// A key that signs bundles.
pub(crate) struct Signer(KeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().unwrap())
    }

    pub(crate) fn sign(&self, bundle: &Path) {
        let manifest = fs::read(bundle.join(MANIFEST)).unwrap();
        let signed = minisign::sign(None, &self.0.sk, &*manifest, None, None).unwrap();
        fs::write(bundle.join(SIGNATURE), signed.to_string()).unwrap();
    }

    /// Makes and signs version `<counter>.0.0`; an inverted one finds the dark part.
    pub(crate) fn make_bundle(&self, folder: &Path, counter: u64, inverted: bool) -> PathBuf {
        let bundle = folder.join(format!("bundle-{counter}"));
        fs::create_dir(&bundle).unwrap();
        let mut manifest = sample_bundle::write(&bundle);
        manifest.counter = counter;
        manifest.version = format!("{counter}.0.0");
        if inverted {
            invert(&bundle);
        }
        for (name, digest) in &mut manifest.files {
            *digest = file_digest(&bundle.join(name)).unwrap();
        }
        fs::write(bundle.join(MANIFEST), manifest.seal().to_json()).unwrap();
        self.sign(&bundle);
        bundle
    }

    pub(crate) fn config_section(&self) -> String {
        format!("[models]\ntrusted_keys = [\"{}\"]\n", self.0.pk.to_base64())
    }
}

/// Negates weights and biases, and replaces the golden mask by its complement.
fn invert(bundle: &Path) {
    let mut graph = fs::read(bundle.join(GRAPH)).unwrap();
    let third = 10.0_f32 / 3.0;
    for value in [third, 5.0] {
        let (plus, minus) = (value.to_le_bytes(), (-value).to_le_bytes());
        let mut at = 0;
        while at + 4 <= graph.len() {
            let other = match &graph[at..at + 4] {
                bytes if bytes == plus => minus,
                bytes if bytes == minus => plus,
                _ => {
                    at += 1;
                    continue;
                }
            };
            graph[at..at + 4].copy_from_slice(&other);
            at += 4;
        }
    }
    fs::write(bundle.join(GRAPH), graph).unwrap();
    let bright = sample_bundle::golden_labels();
    let mut dark = LabelMap::new(bright.rows, bright.cols);
    for (dark, bright) in dark.data.iter_mut().zip(&bright.data) {
        *dark = 1 - bright;
    }
    let masks = [ClassMask {
        id: 1,
        rle: dark.rle(1),
    }];
    let json = serde_json::to_vec(&masks).unwrap();
    fs::write(bundle.join(GOLDEN_MASK), json).unwrap();
}

/// The digest of the bundle's manifest.
pub(crate) fn digest(bundle: &Path) -> String {
    Manifest::parse(&fs::read(bundle.join(MANIFEST)).unwrap())
        .unwrap()
        .digest
}

/// A daemon that trusts one signer; its configured bundle has counter 1 and finds the bright part.
pub(crate) fn trusting_daemon(port: u16, signer: &Signer, extra: &str) -> Daemon {
    let daemon = Daemon::new(
        port,
        &format!("health_interval_s = 1\n{}{extra}", signer.config_section()),
    );
    signer.sign(&daemon.path().join("bundle"));
    daemon
}

pub(crate) fn install(daemon: &Daemon, bundle: &Path) -> (i32, String) {
    daemon.cli(&["models", "install", bundle.to_str().unwrap()])
}

/// Runs a command that has to succeed; gives what it printed.
pub(crate) fn cli_ok(daemon: &Daemon, arguments: &[&str]) -> String {
    let (code, text) = daemon.cli(arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

/// What `models list` says about the only slot.
pub(crate) fn slot(daemon: &Daemon) -> Value {
    serde_json::from_str(&cli_ok(daemon, &["models", "list", "--json"])).unwrap()
}

/// Asserts that every result has the mask of the model that it names; gives the number of results of each model.
pub(crate) fn count_by_model(site: &Site, bright: &str, dark: &str) -> (usize, usize) {
    let (mut n_bright, mut n_dark) = (0, 0);
    for line in site.payloads.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        let area = report["instances"][0]["area_px"].as_u64().unwrap();
        let model = report["model"]["digest"].as_str().unwrap();
        if area < HALF_PX {
            assert_eq!(model, bright, "{line}");
            n_bright += 1;
        } else {
            assert_eq!(model, dark, "{line}");
            n_dark += 1;
        }
    }
    (n_bright, n_dark)
}
