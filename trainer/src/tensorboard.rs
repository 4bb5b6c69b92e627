//! A run's curves for TensorBoard: scalars in an event file under `RUN/log`.
//!
//! The file is a sequence of records, each: length of the data (u64), masked CRC32C of the length's
//! eight bytes (u32), data, masked CRC32C of the data (u32), all little endian. The data are `Event`
//! protobufs, the first of which names the version. Only the fields that scalars need are declared;
//! numbers as in <https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto>
//! (`event.proto`, `summary.proto`).

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::{Message, Oneof};

/// The format with session logs, which let a resumed run take back what it will do again.
const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

static CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// An open event file. Records are written one by one and whole, so a reader may look on.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts another file in `folder`, for the events after optimizer step `step`. TensorBoard reads
    /// all files of a folder in the order of their names, which begin with the time, and forgets what
    /// an earlier one has after `step`: that is from after the checkpoint and comes again.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let now = since_1970();
        let path = folder.join(format!(
            "events.out.tfevents.{:010}.{:09}.scanside",
            now.as_secs(),
            now.subsec_nanos()
        ));
        let file =
            File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut events = Self { path, file };
        events.append(0, What::FileVersion(FILE_VERSION.to_owned()))?;
        events.append(step + 1, What::SessionLog(SessionLog { status: START }))?;
        Ok(events)
    }

    /// Values by tag after optimizer step `step`.
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        scalars: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> Result<()> {
        let values = scalars
            .into_iter()
            .map(|(tag, simple_value)| SummaryValue {
                tag: tag.to_owned(),
                simple_value: Some(simple_value),
            })
            .collect();
        self.append(step, What::Summary(Summary { values }))
    }

    fn append(&mut self, step: u64, what: What) -> Result<()> {
        let event = Event {
            wall_time: since_1970().as_secs_f64(),
            step: step as i64,
            what: Some(what),
        };
        self.file
            .write_all(&record(&event.encode_to_vec()))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The tag of a part of the loss, as the reference names the two that it has.
pub fn loss_tag(part: &str) -> String {
    let part = match part {
        "cross_entropy" => "ce",
        other => other,
    };
    format!("info/loss_{part}")
}

/// A clock that is set before 1970 stands still; the curves' steps are right all the same.
fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// The checksum of data that hold checksums themselves would be of no use, so TFRecord changes it.
fn masked_crc(data: &[u8]) -> u32 {
    const MASK: u32 = 0xa282_ead8;
    CRC32C.checksum(data).rotate_right(15).wrapping_add(MASK)
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    /// One of several kinds of values upstream: written even when it is 0.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC32C bit by bit, independent of the crate.
    fn slow_crc(data: &[u8]) -> u32 {
        !data.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
            })
        })
    }

    fn slow_masked(data: &[u8]) -> [u8; 4] {
        slow_crc(data)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
            .to_le_bytes()
    }

    fn events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (length, tail) = rest.split_at(8);
            assert_eq!(tail[..4], slow_masked(length));
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (data, tail) = tail[4..].split_at(length);
            assert_eq!(tail[..4], slow_masked(data));
            events.push(Event::decode(data).unwrap());
            rest = &tail[4..];
        }
        events
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut file = EventFile::create(&log, 0).unwrap();
        file.scalars(1, [("info/lr", 0.5), ("info/total_loss", 0.0)])
            .unwrap();
        file.scalars(2, [("eval/dice", 0.25)]).unwrap();

        let events = events(&files(&log)[0]);
        assert!(events.iter().all(|event| event.wall_time > 1.6e9));
        let steps: Vec<i64> = events.iter().map(|event| event.step).collect();
        assert_eq!(steps, [0, 1, 1, 2]);
        let what: Vec<What> = events.into_iter().filter_map(|event| event.what).collect();
        let value = |tag: &str, value| SummaryValue {
            tag: tag.to_owned(),
            simple_value: Some(value),
        };
        let summary = |values| What::Summary(Summary { values });
        let expected = [
            What::FileVersion("brain.Event:2".to_owned()),
            What::SessionLog(SessionLog { status: 1 }),
            summary(vec![value("info/lr", 0.5), value("info/total_loss", 0.0)]),
            summary(vec![value("eval/dice", 0.25)]),
        ];
        assert_eq!(what, expected);
    }

    #[test]
    fn a_file_begins_as_those_of_tensorflow() {
        let folder = tempfile::tempdir().unwrap();
        EventFile::create(folder.path(), 0).unwrap();
        let bytes = std::fs::read(&files(folder.path())[0]).unwrap();
        // The length of the version's event and its checksum, then the tag of `wall_time`.
        let start = *b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\x09";
        assert_eq!(bytes[..13], start);
    }

    #[test]
    fn checksums_are_castagnoli_s() {
        // https://reveng.sourceforge.io/crc-catalogue/17plus.htm#crc.cat.crc-32-iscsi
        assert_eq!(CRC32C.checksum(b"123456789"), 0xe306_9283);
        assert_eq!(slow_crc(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_resumed_run_adds_a_file_that_takes_later_steps_back() {
        let folder = tempfile::tempdir().unwrap();
        EventFile::create(folder.path(), 0).unwrap();
        EventFile::create(folder.path(), 4).unwrap();
        let files = files(folder.path());
        assert_eq!(files.len(), 2);
        let restart = &events(&files[1])[1];
        assert_eq!(restart.step, 5, "TensorBoard forgets this step and later");
        let start = What::SessionLog(SessionLog { status: START });
        assert_eq!(restart.what, Some(start));
    }
}
