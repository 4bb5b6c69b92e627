//! Counts of a mask of 1 to 256 rows and columns.
#![no_main]

use contract::LabelMap;
use contract::mask::Rle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [rows, cols, counts @ ..] = bytes else { return };
    let Ok(counts) = std::str::from_utf8(counts) else { return };
    let size = [usize::from(*rows) + 1, usize::from(*cols) + 1];
    let rle = Rle { size, counts: counts.to_owned() };
    let mut labels = LabelMap::new(size[0], size[1]);
    let untouched = labels.clone();
    if rle.paint(&mut labels, 1).is_err() {
        assert!(labels == untouched, "nothing is painted on error");
        return;
    }
    let mut again = LabelMap::new(size[0], size[1]);
    labels.rle(1).paint(&mut again, 1).expect("our own counts");
    assert!(again == labels);
});
