//! A manifest, and the same bytes as a bundle's archive.
#![no_main]

use contract::Manifest;
use segmenter::Segmenter;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(Manifest::parse(manifest.to_json().as_bytes()).ok(), Some(manifest));
    }
    // In memory where there is such a place: a million files.
    let folder = if std::path::Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" };
    let path = format!("{folder}/scanside-fuzz-{}.tar", std::process::id());
    std::fs::write(&path, bytes).expect("the folder is writable");
    assert!(Segmenter::open(path.as_ref()).is_err(), "no such bundle was signed off");
});
