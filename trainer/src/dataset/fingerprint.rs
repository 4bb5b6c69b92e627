//! What the fingerprint of a data set has of a file: its content, and how pixels come out of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use segmenter::decode::orientation::{Orientation, orientation};
use sha2::{Digest, Sha256};

use super::doubt;
use super::entry::{Entry, holds_volume};
use super::volume::{Cut, Fit};

/// Files that were read already.
#[derive(Default)]
pub(super) struct Files {
    hashes: HashMap<PathBuf, String>,
    orders: HashMap<Cut, String>,
}

impl Files {
    pub(super) fn has(&self, path: &Path) -> bool {
        self.hashes.contains_key(path)
    }

    /// Hex SHA-256 of a file, with the EXIF orientation in which it is read.
    pub(super) fn hash(&mut self, path: &Path) -> Result<String> {
        if let Some(hash) = self.hashes.get(path) {
            return Ok(hash.clone());
        }
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut hash = hex::encode(Sha256::digest(&bytes));
        let turned = orientation(&bytes);
        if turned != Orientation::NoTransforms {
            hash = format!("{hash}@exif{}", turned.to_exif());
        }
        self.hashes.insert(path.to_owned(), hash.clone());
        Ok(hash)
    }

    /// The image's hash with the slice, and with the order of its voxels where it is not the file's.
    pub(super) fn image(&mut self, entry: &Entry) -> Result<String> {
        // Padded, so that slices of a volume stay in order.
        let slice = entry
            .slice
            .map_or_else(String::new, |slice| format!("#{slice:05}"));
        let hash = self.hash(&entry.image)?;
        Ok(hash + &slice + &self.order(entry)?)
    }

    /// Checks on the way that labels lie on the image's grid, and says what is doubtful about it.
    fn order(&mut self, entry: &Entry) -> Result<String> {
        if !holds_volume(entry) {
            return Ok(String::new());
        }
        let cut = Cut::of(entry);
        if let Some(order) = self.orders.get(&cut) {
            return Ok(order.clone());
        }
        let fit = Fit::read(&cut)?;
        for (doubts, path) in fit.doubts().into_iter().zip([&cut.image, &cut.labels]) {
            doubt::say(doubts, path, None);
        }
        let order = if fit.image_order.is_file_order() {
            String::new()
        } else {
            format!("@{}", fit.image_order)
        };
        self.orders.insert(cut, order.clone());
        Ok(order)
    }
}
