//! Installed bundles and which one serves, in `<state>/models/<slot>/`:
//!
//! - `<digest>/`: a version, named by its manifest's digest. It gets the name when all of it is on the
//!   disk and verified, and is never changed after that.
//! - `slot.json`: the [`Record`]. Written aside, flushed and renamed, so that what serves, what served
//!   before and the highest counter change together or not at all.
//! - `.incoming-*` and `.gone-*`: under way in or out; the next start removes them.
//!
//! Only who has the outbox open writes here, and who installs its own `.incoming-*`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use contract::bundle::Bundle;
use contract::signature::{SIGNATURE, TrustedKeys};
use contract::{Manifest, bundle};
use segmenter::infer::alone;
use segmenter::{OpenError, OpenOptions, Segmenter};

use super::ModelsError;
use super::record::{Record, Version};
use crate::config::Config;
use crate::disk::rights::{create_file, create_new_file};
use crate::disk::{self, step};
use crate::failure::chain;

/// The folder of all slots and the rules for what goes in.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    /// Name and configured bundle.
    slots: Vec<(String, PathBuf)>,
    keys: TrustedKeys,
    allow_unsigned: bool,
    half_precision: bool,
    versions_max: usize,
}

/// What lies in a slot's folder.
#[derive(Debug, Default)]
pub(super) struct Installed {
    /// The highest counter first.
    pub(super) versions: Vec<Version>,
    /// Folders whose manifest was changed since.
    pub(super) damaged: Vec<String>,
}

const RECORD: &str = "slot.json";
const INCOMING: &str = ".incoming-";
const GONE: &str = ".gone-";
/// Weights of the largest SAM fit.
const FILE_MAX_BYTES: u64 = 4 << 30;

/// Names one failed step of file handling.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ModelsError + use<> {
    let path = path.to_owned();
    move |source| ModelsError::File {
        action,
        path,
        source,
    }
}

impl Store {
    pub fn new(config: &Config) -> Self {
        let models = &config.models;
        Self {
            folder: config.state.directory.join("models"),
            slots: config
                .slots()
                .map(|(name, bundle)| (name.to_owned(), bundle.clone()))
                .collect(),
            keys: TrustedKeys::parse(&models.trusted_keys)
                .expect("the configuration was validated"),
            allow_unsigned: models.allow_unsigned,
            half_precision: models.half_precision,
            versions_max: models.versions_max,
        }
    }

