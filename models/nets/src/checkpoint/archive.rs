//! The zip that `torch.save` writes: `NAME/data.pkl` and each storage as `NAME/data/KEY`, all stored as they are.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::read::ZipReadOptions;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

/// A state dict of thousands of tensors has a hundredth of this.
const PICKLE_MAX_BYTES: u64 = 64 << 20;

pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// What stands before each name.
    prefix: String,
    pub(super) file_bytes: u64,
}

#[derive(Debug)]
pub(super) enum Trouble {
    /// No zip, or one without its end.
    NoZip(ZipError),
    /// A zip of something else; a clause about the file.
    Other(String),
    /// A clause about the file, and what was found.
    Damaged(String, Option<ZipError>),
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        let file = File::open(path).map_err(|source| Trouble::NoZip(source.into()))?;
        let file_bytes = file
            .metadata()
            .map_err(|source| Trouble::NoZip(source.into()))?
            .len();
        let zip = ZipArchive::new(BufReader::new(file)).map_err(Trouble::NoZip)?;
        let names: Vec<String> = zip
            .file_names()
            .filter_map(|name| Some(name.ok()?.into_owned()))
            .collect();
        let prefix = prefix(&names).map_err(Trouble::Other)?.to_owned();
        Ok(Self {
            zip,
            prefix,
            file_bytes,
        })
    }

    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, Trouble> {
        if let Some(bytes) = self.size("data.pkl").filter(|it| *it > PICKLE_MAX_BYTES) {
            return Err(Trouble::Other(format!(
                "its pickle has {bytes} bytes, no state dict needs more than {PICKLE_MAX_BYTES}"
            )));
        }
        self.read("data.pkl")
    }

    /// Whether the machine that wrote the file puts the most significant byte first.
    pub(super) fn is_big_endian(&mut self) -> Result<bool, Trouble> {
        if self.size("byteorder").is_none_or(|bytes| bytes > 16) {
            return Ok(false);
        }
        Ok(self.read("byteorder")? == b"big")
    }

    /// Bytes of an entry, if it is there.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        let index = self.zip.index_for_name(&format!("{}{name}", self.prefix))?;
        Some(self.zip.by_index_data(index).ok()?.size())
    }

    /// A whole entry, compared with its checksum. PyTorch writes 0 for one that it did not count
    /// (`torch.serialization.set_crc32_options`).
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<u8>, Trouble> {
        let name = format!("{}{name}", self.prefix);
        let damaged = |what: &str, source| Trouble::Damaged(format!("{name} {what}"), source);
        let Some(index) = self.zip.index_for_name(&name) else {
            return Err(damaged("is missing in it", None));
        };
        let unreadable = |source| damaged("in it cannot be read", Some(source));
        let entry = self.zip.by_index_data(index).map_err(unreadable)?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(Trouble::Other(format!(
                "it was packed anew with compression ({name}), which torch.save does not use; unpack it and \
                 pack it with `zip -0`"
            )));
        }
        let (size, unchecked) = (entry.size(), entry.crc32() == 0);
        if size > self.file_bytes || size != entry.compressed_size() {
            return Err(damaged("says that it is larger than the file", None));
        }
        let options = ZipReadOptions::new().ignore_crc32(unchecked);
        let mut entry = self
            .zip
            .by_index_with_options(index, options)
            .map_err(unreadable)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        match entry.read_to_end(&mut bytes) {
            Ok(n) if n as u64 == size => Ok(bytes),
            Ok(_) => Err(damaged("in it ends too early", None)),
            Err(source) => Err(damaged(
                "in it is not what was saved",
                Some(ZipError::Io(source)),
            )),
        }
    }
}

/// What stands before `data.pkl`; otherwise what the zip is, as a clause about the file.
fn prefix(names: &[String]) -> Result<&str, String> {
    let prefixes: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('/'))
        .collect();
    let has =
        |prefix: &str, name: &str| names.iter().any(|it| it.strip_prefix(prefix) == Some(name));
    match prefixes[..] {
        [prefix] if has(prefix, "constants.pkl") => Err(
            "it is a TorchScript program; in PyTorch torch.jit.load(..).state_dict() has its weights"
                .to_owned(),
        ),
        [prefix] => Ok(prefix),
        [] => {
            let first: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
            Err(format!(
                "it is a zip that torch.save did not write, without data.pkl ({})",
                first.join(", ")
            ))
        }
        _ => Err(format!(
            "it is a zip with {} checkpoints in it: unpack it",
            prefixes.len()
        )),
    }
}
