use segmenter::decode::{Attribute, KeywordError, Limits, decode, values};

use crate::decode::small_dicom;

#[test]
fn attributes_are_read_without_the_pixels() {
    let named = |keyword| Attribute::by_keyword(keyword).unwrap();
    let asked = ["Modality", "SeriesDescription", "Rows", "ImageType"].map(named);
    let file = small_dicom(&[(0x0008_0008, b"CS", b"ORIGINAL\\PRIMARY ".to_vec())]);
    let whole = values(&file, &Limits::STANDARD, &asked).unwrap().unwrap();
    let expected: [&[&str]; 4] = [&["MR"], &[], &["2"], &["ORIGINAL", "PRIMARY"]];
    assert_eq!(whole, expected);
    // Cut within the pixels, which are not looked at.
    let cut = values(&file[..file.len() - 4], &Limits::STANDARD, &asked);
    assert_eq!(cut.unwrap().unwrap(), expected);
    let early = values(&file[..200], &Limits::STANDARD, &asked).unwrap_err();
    assert_eq!(early.kind(), "truncated");
    assert_eq!(values(b"GIF89a", &Limits::STANDARD, &asked), Ok(None));
    for (keyword, expected) in [
        ("Modalty", KeywordError::Unknown),
        ("PixelData", KeywordError::Elsewhere),
        ("TransferSyntaxUID", KeywordError::Elsewhere),
        ("ReferencedImageSequence", KeywordError::NoText),
    ] {
        assert_eq!(Attribute::by_keyword(keyword), Err(expected));
    }
}

/// Found by tests/fuzz, when the parser behind the walk took the rest of such a value for a header of 4 GiB.
#[test]
fn a_value_that_ends_within_a_number_hides_no_header() {
    let refusal = |bytes: &[u8]| decode(bytes, &Limits::STANDARD).err().unwrap().kind();
    let header = [0, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff];
    // Implicit VR: a group length of 42 bytes, the last two of them the beginning of such a header.
    let mut implicit = [&[8, 0, 0, 0, 42, 0, 0, 0][..], &[0; 40], &header].concat();
    implicit.extend([0xff; 10]);
    assert_eq!(refusal(&implicit), "malformed");
    let explicit = small_dicom(&[(0x0028_9001, b"UL", vec![1; 6])]);
    assert!(decode(&explicit, &Limits::STANDARD).is_ok());
}
