//! Text that a segmentation copies, in the character set of the data set or of the item it stands in.

use segmenter::decode::source::{self, Source};
use segmenter::decode::{Attribute, Limits, values};

use crate::written::{As, EXPLICIT, data_set, element, file, item};

const CHARSET: u32 = 0x0008_0005;
const NAME: u32 = 0x0010_0010;
const STUDY: u32 = 0x0008_1030;
const METHODS: u32 = 0x0012_0064;
const YAMADA: &[u8] = b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B";

fn image(changed: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let changed: Vec<(u32, Vec<u8>)> = changed
        .iter()
        .map(|(tag, vr, value)| (*tag, element(As::Explicit, *tag, vr, value)))
        .collect();
    file(EXPLICIT, &data_set(As::Explicit, &changed))
}

fn read(bytes: &[u8]) -> Source {
    source::read(bytes, &Limits::STANDARD).unwrap().unwrap()
}

fn copied(source: &Source, tag: u32) -> Option<&str> {
    let value = source.copied.iter().find(|copied| copied.0 == tag)?;
    Some(&value.1)
}

#[test]
fn every_copied_text_is_decoded() {
    let with = |tag| (tag, &b"LO"[..], YAMADA);
    let bytes = image(&[
        (CHARSET, b"CS", b"\\ISO 2022 IR 87 "),
        with(STUDY),
        with(NAME),
        with(0x0008_0090),
        with(0x0012_0063),
        with(0x0012_0031),
        with(0x0020_0010),
    ]);
    let source = read(&bytes);
    for tag in [
        STUDY,
        NAME,
        0x0008_0090,
        0x0012_0063,
        0x0012_0031,
        0x0020_0010,
    ] {
        assert_eq!(copied(&source, tag), Some("山田^太郎"), "{tag:08x}");
    }
    assert!(source::doubts(&bytes, &Limits::STANDARD).is_empty());
    let asked = [Attribute::by_keyword("StudyDescription").unwrap()];
    let found = values(&bytes, &Limits::STANDARD, &asked).unwrap().unwrap();
    assert_eq!(found, [["山田^太郎"]]);
}

#[test]
fn codes_have_the_character_set_of_their_item() {
    let code = |charset: &[u8], meaning: &[u8]| {
        let set = match charset {
            b"" => Vec::new(),
            _ => element(As::Explicit, CHARSET, b"CS", charset),
        };
        let words = [
            element(As::Explicit, 0x0008_0100, b"SH", b"113100"),
            element(As::Explicit, 0x0008_0102, b"SH", b"DCM "),
            element(As::Explicit, 0x0008_0104, b"LO", meaning),
        ];
        item(&[set, words.concat()].concat())
    };
    let items = [code(b"", YAMADA), code(b"ISO_IR 192", "小东".as_bytes())].concat();
    let source = read(&image(&[
        (CHARSET, b"CS", b"\\ISO 2022 IR 87 "),
        (METHODS, b"SQ", &items),
    ]));
    let meanings: Vec<&str> = source.deidentified.iter().map(|code| &*code[2]).collect();
    assert_eq!(meanings, ["山田^太郎", "小东"]);
}

#[test]
fn text_that_cannot_be_told_is_left_out_and_said() {
    let doubts = |set: &[u8], name: &[u8]| -> (Option<String>, Vec<String>) {
        let bytes = image(&[(CHARSET, b"CS", set), (NAME, b"PN", name)]);
        let source = read(&bytes);
        let name = copied(&source, NAME).map(str::to_owned);
        // The rest of the patient is there.
        assert_eq!(copied(&source, 0x0010_0020), Some("T-0302"));
        (name, source::doubts(&bytes, &Limits::STANDARD))
    };
    let (name, words) = doubts(b"KLINGON ", b"M\xfcller");
    assert_eq!(name, None);
    assert_eq!(words.len(), 1);
    assert!(
        words[0].contains("(0010,0010) PatientName is left out"),
        "{words:?}"
    );
    assert!(words[0].contains("SpecificCharacterSet"), "{words:?}");
    assert!(!words[0].contains("ller"), "{words:?}");
    let (name, words) = doubts(b"ISO_IR 6", b"M\xfcller");
    assert_eq!(name.as_deref(), Some("Müller"));
    assert!(words[0].contains("(0010,0010) PatientName"), "{words:?}");
    assert_eq!(doubts(b"ISO_IR 100", b"M\xfcller").1, [""; 0]);
}