    pub fn slots(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|(name, _)| &**name)
    }

    pub(super) fn known(&self, slot: &str) -> Result<(), ModelsError> {
        if self.slots().any(|name| name == slot) {
            return Ok(());
        }
        Err(ModelsError::NoSlot {
            slot: slot.to_owned(),
            known: self.slots().collect::<Vec<_>>().join(", "),
        })
    }

    /// Every bundle has to be signed.
    pub(super) fn asks_for_signatures(&self) -> bool {
        !self.keys.is_empty()
    }

    fn slot_folder(&self, slot: &str) -> PathBuf {
        self.folder.join(slot)
    }

    fn create_slot(&self, slot: &str) -> io::Result<()> {
        // One by one: what root makes by hand is the daemon's.
        disk::create_folder(&self.folder)?;
        disk::create_folder(&self.slot_folder(slot))
    }

    /// Makes the folder of a slot and clears away what an earlier run did not end.
    pub(super) fn recover(&self, slot: &str) -> Result<(), ModelsError> {
        let folder = self.slot_folder(slot);
        self.create_slot(slot).map_err(failed("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let path = entry.map_err(failed("read", &folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(INCOMING) || name.starts_with(GONE) {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn record(&self, slot: &str) -> Result<Record, ModelsError> {
        let path = self.slot_folder(slot).join(RECORD);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| ModelsError::Record { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// The one step that changes what serves.
    pub(super) fn write_record(&self, slot: &str, record: &Record) -> Result<(), ModelsError> {
        let folder = self.slot_folder(slot);
        let (path, partial) = (folder.join(RECORD), folder.join(".slot.json.partial"));
        let bytes = serde_json::to_vec_pretty(record).expect("a record is plain data");
        let write = || {
            step();
            let mut file = create_file(&partial)?;
            step();
            file.write_all(&bytes)?;
            step();
            file.sync_all()?;
            step();
            fs::rename(&partial, &path)
        };
        write().map_err(failed("write", &path))?;
        step();
        flush(&folder)
    }

    /// Copies a bundle folder or `.tar` to where `install` takes it up, and gives the name there.
    pub fn stage(&self, slot: &str, source: &Path, unsigned: bool) -> Result<String, ModelsError> {
        self.known(slot)?;
        self.may_install(unsigned)?;
        let (_unpacked, source) = if source.is_file() {
            let (holder, directory) = segmenter::unpack(source)?;
            (Some(holder), directory)
        } else {
            (None, source.to_owned())
        };
        let bundle = self.open_bundle(&source, unsigned)?;
        // Of another process, or of one that died and had the same number.
        let nanos = UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let name = format!("{INCOMING}{}{nanos}", std::process::id());
        let folder = self.slot_folder(slot);
        let target = folder.join(&name);
        let made = self
            .create_slot(slot)
            .and_then(|()| disk::create_folder(&target));
        made.map_err(failed("create", &target))?;
        let signature = (!unsigned).then_some(SIGNATURE);
        let named = bundle.manifest.files.keys().map(String::as_str);
        let copied = [bundle::MANIFEST]
            .into_iter()
            .chain(signature)
            .chain(named)
            .try_for_each(|file| copy(&source.join(file), &target.join(file)))
            .and_then(|()| flush(&target));
        match copied {
            Ok(()) => Ok(name),
            Err(error) => {
                self.unstage(slot, &name);
                Err(error)
            }
        }
    }

    /// What was staged and not installed.
    pub fn unstage(&self, slot: &str, name: &str) {
        if self.known(slot).is_err() || !is_staged(name) {
            return;
        }
        // Gone when it was installed; what cannot be removed goes at the next start.
        let _ = fs::remove_dir_all(self.slot_folder(slot).join(name));
    }

    fn may_install(&self, unsigned: bool) -> Result<(), ModelsError> {
        match (unsigned, self.allow_unsigned, self.keys.is_empty()) {
            (true, false, _) => Err(ModelsError::UnsignedRefused),
            (false, _, true) => Err(ModelsError::NoKey),
            _ => Ok(()),
        }
    }

    fn open_bundle(&self, folder: &Path, unsigned: bool) -> Result<Bundle, ModelsError> {
        Ok(if unsigned {
            Bundle::open(folder)?
        } else {
            Bundle::open_signed(folder, &self.keys)?
        })
    }

    /// Verifies what was staged and gives it its name. False when this version was there already.
    pub(super) fn install(
        &self,
        slot: &str,
        staged: &str,
        unsigned: bool,
    ) -> Result<(Version, bool), ModelsError> {
        self.known(slot)?;
        self.may_install(unsigned)?;
        if !is_staged(staged) {
            return Err(ModelsError::Staged(staged.to_owned()));
        }
        let folder = self.slot_folder(slot);
        let incoming = folder.join(staged);
        let version = Version::of(&self.open_bundle(&incoming, unsigned)?.manifest, false);
        self.record(slot)?.check(slot, &version)?;
        let target = folder.join(&version.digest);
        if target.exists() {
            if self.open_bundle(&target, unsigned).is_ok() {
                return Ok((version, false));
            }
            self.discard(slot, &version)?;
        }
        step();
        fs::rename(&incoming, &target).map_err(failed("name", &incoming))?;
        step();
        flush(&folder)?;
        self.prune(slot, &version)?;
        Ok((version, true))
    }

    /// The oldest versions beyond the limit go, but none that serves, served before or just came.
    fn prune(&self, slot: &str, newest: &Version) -> Result<(), ModelsError> {
        let record = self.record(slot)?;
        let stands = [&record.active, &record.previous].into_iter().flatten();
        let needed: Vec<&str> = stands
            .map(|stand| &*stand.version.digest)
            .chain([&*newest.digest])
            .collect();
        let installed = self.installed(slot)?.versions;
        let excess = installed.len().saturating_sub(self.versions_max);
        let dispensable = installed.iter().rev();
        let dispensable = dispensable.filter(|version| !needed.contains(&&*version.digest));
        for version in dispensable.take(excess) {
            self.discard(slot, version)?;
            tracing::info!(slot, %version, "installed version removed, `models.versions_max` is reached");
        }
        Ok(())
    }

    fn discard(&self, slot: &str, version: &Version) -> Result<(), ModelsError> {
        let folder = self.slot_folder(slot);
        let path = folder.join(&version.digest);
        let gone = folder.join(format!("{GONE}{}", version.digest));
        step();
        fs::rename(&path, &gone)
            .and_then(|()| fs::remove_dir_all(&gone))
            .map_err(failed("remove", &path))
    }

    pub(super) fn installed(&self, slot: &str) -> Result<Installed, ModelsError> {
        let folder = self.slot_folder(slot);
        let mut installed = Installed::default();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(installed),
            entries => entries.map_err(failed("read", &folder))?,
        };
        for entry in entries {
            let path = entry.map_err(failed("read", &folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || !path.is_dir() {
                continue;
            }
            let manifest = fs::read(path.join(bundle::MANIFEST))
                .ok()
                .and_then(|json| Manifest::parse(&json).ok());
            match manifest {
                Some(manifest) if manifest.digest == *name => {
                    installed.versions.push(Version::of(&manifest, false));
                }
                _ => installed.damaged.push(name.into_owned()),
            }
        }
        let key = |version: &Version| (version.counter, version.digest.clone());
        installed
            .versions
            .sort_by_key(|version| std::cmp::Reverse(key(version)));
        Ok(installed)
    }

    /// The newest installed version that never served: above the highest counter.
    pub(super) fn candidate(
        &self,
        slot: &str,
        record: &Record,
    ) -> Result<Option<Version>, ModelsError> {
        let newest = self.installed(slot)?.versions.into_iter().next();
        let floor = record.highest.as_ref().map_or(0, |mark| mark.counter);
        Ok(newest.filter(|version| version.counter > floor))
    }

    /// Verifies a version, loads it and runs its golden pair.
    pub(super) fn open(&self, slot: &str, version: &Version) -> Result<Segmenter, ModelsError> {
        let segmenter = if version.configured {
            self.open_configured(slot)?
        } else {
            let path = self.slot_folder(slot).join(&version.digest);
            let signed = path.join(SIGNATURE).symlink_metadata().is_ok();
            let keys = (signed || !self.allow_unsigned).then_some(&self.keys);
            self.segmenter(&path, keys).map_err(Box::new)?
        };
        if segmenter.manifest().digest != version.digest {
            return Err(ModelsError::Replaced {
                slot: slot.to_owned(),
                version: version.to_string(),
            });
        }
        Ok(segmenter)
    }

    pub(super) fn open_configured(&self, slot: &str) -> Result<Segmenter, ModelsError> {
        self.known(slot)?;
        let found = self.slots.iter().find(|(name, _)| name == slot);
        let (_, path) = found.expect("the slot is known");
        let keys = (!self.keys.is_empty()).then_some(&self.keys);
        let opened = self.segmenter(path, keys);
        opened.map_err(|source| ModelsError::Configured {
            path: path.clone(),
            source: Box::new(source),
        })
    }

    /// Beside what serves: on this thread alone. What half precision moves too far from its golden mask runs in f32.
    fn segmenter(&self, path: &Path, keys: Option<&TrustedKeys>) -> Result<Segmenter, OpenError> {
        let open = |half_precision| {
            let options = OpenOptions {
                keys,
                half_precision,
            };
            alone(|| Segmenter::open_with(path, &options))
        };
        match open(self.half_precision) {
            Err(error @ OpenError::SelfTest { .. }) if self.half_precision => {
                tracing::warn!(error = chain(&error), "in half precision; f32 it is");
                open(false)
            }
            opened => opened,
        }
    }

    pub(super) fn configured_version(segmenter: &Segmenter) -> Version {
        Version::of(segmenter.manifest(), true)
    }
}

/// A name that [`Store::stage`] gave: nothing else below the state directory is ever removed.
fn is_staged(name: &str) -> bool {
    let number = name.strip_prefix(INCOMING).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn copy(from: &Path, to: &Path) -> Result<(), ModelsError> {
    let copy = || {
        step();
        let mut source = io::Read::take(File::open(from)?, FILE_MAX_BYTES);
        let mut target = create_new_file(to)?;
        io::copy(&mut source, &mut target)?;
        step();
        target.sync_all()
    };
    copy().map_err(failed("copy", from))
}

fn flush(folder: &Path) -> Result<(), ModelsError> {
    let flush = || File::open(folder)?.sync_all();
    flush().map_err(failed("flush", folder))
}
