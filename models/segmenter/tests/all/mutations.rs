//! Seeds of tests/fuzz and small objects with bytes changed at random, where no fuzzer can be built:
//! `SCANSIDE_MUTATIONS=1000000 cargo test -p segmenter --test all mutations`.

use std::path::Path;

use segmenter::decode::storage::{TRANSFER_SYNTAXES, instance};
use segmenter::decode::{Attribute, Limits, decode, source, values};

use crate::written::{As, claimed, data_set, element, file};

const LIMITS: Limits = Limits {
    max_pixels_per_frame: 256 * 256,
    max_frames: 8,
    max_bytes: 1 << 20,
    max_time: None,
};

/// Their decoders have tests of their own, and are slow.
const COMPRESSED: [&str; 6] = [".50", ".51", ".57", ".70", ".90", ".91"];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/seeds")
        .join(target);
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Xorshift (Marsaglia 2003): the same mutations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const WORDS: [&[u8]; 14] = [
            &[0; 4],
            &[0xff; 4],
            &[0xfe, 0xff, 0, 0xe0],
            &[0xfe, 0xff, 0x0d, 0xe0],
            &[0xfe, 0xff, 0xdd, 0xe0],
            &[0xff, 0xfe, 0xe0, 0],
            b"UN\0\0",
            b"SQ\0\0",
            b"OB\0\0",
            &[0xe0, 0x7f, 0x10, 0],
            &[0, 0x52, 0x30, 0x92],
            &[0x28, 0, 0, 0x30],
            b"\x1b$B",
            &[8, 0, 5, 0],
        ];
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                bytes.push(0);
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 => {
                    let word = WORDS[self.below(WORDS.len())];
                    let end = (at + word.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&word[..end - at]);
                }
                3 => {
                    let end = (at + 1 + self.below(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
                4 => {
                    let from = self.below(other.len());
                    let to = (from + 1 + self.below(64)).min(other.len());
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
                _ => {
                    let end = (at + 1 + self.below(32)).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        bytes.truncate(4096);
    }
}

fn objects() -> Vec<Vec<u8>> {
    let text = element(As::Implicit, 0x0029_1011, b"", b"text");
    let item = claimed(As::Implicit, 0xfffe_e000, b"", u32::MAX, &text);
    let nested = claimed(As::Explicit, 0x5200_9230, b"UN", u32::MAX, &item.repeat(3));
    [As::Explicit, As::Implicit, As::BigEndian]
        .into_iter()
        .flat_map(|how| {
            [
                data_set(how, &[]),
                data_set(how, &[(0x0029_1010, nested.clone())]),
            ]
        })
        .collect()
}

#[test]
fn mutations_of_small_files_end_in_an_answer() {
    let count = std::env::var("SCANSIDE_MUTATIONS").map_or(20_000, |count| count.parse().unwrap());
    let mut data_sets = objects();
    data_sets.extend(
        seeds("object")
            .into_iter()
            .filter_map(|seed| seed.get(1..).map(<[u8]>::to_vec)),
    );
    let images = seeds("image");
    let native = |uid: &&&str| COMPRESSED.iter().all(|end| !uid.ends_with(end));
    let syntaxes: Vec<&str> = TRANSFER_SYNTAXES.iter().filter(native).copied().collect();
    let asked = [Attribute::by_keyword("PatientName").unwrap()];
    let mut random = Random(0x5ca5_1de5);
    for n in 0..count {
        let syntax = syntaxes[random.below(syntaxes.len())];
        let from = if n % 4 == 0 { &images } else { &data_sets };
        let other = &data_sets[random.below(data_sets.len())];
        let mut bytes = from[random.below(from.len())].clone();
        random.mutate(&mut bytes, other);
        let _ = instance(&bytes, syntax);
        if n % 4 != 0 {
            bytes = file(syntax, &bytes);
        }
        let read = [
            values(&bytes, &LIMITS, &asked)
                .err()
                .map(|error| error.kind()),
            source::read(&bytes, &LIMITS)
                .err()
                .map(|error| error.kind()),
        ];
        for kind in read.into_iter().flatten() {
            assert_ne!(kind, "decoder_panicked", "{n}: {bytes:02x?}");
        }
        match decode(&bytes, &LIMITS) {
            Err(error) => assert_ne!(error.kind(), "decoder_panicked", "{n}: {bytes:02x?}"),
            Ok(scan) => {
                for frame in scan.frames {
                    assert_eq!(frame.data.len(), frame.rows * frame.cols * frame.channels);
                }
            }
        }
    }
}
