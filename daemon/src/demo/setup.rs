//! Where the demo plays: folders, a configuration file like any other, images that arrive.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{DemoError, patient};
use crate::config::Config;
use crate::report::sha256;

const NODE: &str = "demo";
const SOURCE: &str = "inbox";

/// A sent image: its number, and when it came to lie in the inbox.
pub(super) type Sent = (u32, Instant);

/// Digest of each file that was sent.
pub(super) type SentImages = Arc<Mutex<HashMap<String, Sent>>>;

pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) overlays: PathBuf,
    broker: SocketAddr,
}

impl Setup {
    pub(super) fn build(
        directory: Option<PathBuf>,
        bundle: &Path,
        broker: SocketAddr,
    ) -> Result<Self, DemoError> {
        let root = directory.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("scansided-demo-{}", std::process::id()))
        });
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DemoError::Folder { path, source }
        };
        let overlays = root.join("overlays");
        for folder in [&overlays, &root.join(SOURCE)] {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        let bundle = bundle.canonicalize().map_err(failed(bundle))?;
        let text = format!(
            "node = \"{NODE}\"\n[model]\nbundle = \"{}\"\n\
             [state]\ndirectory = \"state\"\nmin_free_bytes = 0\n\
             [[folder]]\nname = \"{SOURCE}\"\ndirectory = \"{SOURCE}\"\nstable_ms = 50\n\
             [mqtt]\nhost = \"{}\"\nport = {}\n",
            bundle.display(),
            broker.ip(),
            broker.port()
        );
        let file = root.join("daemon.toml");
        fs::write(&file, text).map_err(failed(&file))?;
        Ok(Self {
            config: Config {
                // SIGHUP ends the demo with its terminal.
                file: None,
                ..Config::read(&file)?
            },
            overlays,
            broker,
        })
    }

    /// Everything that this node publishes.
    pub(super) fn filter(&self) -> String {
        format!("{}#", self.config.mqtt.root(NODE))
    }

    /// Writes the images one after the other, each complete before it has its name.
    pub(super) fn send(
        &self,
        images: u32,
        sent_images: SentImages,
    ) -> JoinHandle<Result<(), DemoError>> {
        let inbox = self.config.folder[0].directory.clone();
        tokio::task::spawn_blocking(move || {
            for number in 0..images {
                let bytes = patient::dicom(number)?;
                let path = inbox.join(patient::file_name(number));
                let part = path.with_extension("part");
                sent_images
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(sha256(&bytes), (number, Instant::now()));
                fs::write(&part, bytes)
                    .and_then(|()| fs::rename(&part, &path))
                    .map_err(|source| DemoError::Folder { path, source })?;
            }
            Ok(())
        })
    }

    pub(super) fn print_hints(&self, out: &mut impl Write) -> io::Result<()> {
        let (host, port) = (self.broker.ip(), self.broker.port());
        writeln!(out, "\nBroker and daemon go on until Ctrl-C. Listen with")?;
        writeln!(
            out,
            "  mosquitto_sub -h {host} -p {port} -v -t '{}'",
            self.filter()
        )?;
        let inbox = self.config.folder[0].directory.display();
        writeln!(
            out,
            "and put a PNG, JPEG, TIFF or DICOM file into\n  {inbox}"
        )?;
        out.flush()
    }
}

/// The int8 bundle of the repository that this program was built from, another one when there is none.
pub(super) fn shipped_bundle() -> Result<PathBuf, DemoError> {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("models")
        .join("zoo");
    let mut found = bundles(&zoo);
    found.sort_by_key(|(is_int8, path)| (!is_int8, path.clone()));
    let first = found.into_iter().next().map(|(_, path)| path);
    first.ok_or(DemoError::NoBundle(zoo))
}

/// Folders with a manifest, one or two levels down; true for int8.
fn bundles(folder: &Path) -> Vec<(bool, PathBuf)> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        // A folder that cannot be read holds no bundle that could be used.
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let children = below(folder);
    let folders = children
        .iter()
        .flat_map(|child| below(child))
        .chain(children.clone());
    folders
        .filter_map(|path| {
            let text = fs::read(path.join(contract::bundle::MANIFEST)).ok()?;
            let manifest: Value = serde_json::from_slice(&text).ok()?;
            Some((manifest["precision"] == "int8", path))
        })
        .collect()
}
