//! Signed bundles of two kinds, and a box that trusts who signed them.

use std::fs;
use std::path::{Path, PathBuf};

use contract::bundle::{ClassMask, GOLDEN_MASK, MANIFEST, file_digest};
use contract::signature::SIGNATURE;
use contract::{LabelMap, Manifest};
use minisign::KeyPair;
use serde_json::Value;

use crate::sample_bundle;
use crate::site::Site;
use crate::station::Station;

/// Sides of the images that a station drops: the bright part is the smaller one.
const HALF_PX: u64 = 40 * 40 / 2;
pub(crate) const GRAPH: &str = "model.onnx";

/// Who signs.
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

    /// Version `<counter>.0.0`; one that is inverted finds what is dark.
    pub(crate) fn bundle(&self, folder: &Path, counter: u64, inverted: bool) -> PathBuf {
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

    pub(crate) fn section(&self) -> String {
        format!("[models]\ntrusted_keys = [\"{}\"]\n", self.0.pk.to_base64())
    }
}

/// Changes the sign of weights and biases, and expects the rest of the golden image.
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

pub(crate) fn digest(bundle: &Path) -> String {
    Manifest::parse(&fs::read(bundle.join(MANIFEST)).unwrap())
        .unwrap()
        .digest
}

/// A box that trusts one signer, whose configured bundle has counter 1 and finds what is bright.
pub(crate) fn station(port: u16, signer: &Signer, extra: &str) -> Station {
    let station = Station::new(
        port,
        &format!("health_interval_s = 1\n{}{extra}", signer.section()),
    );
    signer.sign(&station.path().join("bundle"));
    station
}

pub(crate) fn install(station: &Station, bundle: &Path) -> (i32, String) {
    station.ask(&["models", "install", bundle.to_str().unwrap()])
}

pub(crate) fn must(station: &Station, arguments: &[&str]) -> String {
    let (code, text) = station.ask(arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

pub(crate) fn slot(station: &Station) -> Value {
    serde_json::from_str(&must(station, &["models", "list", "--json"])).unwrap()
}

/// Every result has the mask of the model that it names.
pub(crate) fn right_models(site: &Site, bright: &str, dark: &str) -> (usize, usize) {
    let (mut n_bright, mut n_dark) = (0, 0);
    for line in site.lines.lock().unwrap().iter() {
        let report: Value = serde_json::from_str(line).unwrap();
        let area = report["instances"][0]["area_px"].as_u64().unwrap();
        let named = report["model"]["digest"].as_str().unwrap();
        if area < HALF_PX {
            assert_eq!(named, bright, "{line}");
            n_bright += 1;
        } else {
            assert_eq!(named, dark, "{line}");
            n_dark += 1;
        }
    }
    (n_bright, n_dark)
}
