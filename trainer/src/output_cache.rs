//! Outputs of a frozen network on disk: one fixed-size record of f32 an image (embedding, then logits), written
//! once, read memory-mapped. The file's length says how many records are done, so filling it can be resumed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// What the records depend on; another key makes the cache worthless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    pub weights_digest: String,
    pub data_fingerprint: String,
    /// Input rules and augmentation.
    pub preparation_digest: String,
    pub seed: u64,
    pub n_records: usize,
    /// Channels, height, width.
    pub embedding: [usize; 3],
    /// Classes, height, width; zeros where only the embedding is kept.
    pub logits: [usize; 3],
}

impl Key {
    fn embedding_len(&self) -> usize {
        self.embedding.iter().product()
    }

    fn record_len(&self) -> usize {
        self.embedding_len() + self.logits.iter().product::<usize>()
    }
}

pub struct OutputCache {
    key: Key,
    map: Mmap,
}

impl OutputCache {
    /// Opens the cache under `folder`, computing the records that are missing with
    /// `compute(index) -> (embedding, logits)`. `advance` is called after each record.
    pub fn fill(
        folder: &Path,
        key: Key,
        mut compute: impl FnMut(usize) -> Result<(Tensor, Tensor)>,
        mut advance: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let (key_path, path) = (folder.join("key.json"), folder.join("records.f32"));
        let same = std::fs::read_to_string(&key_path)
            .ok()
            .and_then(|text| serde_json::from_str::<Key>(&text).ok())
            .is_some_and(|old| old == key);
        if !same {
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            std::fs::write(&key_path, serde_json::to_string_pretty(&key)?)?;
        }
        let record_bytes = key.record_len() * 4;
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        let done = file.metadata()?.len() as usize / record_bytes;
        file.set_len((done * record_bytes) as u64)?;
        for index in done..key.n_records {
            let (embedding, logits) = compute(index)?;
            let mut bytes = Vec::with_capacity(record_bytes);
            for tensor in [embedding, logits] {
                for value in tensor.flatten_all()?.to_vec1::<f32>()? {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
            }
            if bytes.len() != record_bytes {
                bail!("output of {} bytes, expected {record_bytes}", bytes.len());
            }
            file.write_all(&bytes)
                .with_context(|| format!("cannot write {}", path.display()))?;
            advance(index + 1)?;
        }
        file.sync_all()?;
        let file = File::open(&path)?;
        #[expect(unsafe_code, reason = "the only way to map a file")]
        // SAFETY: the run folder belongs to this process; the file is complete and no longer written.
        let map = unsafe { Mmap::map(&file) }?;
        ensure!(
            map.len() == record_bytes * key.n_records,
            "{} was changed",
            path.display()
        );
        Ok(Self { key, map })
    }

    /// Embeddings (B, C, h, w) and logits (B, classes, H, W) of some records.
    pub fn batch(&self, indices: &[usize]) -> Result<(Tensor, Tensor)> {
        let (mut embeddings, mut logits) = (Vec::new(), Vec::new());
        for &index in indices {
            let bytes = self.key.record_len() * 4;
            let record = &self.map[index * bytes..(index + 1) * bytes];
            let mut values = record
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four bytes")));
            embeddings.extend(values.by_ref().take(self.key.embedding_len()));
            logits.extend(values);
        }
        let n = indices.len();
        let ([c, h, w], [k, y, x]) = (self.key.embedding, self.key.logits);
        Ok((
            Tensor::from_vec(embeddings, (n, c, h, w), &Device::Cpu)?,
            Tensor::from_vec(logits, (n, k, y, x), &Device::Cpu)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n_records: usize) -> Key {
        Key {
            weights_digest: "t".into(),
            data_fingerprint: "d".into(),
            preparation_digest: "p".into(),
            seed: 1,
            n_records,
            embedding: [2, 1, 1],
            logits: [1, 2, 2],
        }
    }

    fn record(index: usize) -> Result<(Tensor, Tensor)> {
        let value = index as f32;
        Ok((
            Tensor::full(value, (2, 1, 1), &Device::Cpu)?,
            Tensor::full(-value, (1, 2, 2), &Device::Cpu)?,
        ))
    }

    #[test]
    fn an_interrupted_fill_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let stop = OutputCache::fill(folder.path(), key(4), record, |done| {
            ensure!(done < 2, "interrupted");
            Ok(())
        });
        assert!(stop.is_err());
        let mut computed = Vec::new();
        let cache = OutputCache::fill(
            folder.path(),
            key(4),
            |index| {
                computed.push(index);
                record(index)
            },
            |_| Ok(()),
        )
        .unwrap();
        assert_eq!(computed, [2, 3]);
        let (embeddings, logits) = cache.batch(&[3, 1]).unwrap();
        assert_eq!(
            embeddings.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [3., 3., 1., 1.]
        );
        assert_eq!(logits.dims(), [2, 1, 2, 2]);
    }

    #[test]
    fn another_key_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        OutputCache::fill(folder.path(), key(2), record, |_| Ok(())).unwrap();
        let mut other = key(2);
        other.seed = 2;
        let mut n_computed = 0;
        let count = |index| {
            n_computed += 1;
            record(index)
        };
        OutputCache::fill(folder.path(), other, count, |_| Ok(())).unwrap();
        assert_eq!(n_computed, 2);
    }
}
